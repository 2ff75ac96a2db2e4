"""Providers whose claims are not true, whose plugin is broken, and whose catalogue misleads the planner."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.errors import Unsupported
from anyscale_core.hookspecs import Provider
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Instance, InstanceSpec, Offering, Outcome
from anyscale_core.models.networking import Endpoint, EndpointSpec, Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import Machine


class Without(ReferenceKit):
    """A kit whose provider does not declare a capability."""

    absent: ClassVar[frozenset[str]] = frozenset()

    def provider(self) -> Provider:
        provider = super().provider()
        claims = attrs.evolve(
            provider.capabilities,
            supported=provider.capabilities.supported - self.absent,
            unsupported=dict.fromkeys(self.absent, "it is left out"),
        )
        return attrs.evolve(provider, capabilities=claims)

    def claims(self) -> Capabilities:
        """Return what is declared."""
        return self.provider().capabilities


@mutant("SPOT is not declared, and asking for it makes an instance all the same.", caught_by=("K-CAP-04",))
class SilentlyDoesIt(Without):
    absent = frozenset({"cluster.spot"})


@mutant("Signed URLs are not declared, and asking for one is refused by another name.", caught_by=("K-CAP-04",))
class RefusesByAnotherName(Without):
    absent = frozenset({"storage.signed_urls"})

    class Storage(FakeStorageDriver):
        def signed_url(self, *args: Any, **fields: Any) -> Secret[str]:
            raise Unsupported("no signed URLs", reason="urls")


@mutant("Making networks is not declared; it is refused once the network is made.", caught_by=("K-CAP-04",))
class RefusesAfterwards(Without):
    absent = frozenset({"networking.create"})

    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            super().create(spec, owner=owner, token=token, deadline=deadline)
            raise Unsupported("no networks are made here", reason="networking.create")


@mutant("SPOT is declared, and instances are bought on demand.", caught_by=("K-CAP-05",))
class SpotIsOnDemand(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            from anyscale_core.models.cluster import MarketType

            return super()._launch(attrs.evolve(spec, market_type=MarketType.ON_DEMAND))


@mutant("A core capability is not declared.", caught_by=("K-CAP-03",))
class CoreIsMissing(Without):
    absent = frozenset({"cluster.batch"})


@mutant("What is declared changes from one call to the next.", caught_by=("K-CAP-01", "K-CAP-02"))
class ClaimsWaver(ReferenceKit):
    asked = 0

    def provider(self) -> Provider:
        type(self).asked += 1
        provider = super().provider()
        claims = provider.capabilities
        kept = claims.supported - ({"cluster.quotas"} if type(self).asked % 2 else set())
        return attrs.evolve(provider, capabilities=attrs.evolve(claims, supported=kept))


@mutant("The contract range has no upper end.", caught_by=("K-VER-01",))
class ForAnyContract(ReferenceKit):
    def provider(self) -> Provider:
        return attrs.evolve(super().provider(), contract=">=1.0")


@mutant("The catalogue comes in another order each time.", caught_by=("P-01",))
class CatalogueInAnyOrder(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
            found = super().offerings(deadline=deadline)
            turn = self._cloud.serial()
            cheap = min(offering.price_per_hour for offering in found)
            return tuple(attrs.evolve(o, price_per_hour=cheap + (turn * 7 + n * 3) % 11) for n, o in enumerate(found))


@mutant("Reading the catalogue reserves what it shows.", caught_by=("P-02", "X-PRIV-05"))
class CatalogueReserves(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
            self._call("create", lambda: None, deadline=deadline)
            return super().offerings(deadline=deadline)


@mutant("A batch of two makes one instance and tells of two.", caught_by=("P-03", "X-IDEM-01"))
class MakesFewer(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            if len(specs) == 1:
                return super().create(specs, token=token, deadline=deadline)
            return super().create(specs[:1], token=token, deadline=deadline) * len(specs)


@mutant("The list forgets which node an instance was made for, and calls it by its id.", caught_by=("P-04", "X-EC-01"))
class ListsByOtherNames(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            return tuple(attrs.evolve(i, name=str(i.id), node_id=None) for i in super().list(owner, deadline=deadline))


@mutant("A delete of some takes all of the owner's.", caught_by=("X-LEAK-01", "X-PAGE-02"))
class DeletesAll(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(self, ids: Any, *, owner: Owner, deadline: datetime) -> Mapping[Any, Any]:
            every = [i.id for i in super().list(owner, deadline=deadline)]
            answer = super().delete([*ids, *every], owner=owner, deadline=deadline)
            return {id: answer[id] for id in ids}


@mutant("An endpoint loses its owner's cluster when it is moved.", caught_by=("X-OWN-05",))
class MoveDropsTheOwner(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
            there = any(way.spec.name == spec.name for way in self._cloud.endpoints.values())
            made = super().expose(spec, token=token, deadline=deadline)
            for way in self._cloud.endpoints.values():
                if there and way.spec.name == spec.name:
                    way.spec = attrs.evolve(way.spec, owner=attrs.evolve(way.spec.owner, cluster=None))
            return made


@mutant("The plugin loads a module of an SDK when it is imported, and looks a host up.", caught_by=("K-LOAD-01",))
class LooksUpAtImport(ReferenceKit):
    def plugin(self) -> str:
        return "anyscale_conformance.mutants.plugins.eager"


@mutant("Importing the plugin takes seconds.", caught_by=("K-LOAD-02",))
class SlowToImport(ReferenceKit):
    def plugin(self) -> str:
        return "anyscale_conformance.mutants.plugins.slow"


@mutant("The plugin's provider has another name than its entry point.", caught_by=("K-LOAD-03",))
class AnotherName(ReferenceKit):
    def plugin(self) -> str:
        return "anyscale_conformance.mutants.plugins.renamed"


@mutant("What the package declares is not what the provider declares at run time.", caught_by=("K-CAP-02",))
class DeclaresLess(ReferenceKit):
    def plugin(self) -> str:
        return "anyscale_conformance.mutants.plugins.modest"


@mutant("Offerings have prices that no JSON can hold.", caught_by=("K-MOD-01",))
class PriceIsInfinite(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
            return tuple(
                attrs.evolve(each, price_per_hour=float("inf")) for each in super().offerings(deadline=deadline)
            )


@mutant(
    "Deleting one instance of a cluster ends its namesakes' neighbours: the lowest id goes, too.", caught_by=("P-06",)
)
class TakesAnotherAlong(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            found = super().list(owner, deadline=deadline)
            if len(found) > 1 and self._cloud.serial() % 2:
                self._cloud.kill(found[0].name)
            return found


@mutant("The catalogue offers what was asked for in a zone that is not there.", caught_by=("P-08",))
class SellsAnywhere(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
            found = super().offerings(deadline=deadline)
            turn = self._cloud.serial()
            return tuple(attrs.evolve(each, zone=f"{each.zone}-{turn}") for each in found)


@mutant("Others' things are deleted along with ours when a list was taken before.", caught_by=("X-LEAK-05",))
class SweepsTheNeighbour(ReferenceKit):
    class Storage(FakeStorageDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Any:
            answer = super().delete(name, owner=owner, deadline=deadline)
            for other in list(self._cloud.buckets):
                if self._cloud.buckets[other].bucket.owner.plane != owner.plane:
                    del self._cloud.buckets[other]
            return answer
