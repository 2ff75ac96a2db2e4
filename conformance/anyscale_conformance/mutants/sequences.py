"""Providers whose faults show only after a few calls in the right order, or at one moment."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from anyscale_conformance.kits.reference import ReferenceKit, WiredCloud
from anyscale_conformance.mutants.base import mutant
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import AlreadyExists, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceSpec, Outcome
from anyscale_core.models.networking import Endpoint, EndpointSpec, Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import FakeCloud, key_of


@mutant("A spent token returns what another token has made since under that name.", caught_by=("X-SEQ-01",))
class ReturnsWhatAnotherMade(ReferenceKit):
    class Cloud(WiredCloud):
        def spend(self, key: Sequence[str], name: str) -> None:
            """Keep what is gone in mind as if it were there."""


@mutant("The last three tokens are remembered, and no more.", caught_by=("X-SEQ-01", "X-SEQ-02"))
class RemembersFewTokens(ReferenceKit):
    class Cloud(WiredCloud):
        def once(self, key: Sequence[str], token: Token, wanted: object, alive: Callable[[str], bool]) -> list[str]:
            for old in list(self._tokens)[:-3]:
                del self._tokens[old]
            return super().once(key, token, wanted, alive)


@mutant("A late repeat of an older order moves a way in back to where it was.", caught_by=("X-SEQ-01[networking]",))
class AnOlderOrderMovesBack(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
            endpoint = super()._expose(spec, token)
            way = self._cloud.endpoints[key_of(spec.owner, spec.name)]
            if way.goes_at is None:
                way.spec = spec
            return endpoint


@mutant("Where we delete a network, a stranger's of the same name goes with it.", caught_by=("X-SEQ-01[networking]",))
class TakesNamesakesAlong(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _delete(self, name: str, owner: Owner) -> Deletion:
            answer = super()._delete(name, owner)
            alike = [net for net in self._cloud.networks.values() if net.network.name == name]
            if answer is Deletion.GOING:
                for net in alike:
                    net.goes_at = net.goes_at or self._clock.now()
            return answer


@mutant("Every fifth instance is told as made and is not.", caught_by=("X-SEQ-01[cluster]", "X-SEQ-02"))
class EveryFifthIsLost(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            for outcome in outcomes:
                if isinstance(outcome, Created) and int(outcome.instance.id[2:]) % 5 == 0:
                    self._cloud.machines.pop(outcome.instance.id, None)
            return outcomes


@mutant(
    "A create makes room by clearing away an instance of the owner that is stopped.", caught_by=("X-SEQ-01[cluster]",)
)
class ClearsTheStoppedForRoom(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _create(self, specs: Sequence[InstanceSpec], token: Token) -> tuple[Outcome, ...]:
            for machine in tuple(self._cloud.machines.values()):
                if machine.stopped and machine.spec.owner == specs[0].owner:
                    machine.goes_at = machine.goes_at or self._clock.now()
            return super()._create(specs, token)


@mutant(
    "A new process lists what it finds, and deletes that were under way are forgotten.",
    caught_by=("X-SEQ-01[cluster]",),
)
class ARestartForgetsDeletes(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def __init__(self, cloud: FakeCloud, config: DriverConfig, provider: str) -> None:
            super().__init__(cloud, config, provider)
            self._is_new = True

        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            if self._is_new:
                self._is_new = False
                for machine in self._cloud.machines.values():
                    machine.goes_at = None
            return super().list(owner, deadline=deadline)


@mutant("A network that is asked for while one of that name goes is that one.", caught_by=("X-SEQ-01[networking]",))
class TakesTheGoing(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _create(self, spec: NetworkSpec, owner: Owner, token: Token) -> Network:
            net = self._cloud.networks.get(key_of(owner, spec.name))
            if net is not None and net.goes_at is not None and net.network.owner == owner:
                return self._view(net, owner)
            return super()._create(spec, owner, token)


@mutant("Who saw that a name was free takes whatever has it by then as made.", caught_by=("X-CON-08[networking]",))
class TakesWhatCameMeanwhile(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            was_free = key_of(owner, spec.name) not in self._cloud.networks
            time.sleep(0.01)
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            except AlreadyExists:
                if not was_free:
                    raise
                return self.get(spec.name, owner=owner, deadline=deadline)


@mutant("A delete looks first and acts later, and fails when another was faster.", caught_by=("X-CON-08[storage]",))
class DeletesWhatItSaw(ReferenceKit):
    class Storage(FakeStorageDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            was_there = name in self._cloud.buckets
            time.sleep(0.01)
            answer = super().delete(name, owner=owner, deadline=deadline)
            if was_there and answer is Deletion.ALREADY_ABSENT:
                raise NotFound(f"no bucket {name!r}", reason="RESOURCE")
            return answer
