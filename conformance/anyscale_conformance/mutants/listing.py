"""Providers whose lists lie, whose threads meet, and who do not keep to themselves."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.errors import InvalidRequest, Unsupported
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Instance, InstanceSpec, Offering, Outcome
from anyscale_core.models.networking import Endpoint, EndpointSpec, Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.testing.driver import FakeDriver, Page
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import Machine

logger = logging.getLogger(__name__)


class Paging(FakeDriver):
    """A driver that goes through pages in a way of its own."""

    def _pages(self, shown: Any, *, deadline: datetime, owner: Owner) -> Any:
        out: list[Any] = []
        after: str | None = ""
        while after is not None:
            page = self.page(shown, after, deadline=deadline, owner=owner)
            out, after = self.joined(out, page, after)
        return tuple(out)

    def page(self, shown: Any, after: str, *, deadline: datetime, owner: Owner) -> Page[Any]:
        """Return one page."""
        found: Page[Any] = self._call("list", lambda: self._page(shown, after), deadline=deadline, owner=owner)
        return found

    def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
        """Return all so far, and the token to go on with; None to end."""
        raise NotImplementedError


@mutant("The first page is taken for the list.", caught_by=("X-PAGE-01", "X-PAGE-02"))
class FirstPageOnly(ReferenceKit):
    class Cluster(Paging, FakeClusterDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *page.items], None


@mutant("The last of a page comes again as the first of the next.", caught_by=("X-PAGE-02",))
class TwiceAtTheBorder(ReferenceKit):
    class Storage(Paging, FakeStorageDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *out[-1:], *page.items], page.next


@mutant("An error after the first page ends the list, and what there is comes back.", caught_by=("X-PAGE-03",))
class HalfAList(ReferenceKit):
    class Networking(Paging, FakeNetworkingDriver):
        def page(self, shown: Any, after: str, *, deadline: datetime, owner: Owner) -> Page[Any]:
            try:
                return super().page(shown, after, deadline=deadline, owner=owner)
            except Exception:
                if not after:
                    raise
                return Page(items=(), next=None)

        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *page.items], page.next


@mutant("A page token that repeats itself is followed for ever.", caught_by=("X-PAGE-04",))
class FollowsForEver(ReferenceKit):
    class Identity(Paging, FakeIdentityDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            return [*out, *page.items], page.next


@mutant("A page token that has expired ends the list.", caught_by=("X-PAGE-04",))
class ExpiredIsTheEnd(ReferenceKit):
    class Cluster(Paging, FakeClusterDriver):
        def page(self, shown: Any, after: str, *, deadline: datetime, owner: Owner) -> Page[Any]:
            try:
                return super().page(shown, after, deadline=deadline, owner=owner)
            except InvalidRequest:
                return Page(items=(), next=None)

        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            if page.next is not None and page.next <= after:
                raise InvalidRequest("the page token leads nowhere")
            return [*out, *page.items], page.next


@mutant("Pages go by number, so what is deleted meanwhile hides something else.", caught_by=("X-PAGE-05",))
class PagesByNumber(ReferenceKit):
    class Storage(FakeStorageDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            size, out = self._cloud.page_size, list[Bucket]()

            def act() -> tuple[tuple[Bucket, ...], bool]:
                every = sorted((s.bucket for s in self._cloud.buckets.values() if owner.owns(s.bucket.owner.tags())),
                               key=lambda bucket: bucket.name)  # fmt: skip
                return tuple(every[len(out) : len(out) + size]), len(every) > len(out) + size

            more = True
            while more:
                page, more = self._call("list", act, deadline=deadline, owner=owner)
                out += page
            return tuple(out)


@mutant("Each thing of a list is got once more.", caught_by=("X-PAGE-06",))
class GetsEachAgain(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(self.get(each.name, owner=owner, deadline=deadline) for each in found)


@mutant("An empty page is the end.", caught_by=("X-PAGE-07",))
class EmptyIsTheEnd(ReferenceKit):
    class Networking(Paging, FakeNetworkingDriver):
        def joined(self, out: list[Any], page: Page[Any], after: str) -> tuple[list[Any], str | None]:
            if page.next is not None and page.next <= after:
                raise InvalidRequest("the page token leads nowhere")
            return [*out, *page.items], page.next if page.items else None


@mutant("What was created is not listed until it runs.", caught_by=("X-EC-01",))
class ListsTheRunning(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(
                i for i in found if (i.created_at or self._clock.now()) < self._clock.now() - self._cloud.list_window
            )


@mutant("Whether it exists is looked up in the list, which lags.", caught_by=("X-EC-02",))
class LooksInTheList(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            names = {machine.spec.name for machine in self._cloud.listed()}
            wanted = [s if s.name in names else attrs.evolve(s, name=f"{s.name}-{self._cloud.serial()}") for s in specs]
            unseen = [s.name for s in specs if s.name not in names]
            return super().create(
                wanted, token=Token(f"{token}{self._cloud.serial()}" if unseen else token), deadline=deadline
            )


@mutant("A name that was used once is never free again.", caught_by=("X-EC-03", "X-SEQ-02"))
class NamesAreSpent(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            used: dict[str, str] = self._cloud.__dict__.setdefault("used_names", {})
            if used.setdefault(spec.name, token) != token and spec.name not in self._cloud.buckets:
                raise InvalidRequest("the name was used before", reason="NAME")
            return super().create(spec, owner=owner, token=token, deadline=deadline)


@mutant("A delete goes by the name that the id once had.", caught_by=("X-EC-04",))
class DeletesByOldName(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _owned(self, id: Any, owner: Owner) -> Machine | None:
            found = super()._owned(id, owner)
            names = [machine.spec.name for machine in self._cloud.ever() if machine.id == id]
            return found or next((m for m in self._cloud.machines.values() if m.spec.name in names), None)


@mutant("Who comes at the same time with the same token gets one of his own.", caught_by=("X-CON-01",))
class ChecksThenActs(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        busy: ClassVar[set[str]] = set()

        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            name = spec.name
            if name in self.busy:
                spec, token = attrs.evolve(spec, name=f"{name}-b"), Token(f"{token}b")
            self.busy.add(name)
            import time

            time.sleep(0.02)
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            finally:
                self.busy.discard(name)


@mutant("The name of the call under way is kept on the driver.", caught_by=("X-CON-02", "X-CON-05"))
class KeepsTheCallOnItself(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            import time

            self._current = spec.name
            bucket = super().create(spec, owner=owner, token=token, deadline=deadline)
            time.sleep(0.005)
            return attrs.evolve(bucket, name=self._current)


@mutant("What was got once is kept in a cache of the class.", caught_by=("X-CON-06",))
class CacheOfTheClass(ReferenceKit):
    class Identity(FakeIdentityDriver):
        cache: ClassVar[dict[str, Identity]] = {}

        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            if token not in self.cache:
                self.cache[token] = super().create(spec, token=token, deadline=deadline)
            return self.cache[token]


@mutant("The spec's tags are written into.", caught_by=("X-ISO-01",))
class WritesIntoTheSpec(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            network = super().create(spec, owner=owner, token=token, deadline=deadline)
            if isinstance(spec.tags, dict):
                spec.tags.update(owner.tags())
            return network


@mutant("Closing one driver closes what all of them use.", caught_by=("X-ISO-02",))
class ClosesForAll(ReferenceKit):
    class Storage(FakeStorageDriver):
        def close(self) -> None:
            self._cloud.__dict__["closed"] = True

        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
            if self._cloud.__dict__.get("closed"):
                raise InvalidRequest("the client is closed")
            return super().get(name, owner=owner, deadline=deadline)


@mutant("A variable of the environment decides on the region.", caught_by=("X-ISO-03",))
class ReadsTheEnvironment(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            os.environ.get("FAKE_REGION")
            return super().create(spec, owner=owner, token=token, deadline=deadline)

    def package(self) -> str:
        return "anyscale_conformance"


@mutant("A statistics host is looked up.", caught_by=("X-ISO-04",))
class CallsHome(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            import contextlib
            import socket

            with contextlib.suppress(OSError):
                socket.getaddrinfo("192.0.2.1", 9)
            return super().create(spec, owner=owner, token=token, deadline=deadline)


@mutant("The spec is logged for debugging, with the secret in clear.", caught_by=("X-SEC-01",))
class LogsTheSecret(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            for spec in specs:
                if spec.bootstrap is not None:
                    logger.debug("user data: %s", spec.bootstrap.join_token.reveal())
            return super().create(specs, token=token, deadline=deadline)


@mutant("The text of an error quotes the request.", caught_by=("X-SEC-01",))
class ErrorQuotesTheSecret(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _check(self, spec: InstanceSpec) -> None:
            try:
                super()._check(spec)
            except InvalidRequest as error:
                error.add_note(f"the request was {spec.bootstrap and spec.bootstrap.join_token.reveal()}")
                raise


@mutant("What an instance was booted with comes back as a tag.", caught_by=("X-SEC-01", "X-SEC-02"))
class SecretInATag(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            machine = super()._launch(spec)
            secret = "" if spec.bootstrap is None else spec.bootstrap.join_token.reveal()
            machine.tags = {**machine.tags, "user-data": secret}
            return machine


class Bare(Secret[str]):
    """A secret that shows itself."""

    def __repr__(self) -> str:
        return self.reveal()

    __str__ = __repr__


@mutant("Credentials show themselves.", caught_by=("X-SEC-03",))
class CredentialsShow(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
            found = super().credentials(name, owner=owner, deadline=deadline)
            return attrs.evolve(found, values={key: Bare(value.reveal()) for key, value in found.values.items()})


@mutant("A permission is a wildcard.", caught_by=("X-PRIV-02",))
class Wildcard(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
            return tuple(attrs.evolve(each, action="fake:cluster.*") for each in super().permissions(features))


@mutant("A request that no permission is declared for.", caught_by=("X-PRIV-01",))
class UndeclaredAction(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
            return tuple(each for each in super().permissions(features) if each.action != "fake:storage.list")


@mutant("A permission is declared that nothing uses.", caught_by=("X-PRIV-03",))
class IdlePermission(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
            found = super().permissions(features)
            return (*found, *(attrs.evolve(each, action=f"{each.action}.admin") for each in found[:1]))


@mutant("Reading an identity renews it.", caught_by=("X-PRIV-05",))
class ReadingWrites(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
            found = super().get(name, owner=owner, deadline=deadline)
            self._call("create", lambda: None, deadline=deadline)
            return found


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
