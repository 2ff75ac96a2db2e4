"""Providers that do not know whose a thing is, or leave things behind."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_conformance.kits.reference import ReferenceKit, WiredCloud
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import CloudError
from anyscale_core.models.identity import Access, Identity, IdentitySpec
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Deletion, Instance, InstanceSpec, Outcome
from anyscale_core.models.networking import Network, NetworkSpec
from anyscale_core.models.owner import TAG_CLUSTER, Owner
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import Item, Machine


@mutant("Tags are written by a second call.", caught_by=("X-OWN-01",))
class TagsByASecondCall(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            self._cloud.carry("cluster", "create", self._write_tags)
            return outcomes

        def _launch(self, spec: InstanceSpec) -> Machine:
            machine = super()._launch(spec)
            self._pending = {**getattr(self, "_pending", {}), machine.id: machine.tags}
            machine.tags = {}
            return machine

        def _write_tags(self) -> None:
            for id, tags in getattr(self, "_pending", {}).items():
                if id in self._cloud.machines:
                    self._cloud.machines[id].tags = tags


class CloudWithDisks(WiredCloud):
    """A world whose instances have disks."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.disks: dict[str, Mapping[str, str]] = {}

    def inventory(self, kind: str | None = None) -> tuple[Item, ...]:
        disks = tuple(Item(kind="disk", name=f"disk-{id}", id=id, tags=tags) for id, tags in self.disks.items())
        return (*super().inventory(kind), *(disk for disk in disks if kind in (None, "disk")))


class WithDisks(FakeClusterDriver):
    """Makes a disk with each instance."""

    tagged = True

    def _launch(self, spec: InstanceSpec) -> Machine:
        machine = super()._launch(spec)
        disks: dict[str, Mapping[str, str]] = self._cloud.disks  # type: ignore[attr-defined]
        disks[machine.id] = machine.tags if self.tagged else {}
        return machine


@mutant("The disk of an instance is not deleted with it.", caught_by=("X-LEAK-01",))
class ForgetsTheDisk(ReferenceKit):
    Cloud = CloudWithDisks
    Cluster = WithDisks


@mutant("The disk of an instance carries no tags.", caught_by=("X-OWN-01",))
class UntaggedDisk(ReferenceKit):
    Cloud = CloudWithDisks

    class Cluster(WithDisks):
        tagged = False

        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            answer = super().delete(ids, owner=owner, deadline=deadline)
            for id in ids:
                self._cloud.disks.pop(id, None)  # type: ignore[attr-defined]
            return answer


@mutant("Whoever knows an id may delete it.", caught_by=("X-OWN-02", "X-LEAK-06"))
class DeletesAnyones(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _owned(self, id: InstanceId, owner: Owner) -> Machine | None:
            self._cloud.settle()
            return self._cloud.machines.get(id)


@mutant("A list shows what other control planes have.", caught_by=("X-OWN-02",))
class ListsAnyones(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
            return self._call("list", lambda: tuple(self._cloud.identities.values()), deadline=deadline, owner=owner)


@mutant("A list goes by the cloud's name and not by the cluster's.", caught_by=("X-OWN-02",))
class ListsOtherClusters(ReferenceKit):
    class Storage(FakeStorageDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            return super().list(attrs.evolve(owner, cluster=None), deadline=deadline)


@mutant("An adopted network is deleted when it is let go of.", caught_by=("X-OWN-04",))
class DeletesTheAdopted(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            nets = [net.network for net in self._cloud.networks.values() if net.network.name == name]
            answer = super().delete(name, owner=owner, deadline=deadline)
            for net in nets:
                self._cloud.foreign.discard(("network", net.id))
            return answer


@mutant("What is to be adopted is not looked for first.", caught_by=("X-OWN-04",))
class AdoptsAnything(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            before = set(self._cloud.foreign)
            if spec.adopt:
                self._cloud.foreign.add(("bucket", spec.adopt))
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            finally:
                self._cloud.foreign = before


@mutant("A stop drops the tags of the cluster.", caught_by=("X-OWN-05",))
class StopDropsTags(ReferenceKit):
    class Cloud(WiredCloud):
        def kill(self, name: str, *args: Any, **fields: Any) -> None:
            super().kill(name, *args, **fields)
            for machine in self.machines.values():
                machine.tags = {key: value for key, value in machine.tags.items() if key != TAG_CLUSTER}


@mutant("A user's tags are put over ours.", caught_by=("X-OWN-06",))
class UserTagsWin(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            machine = super()._launch(spec)
            machine.tags = {**machine.tags, **spec.tags}
            return machine

        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            return super().list(owner, deadline=deadline)


@mutant("Deleting a bucket leaves what was granted on it.", caught_by=("X-OWN-03",))
class LeavesGrants(ReferenceKit):
    class Storage(FakeStorageDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            kept = dict(self._cloud.grants)
            answer = super().delete(name, owner=owner, deadline=deadline)
            self._cloud.grants.update(kept)
            return answer


@mutant("A create that is forbidden leaves a record that no list shows.", caught_by=("X-LEAK-02", "X-PRIV-04"))
class FailsAndLeaves(ReferenceKit):
    Cloud = CloudWithDisks

    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            try:
                return super().create(spec, token=token, deadline=deadline)
            except CloudError as error:
                if error.category == "PermissionDenied":
                    self._cloud.disks[spec.name] = {}  # type: ignore[attr-defined]
                raise


@mutant("An instance that nobody waited for is listed without saying since when it is there.", caught_by=("X-LEAK-03",))
class NoAge(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            return tuple(attrs.evolve(i, created_at=None) for i in super().list(owner, deadline=deadline))


@mutant("A delete that was cut short is taken for done when it is repeated.", caught_by=("X-LEAK-04",))
class HalfADelete(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            tried: set[str] = self._cloud.__dict__.setdefault("tried", set())
            if name in tried:
                return Deletion.ALREADY_ABSENT
            tried.add(name)
            return super().delete(name, owner=owner, deadline=deadline)


@mutant("An owner without a name is everybody.", caught_by=("X-LEAK-06",))
class NobodyIsEverybody(ReferenceKit):
    class Storage(FakeStorageDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            if not owner.plane:
                return tuple(store.bucket for store in self._cloud.buckets.values())
            return super().list(owner, deadline=deadline)


@mutant(
    "When a create fails, its clean-up removes the namesake that was there before.",
    caught_by=("X-PART-02", "X-IDEM-03"),
)
class CleansUpTooMuch(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            except CloudError:
                for key in [key for key in self._cloud.networks if key[2] == spec.name]:
                    del self._cloud.networks[key]
                raise


@mutant("The error of the clean-up hides the error that led to it.", caught_by=("X-PART-03",))
class LastErrorWins(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            except CloudError as error:
                if error.category == "PermissionDenied":
                    self.delete(spec.name, owner=owner, deadline=deadline)
                raise


@mutant("A grant gives the bucket away when it is made for writing.", caught_by=("X-LEAK-01",))
class GrantPublishes(ReferenceKit):
    class Storage(FakeStorageDriver):
        def grant(self, bucket: str, prefix: str, *, access: Access, **fields: Any) -> Any:
            grant = super().grant(bucket, prefix, access=access, **fields)
            number = self._cloud.serial()
            self._cloud.grants[bucket, f"{prefix}{number}/", "everybody", access.value] = grant  # type: ignore[index]
            return grant
