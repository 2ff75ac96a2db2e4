"""Providers that are careless with networks and ways in."""

import time
from collections.abc import Iterator
from datetime import datetime

import attrs

from anyscale_conformance.kit import Item
from anyscale_conformance.kits.reference import CloudOracle, ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import AlreadyExists, CapacityUnavailable, Conflict, Transient
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion, InstanceSpec
from anyscale_core.models.networking import (
    Check,
    CheckStatus,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Network,
    NetworkMode,
    NetworkSpec,
)
from anyscale_core.models.owner import Owner
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.world import Machine, WayIn, key_of


@mutant("Every create of a network makes one, under a name of its own.", caught_by=("N-NET-01",))
class ANetworkEachTime(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            serial = self._cloud.serial()
            spec = attrs.evolve(spec, name=f"{spec.name[:50]}-{serial}")
            return super().create(spec, owner=owner, token=Token(f"{token}-{serial}"), deadline=deadline)


@mutant("A network that is there is returned to whoever asks, whatever the token.", caught_by=("N-NET-01",))
class TakesNetworksOver(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _create(self, spec: NetworkSpec, owner: Owner, token: Token) -> Network:
            net = self._cloud.networks.get(key_of(owner, spec.name))
            return super()._create(spec, owner, token) if net is None else self._view(net, owner)


@mutant("Where the customer has a network, it is adopted unasked.", caught_by=("X-OWN-04[networking]",))
class AdoptsUnasked(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _create(self, spec: NetworkSpec, owner: Owner, token: Token) -> Network:
            theirs = sorted(id for kind, id in self._cloud.foreign if kind == "network")
            return super()._create(attrs.evolve(spec, adopt=spec.adopt or next(iter(theirs), None)), owner, token)


@mutant("Ranges may overlap.", caught_by=("N-NET-02",))
class RangesOverlap(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _free_range(self, spec: NetworkSpec) -> str:
            try:
                return super()._free_range(spec)
            except Conflict:
                return spec.cidr


@mutant("Ranges are compared as texts.", caught_by=("N-NET-02",))
class ComparesRangesAsTexts(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _free_range(self, spec: NetworkSpec) -> str:
            try:
                return super()._free_range(spec)
            except Conflict:
                if spec.cidr in {net.cidr for net in self._cloud.networks.values()}:
                    raise
                return spec.cidr


@mutant("An overlap is noticed after the network was made.", caught_by=("N-NET-02",))
class OverlapsAreSeenLate(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _create(self, spec: NetworkSpec, owner: Owner, token: Token) -> Network:
            try:
                return super()._create(spec, owner, token)
            except Conflict:
                super()._create(attrs.evolve(spec, cidr=""), owner, Token(f"{token}-late"))
                raise


@mutant("Where a network is full, the instance is put into none.", caught_by=("N-NET-03",))
class LeavesTheFullNetwork(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            full = spec.network in self._cloud.full
            return super()._launch(attrs.evolve(spec, network=None) if full else spec)


@mutant("A full network is a stockout of the region.", caught_by=("N-NET-03",))
class FullIsSoldOut(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            try:
                return super()._launch(spec)
            except CapacityUnavailable as error:
                raise CapacityUnavailable(error.message, reason="REGION", scope=error.scope) from error


@mutant("A network takes its ways in along when it is deleted.", caught_by=("N-NET-04",))
class DeletesWithEndpoints(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _delete(self, name: str, owner: Owner) -> Deletion:
            net = self._cloud.networks.get(key_of(owner, name))
            for way in self._ways(net) if net is not None else ():
                del self._cloud.endpoints[key_of(way.spec.owner, way.spec.name)]
            return super()._delete(name, owner)


@mutant("A network is deleted under the instances in it.", caught_by=("N-NET-04",))
class DeletesUnderInstances(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _delete(self, name: str, owner: Owner) -> Deletion:
            inside = [m for m in self._cloud.machines.values() if m.spec.network == name]
            for machine in inside:
                machine.spec = attrs.evolve(machine.spec, network=None)
            try:
                return super()._delete(name, owner)
            finally:
                for machine in inside:
                    machine.spec = attrs.evolve(machine.spec, network=name)


@mutant("What lags behind in a network is a failure for good.", caught_by=("N-NET-04",))
class LaggingIsAFailure(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _delete(self, name: str, owner: Owner) -> Deletion:
            try:
                return super()._delete(name, owner)
            except Conflict as error:
                net = self._cloud.networks[key_of(owner, name)]
                if any(way.goes_at is None for way in self._ways(net)):
                    raise
                raise Transient(error.message, reason="SERVER") from error


@mutant("A change reads all ways in, adds its own, and writes them all back.", caught_by=("N-NET-05",))
class ReadsChangesWrites(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
            before = dict(self._cloud.endpoints)
            time.sleep(0.01)
            endpoint = super().expose(spec, token=token, deadline=deadline)
            key = key_of(spec.owner, spec.name)
            self._cloud.endpoints = before | {key: self._cloud.endpoints[key]}
            return endpoint


@mutant("A way in that is moved keeps leading to where it led.", caught_by=("N-NET-06",))
class DoesNotMove(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            old = self._cloud.endpoints.get(key_of(spec.owner, spec.name))
            known = old is not None and old.goes_at is None and old.spec.owner == spec.owner
            return super()._expose(old.spec if old is not None and known else spec, token)


@mutant("A way in that is moved leaves the old one behind under another name.", caught_by=("N-NET-06",))
class MovesByASecond(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            old = self._cloud.endpoints.get(key_of(spec.owner, spec.name))
            endpoint = super()._expose(spec, token)
            if old is not None and old.spec != spec:
                old.spec = attrs.evolve(old.spec, name=f"{spec.name[:50]}-{old.spec.target_port}")
                self._cloud.endpoints[key_of(old.spec.owner, old.spec.name)] = old
            return endpoint


@mutant("Withdrawing one way in withdraws all of its network's.", caught_by=("N-NET-06", "N-NET-05"))
class WithdrawsAll(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            one = self._cloud.endpoints.get(key_of(owner, name))
            for way in tuple(self._cloud.endpoints.values()):
                if one is not None and way is not one and way.spec.network == one.spec.network:
                    super().withdraw(way.spec.name, owner=way.spec.owner, deadline=deadline)
            return super().withdraw(name, owner=owner, deadline=deadline)


class RuleOracle(CloudOracle):
    """Shows a rule that lets everybody into each network, as a cloud does whose networks come with one."""

    def inventory(self) -> Iterator[Item]:
        for item in super().inventory():
            yield item
            if item.kind == "network":
                yield Item(kind="rule", id=f"rule-{item.id}", tags=item.tags, detail={"from": "0.0.0.0/0"})


@mutant("A network comes with a rule that lets everybody in.", caught_by=("N-NET-07",))
class OpenToAll(ReferenceKit):
    def oracle(self) -> CloudOracle:
        return RuleOracle(self.cloud)


@mutant("The rule for a way in stays when that is withdrawn.", caught_by=("N-NET-07",))
class LeavesTheDoorOpen(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            ever: dict[str, Item] = self._cloud.__dict__.setdefault("ever", {})
            ever[spec.network] = Item(kind="rule", id=f"rule-{spec.network}", detail={"from": "0.0.0.0/0"})
            return super()._expose(spec, token)

    def oracle(self) -> CloudOracle:
        return EverOracle(self.cloud)


class EverOracle(CloudOracle):
    """Shows also what a broken driver has kept of what it once made, as long as the network is there."""

    def inventory(self) -> Iterator[Item]:
        networks = set()
        for item in super().inventory():
            networks |= {item.name} if item.kind == "network" else set()
            yield item
        ever: dict[str, Item] = self._cloud.__dict__.get("ever", {})
        yield from (item for network, item in ever.items() if network in networks)


@mutant("The address of a way in is kept when that is withdrawn.", caught_by=("N-NET-09",))
class KeepsAddresses(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            ever: dict[str, Item] = self._cloud.__dict__.setdefault("ever", {})
            net = self._cloud.networks.get(key_of(spec.owner, spec.network))
            if net is not None and net.network.mode is NetworkMode.PUBLIC:
                ever[spec.network] = Item(kind="address", id=f"ip-{spec.network}")
            return super()._expose(spec, token)

    def oracle(self) -> CloudOracle:
        return EverOracle(self.cloud)


@mutant("A way in that is there already is an error.", caught_by=("N-NET-08",))
class ThereAlreadyIsAnError(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            old = self._cloud.endpoints.get(key_of(spec.owner, spec.name))
            endpoint = super()._expose(spec, token)
            if old is not None and old.spec == spec and old is not self._cloud.endpoints[key_of(spec.owner, spec.name)]:
                raise AlreadyExists(f"{spec.name} exists", reason="OWNED")
            return endpoint


@mutant("A repeat of an expose whose answer was lost says that it exists already.", caught_by=("N-NET-08",))
class RepeatsAreErrors(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            old = self._cloud.endpoints.get(key_of(spec.owner, spec.name))
            if old is not None and old.spec == spec:
                raise AlreadyExists(f"{spec.name} exists", reason="OWNED")
            return super()._expose(spec, token)


@mutant("A way in is withdrawn whoever of the plane asks for it.", caught_by=("N-NET-10",))
class WithdrawsAnotherClusters(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            return super().withdraw(name, owner=attrs.evolve(owner, cluster=None), deadline=deadline)


@mutant("A name is pointed at whoever came last.", caught_by=("N-NET-10",))
class TakesNamesOver(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            old = self._cloud.endpoints.get(key_of(spec.owner, spec.name))
            if old is not None and old.spec.owner != spec.owner:
                del self._cloud.endpoints[key_of(spec.owner, spec.name)]
            return super()._expose(spec, token)


@mutant("One space of names for all: a stranger's way in is moved by our expose.", caught_by=("N-NET-10",))
class MovesAStrangersEndpoint(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            for way in self._cloud.endpoints.values():
                if way.spec.name == spec.name and way.spec.owner.plane != spec.owner.plane:
                    way.spec = attrs.evolve(way.spec, target_address=spec.target_address, target_port=spec.target_port)
            return super()._expose(spec, token)


@mutant("A way in is READY as soon as it was asked for.", caught_by=("N-NET-11",))
class ReadyBeforeItAnswers(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _endpoint(self, way: WayIn) -> Endpoint:
            endpoint = super()._endpoint(way)
            early = endpoint.state is EndpointState.PENDING
            url = f"https://{endpoint.name}.invalid"
            return attrs.evolve(endpoint, state=EndpointState.READY, url=url) if early else endpoint


@mutant("A way in shows its URL before it can be reached.", caught_by=("N-NET-11",))
class UrlTooEarly(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _endpoint(self, way: WayIn) -> Endpoint:
            return attrs.evolve(super()._endpoint(way), url=f"https://{way.spec.name}.invalid")


@mutant("A way in that was moved is READY all the while.", caught_by=("N-NET-11",))
class StaysReadyWhenMoved(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _endpoint(self, way: WayIn) -> Endpoint:
            endpoint = super()._endpoint(way)
            reached: set[str] = self._cloud.__dict__.setdefault("reached", set())
            if endpoint.state is EndpointState.READY:
                reached.add(way.spec.name)
            ready = endpoint.state is EndpointState.PENDING and way.spec.name in reached
            return attrs.evolve(endpoint, state=EndpointState.READY, url="https://x.invalid") if ready else endpoint


@mutant("A way in that is withdrawn is shown as READY until it is gone.", caught_by=("N-NET-11",))
class WithdrawnLooksReady(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _endpoint(self, way: WayIn) -> Endpoint:
            return super()._endpoint(attrs.evolve(way, goes_at=None))


@mutant("Instances in a private network have public addresses.", caught_by=("N-NET-12",))
class PublicInPrivate(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            machine = super()._launch(spec)
            machine.address = f"20.40.{self._cloud.serial() % 256}.7"
            return machine


@mutant("A private network is made as a public one.", caught_by=("N-NET-12",))
class IgnoresTheMode(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _create(self, spec: NetworkSpec, owner: Owner, token: Token) -> Network:
            return super()._create(attrs.evolve(spec, mode=NetworkMode.PUBLIC), owner, token)


class AddressOracle(CloudOracle):
    """Shows a public address for every way in."""

    def inventory(self) -> Iterator[Item]:
        for item in super().inventory():
            yield item
            if item.kind == "endpoint":
                yield Item(kind="address", id=f"ip-{item.name}", tags=item.tags)


@mutant("A way in takes a public address in a private network too.", caught_by=("N-NET-12",))
class PublicWayIn(ReferenceKit):
    def oracle(self) -> CloudOracle:
        return AddressOracle(self.cloud)


@mutant("What is wrong with a network comes without a remedy.", caught_by=("N-NET-13",))
class ChecksWithoutRemedy(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
            found = super().check(name, owner=owner, deadline=deadline)
            return tuple(attrs.evolve(each, remedy="") for each in found)


@mutant("A look over shows only what is well.", caught_by=("N-NET-13",))
class ChecksAllIsWell(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
            found = super().check(name, owner=owner, deadline=deadline)
            return tuple(each for each in found if each.status is CheckStatus.PASSED)


@mutant("A network that is not ours is looked over too.", caught_by=("N-NET-13",))
class LooksOverAnybodys(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
            of = [net.network.owner for net in self._cloud.networks.values() if net.network.name == name]
            return super().check(name, owner=of[0] if of else owner, deadline=deadline)


@mutant("A look over makes what it misses.", caught_by=("N-NET-13",))
class ChecksByMaking(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
            found = super().check(name, owner=owner, deadline=deadline)
            probe = NetworkSpec(name=f"{name[:50]}-probe")
            self.create(probe, owner=owner, token=Token(f"probe-{name}"), deadline=deadline)
            return found
