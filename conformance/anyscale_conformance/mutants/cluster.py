"""Providers that show instances wrongly: their states, ids, names, owners."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import InvalidRequest, NotFound
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceSpec, InstanceState, Outcome
from anyscale_core.models.owner import Owner
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.world import Machine


class Showing(FakeClusterDriver):
    """Shows every instance as ``shown`` has it, whichever call it comes from."""

    def shown(self, instance: Instance) -> Instance:
        return instance

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        outcomes = super().create(specs, token=token, deadline=deadline)
        return tuple(Created(instance=self.shown(o.instance)) if isinstance(o, Created) else o for o in outcomes)

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        return self.shown(super().get(id, owner=owner, deadline=deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        return tuple(self.shown(instance) for instance in super().list(owner, deadline=deadline))


@mutant("An instance is RUNNING as soon as it was asked for.", caught_by=("C-STA-01",))
class ReadyEarly(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            early = instance.state is InstanceState.PENDING
            return attrs.evolve(instance, state=InstanceState.RUNNING, address="10.9.9.9") if early else instance


@mutant("A list shows every instance as RUNNING, whatever it is.", caught_by=("C-STA-01", "C-GET-04"))
class ListsTheWrongState(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            shown = super().list(owner, deadline=deadline)
            return tuple(attrs.evolve(instance, state=InstanceState.RUNNING) for instance in shown)


@mutant("An instance that runs falls back to PENDING while its address is looked up anew.", caught_by=("C-STA-01",))
class FallsBack(ReferenceKit):
    class Cluster(FakeClusterDriver):
        looks = 0

        def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
            instance = super().get(id, owner=owner, deadline=deadline)
            type(self).looks += 1
            flickers = instance.state is InstanceState.RUNNING and self.looks % 3 == 0
            return attrs.evolve(instance, state=InstanceState.PENDING) if flickers else instance


@mutant("What is gone is listed as STOPPED for ever.", caught_by=("C-STA-01",))
class KeepsTheDead(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            alive = super().list(owner, deadline=deadline)
            known = {instance.id for instance in alive}
            now = self._clock.now()
            dead = [m for m in self._cloud.ever() if m.id not in known and m.id not in self._cloud.machines]
            ours = [machine.view(now) for machine in dead if owner.owns(machine.tags)]
            return (*alive, *(attrs.evolve(instance, state=InstanceState.STOPPED) for instance in ours))


@mutant("An instance that runs shows no address.", caught_by=("C-CRE-01",))
class HasNoAddress(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            return attrs.evolve(instance, address="")


@mutant("The tag that names the node is left out.", caught_by=("C-CRE-01",))
class ForgetsTheNode(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            machine = super()._launch(spec)
            machine.tags = {key: value for key, value in machine.tags.items() if value != spec.node_id}
            return machine


@mutant("Names are cut to 40 characters.", caught_by=("C-CRE-02",))
class CutsNames(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            return super()._launch(attrs.evolve(spec, name=spec.name[:40]))


@mutant("Two '-' in a name become one.", caught_by=("C-CRE-02",))
class FoldsNames(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            return super()._launch(attrs.evolve(spec, name=spec.name.replace("--", "-")))


@mutant("A name that is none is mended and taken.", caught_by=("C-CRE-03",))
class MendsNames(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            mended = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in spec.name.lower())
            return super()._launch(attrs.evolve(spec, name=f"n{mended}"[:62].rstrip("-")))


@mutant("An unknown instance type becomes the first that is sold.", caught_by=("C-CRE-03", "X-PART-06"))
class GuessesTheType(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _launch(self, spec: InstanceSpec) -> Machine:
            sold = [offering.instance_type for offering in self._cloud.offerings]
            known = spec.instance_type in sold
            return super()._launch(spec if known else attrs.evolve(spec, instance_type=sold[0]))


@mutant("What cannot work is refused after it was made, and left there.", caught_by=("C-CRE-03",))
class RefusesTooLate(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _check(self, spec: InstanceSpec) -> None:
            if spec.zones and spec.zones[0] not in {offering.zone for offering in self._cloud.offerings}:
                super()._launch(attrs.evolve(spec, zones=()))
                raise InvalidRequest("no such zone", reason="FIELD")
            super()._check(spec)


@mutant("What create returns does not say since when it is there.", caught_by=("C-CRE-04",))
class ReturnsTheRequest(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            return tuple(
                Created(instance=attrs.evolve(o.instance, created_at=None)) if isinstance(o, Created) else o
                for o in outcomes
            )


@mutant("An instance's id is its name, so that those of two owners are one.", caught_by=("C-CRE-05",))
class IdsWithoutScope(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            return attrs.evolve(instance, id=InstanceId(instance.name))

        def _owned(self, id: InstanceId, owner: Owner) -> Machine | None:
            self._cloud.settle()
            named = (machine for machine in self._cloud.machines.values() if machine.spec.name == id)
            return next((machine for machine in named if owner.owns(machine.tags)), None)


@mutant("An id is numbered by the process that asked, and means nothing to another.", caught_by=("C-CRE-05",))
class IdsOfTheProcess(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            return attrs.evolve(instance, id=InstanceId(f"{instance.id}@{id(self)}"))

        def _owned(self, id_: InstanceId, owner: Owner) -> Machine | None:
            real, _, process = id_.partition("@")
            return super()._owned(InstanceId(real), owner) if process == str(id(self)) else None


@mutant("An id is looked up by its beginning.", caught_by=("C-GET-01",))
class GetsByPrefix(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _owned(self, id: InstanceId, owner: Owner) -> Machine | None:
            self._cloud.settle()
            alike = (machine for machine in self._cloud.machines.values() if machine.id.startswith(id) and id)
            return next((machine for machine in alike if owner.owns(machine.tags)), None)


@mutant("An instance that is gone is got as it was last seen.", caught_by=("C-GET-01", "C-STA-01"))
class GetsFromMemory(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
            seen: dict[InstanceId, Instance] = self._cloud.__dict__.setdefault("seen", {})
            try:
                seen[id] = super().get(id, owner=owner, deadline=deadline)
            except NotFound:
                if id not in seen or seen[id].owner != owner:
                    raise
            return seen[id]


@mutant("Whoever is of the plane may see its instances, whatever the cluster.", caught_by=("C-GET-02",))
class AnyClusterOfThePlane(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
            return super().get(id, owner=attrs.evolve(owner, cluster=None), deadline=deadline)


@mutant("Whoever is of the cluster may see its instances, whatever the cloud.", caught_by=("C-GET-02",))
class AnyCloudOfThePlane(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            now = self._clock.now()
            self._call("list", lambda: None, deadline=deadline, owner=owner)
            alike = (machine.view(now) for machine in self._cloud.listed())
            return tuple(i for i in alike if attrs.evolve(i.owner, cloud=owner.cloud, cluster=owner.cluster) == owner)


@mutant("What is being deleted cannot be got any more.", caught_by=("C-GET-03",))
class TheGoingAreGone(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
            instance = super().get(id, owner=owner, deadline=deadline)
            if instance.state is InstanceState.DELETING:
                raise NotFound(f"no instance {id}", reason="RESOURCE")
            return instance


@mutant("What is being deleted looks as if it ran.", caught_by=("C-GET-03",))
class TheGoingRun(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            going = instance.state is InstanceState.DELETING
            return attrs.evolve(instance, state=InstanceState.RUNNING) if going else instance


@mutant("A repeated delete begins anew, so that who asks often waits for ever.", caught_by=("X-LEAK-01",))
class DeleteBeginsAnew(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _delete(self, id: InstanceId, owner: Owner) -> Deletion:
            machine = self._owned(id, owner)
            if machine is not None:
                machine.goes_at = None
            return super()._delete(id, owner)


@mutant("A stopped instance is told as gone.", caught_by=("C-GET-04",))
class TheStoppedAreGone(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
            instance = super().get(id, owner=owner, deadline=deadline)
            if instance.state is InstanceState.STOPPED:
                raise NotFound(f"no instance {id}", reason="RESOURCE")
            return instance


@mutant("Looking at a stopped instance clears it away.", caught_by=("C-GET-04",))
class ClearsTheStopped(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            shown = super().list(owner, deadline=deadline)
            stopped = [instance.id for instance in shown if instance.state is InstanceState.STOPPED]
            if stopped:
                self.delete(stopped, owner=owner, deadline=deadline)
            return shown


@mutant("Of several instances of one name the list shows one.", caught_by=("C-GET-05",))
class ListsByName(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            return tuple({instance.name: instance for instance in super().list(owner, deadline=deadline)}.values())


@mutant("A repeat returns the newest instance of the name.", caught_by=("C-GET-05",))
class PicksTheNewest(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            return instance

        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            now = self._clock.now()
            newest = {machine.spec.name: machine for machine in self._cloud.machines.values()}
            return tuple(
                Created(instance=newest[o.instance.name].view(now)) if isinstance(o, Created) else o for o in outcomes
            )


@mutant("A delete takes every instance that has the name of one of the ids.", caught_by=("C-GET-05",))
class TakesTheTwinAlong(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            names = {machine.spec.name for machine in self._cloud.machines.values() if machine.id in ids}
            ours = [m for m in self._cloud.machines.values() if m.spec.name in names and owner.owns(m.tags)]
            answer = super().delete([*ids, *(machine.id for machine in ours)], owner=owner, deadline=deadline)
            return {id: answer[id] for id in ids}
