"""Providers that count wrongly: batches, deletes, stockouts, quotas, notices."""

import builtins
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_conformance.mutants.cluster import Showing
from anyscale_core.errors import CapacityUnavailable, Conflict, QuotaExceeded, Scope, Transient
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Created,
    Deletion,
    Instance,
    InstanceSpec,
    InstanceState,
    NotCreated,
    Notice,
    NoticeKind,
    Offering,
    Outcome,
    Quota,
)
from anyscale_core.models.owner import Owner
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.world import Machine


@mutant(
    "A batch is so many creates with tokens of their own, which know nothing of each other.", caught_by=("C-SCA-01",)
)
class ATokenPerItem(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            one_by_one = (
                super(type(self), self).create([spec], token=Token(f"{token}-{spec.name}"), deadline=deadline)
                for spec in specs
            )
            return tuple(outcome for outcomes in one_by_one for outcome in outcomes)


@mutant("An item of a batch that was deleted comes back under its old id by a repeat.", caught_by=("C-SCA-01",))
class RevivesTheDeleted(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _make(self, spec: InstanceSpec, earlier: Machine | None, made: builtins.list[str]) -> Outcome:
            alive = earlier is not None and self._is_alive(earlier.id)
            outcome = super()._make(spec, earlier if alive else None, made)
            if earlier is None or alive or not isinstance(outcome, Created):
                return outcome
            return Created(instance=attrs.evolve(outcome.instance, id=InstanceId(earlier.id)))


@mutant("A batch with one spent item is refused, and the others of it are deleted too.", caught_by=("C-SCA-01",))
class SpendsAsAWhole(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _create(self, specs: Sequence[InstanceSpec], token: Token) -> tuple[Outcome, ...]:
            outcomes = super()._create(specs, token)
            spent = [o for o in outcomes if isinstance(o, NotCreated) and o.error.reason == "TOKEN_SPENT"]
            for outcome in outcomes:
                if spent and isinstance(outcome, Created):
                    del self._cloud.machines[outcome.instance.id]
            if spent:
                raise Conflict("the token is spent", reason="TOKEN_SPENT")
            return outcomes


@mutant("The last of many is not deleted, and told as gone.", caught_by=("C-SCA-02",))
class ForgetsTheLast(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            few = ids[: max(len(ids) - 1, 2)]
            answer = super().delete(few, owner=owner, deadline=deadline)
            return {id: answer.get(id, Deletion.GONE) for id in ids}


@mutant("A name that was used once cannot be used again in a batch.", caught_by=("C-SCA-02", "X-EC-03"))
class RemembersNames(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _check(self, spec: InstanceSpec) -> None:
            super()._check(spec)
            if any(m.spec.name == spec.name and m.spec.owner == spec.owner for m in self._cloud.ever()):
                raise Conflict(f"{spec.name} is reserved", reason="BUSY")


@mutant("A batch that was met in part is told as a whole, with instances that are not there.", caught_by=("C-SCA-03",))
class TellsAPartAsTheWhole(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _make(self, spec: InstanceSpec, earlier: Machine | None, made: builtins.list[str]) -> Outcome:
            outcome = super()._make(spec, earlier, made)
            if isinstance(outcome, Created) or not isinstance(outcome.error, QuotaExceeded):
                return outcome
            return Created(instance=_imagined(spec))


@mutant("What of a batch was not made is left out of the answer.", caught_by=("C-SCA-03", "X-PART-06"))
class LeavesOutWhatFailed(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            return tuple(outcome for outcome in outcomes if isinstance(outcome, Created))


@mutant("A batch that is met in part is told as not made at all, and what was made stays.", caught_by=("C-SCA-03",))
class TellsAPartAsNothing(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            failed = [outcome.error for outcome in outcomes if isinstance(outcome, NotCreated)]
            return tuple(NotCreated(name=spec.name, error=failed[0]) for spec in specs) if failed else outcomes


@mutant("A batch makes one more, to be sure, and deletes it once the others are there.", caught_by=("C-SCA-04",))
class Surges(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            if len(specs) < 2:
                return super().create(specs, token=token, deadline=deadline)
            spare = attrs.evolve(specs[0], name=f"{specs[0].name[:60]}-s")
            *outcomes, last = super().create([*specs, spare], token=token, deadline=deadline)
            if isinstance(last, Created):
                self.delete([last.instance.id], owner=spare.owner, deadline=deadline)
                del self._cloud.machines[last.instance.id]
            return tuple(outcomes)


@mutant("A delete of several takes all that their owner has.", caught_by=("C-SCA-05",))
class DeletesTheNeighbours(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            wanted = list(ids)
            if len(wanted) > 1:
                wanted += [m.id for m in self._cloud.machines.values() if owner.owns(m.tags)]
            answer = super().delete(wanted, owner=owner, deadline=deadline)
            return {id: answer[id] for id in ids}


@mutant("A delete of no ids deletes everything.", caught_by=("C-SCA-05",))
class NoneMeansAll(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            every = [machine.id for machine in self._cloud.machines.values() if owner.owns(machine.tags)]
            answer = super().delete(ids or every, owner=owner, deadline=deadline)
            return answer if ids else {}


@mutant("One id that is not there ends a delete before it comes to the others.", caught_by=("C-SCA-05",))
class StopsAtTheUnknown(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            known = [self._owned(id, owner) is not None for id in ids]
            cut = known.index(False) if False in known else len(ids)
            answer = super().delete(ids[:cut], owner=owner, deadline=deadline)
            return {id: answer.get(id, Deletion.ALREADY_ABSENT) for id in ids}


@mutant("A second delete of what is going says that it is gone.", caught_by=("C-DEL-01",))
class TheSecondDeleteIsImpatient(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _delete(self, id: InstanceId, owner: Owner) -> Deletion:
            machine = self._owned(id, owner)
            again = machine is not None and machine.goes_at is not None
            answer = super()._delete(id, owner)
            return Deletion.ALREADY_ABSENT if again else answer


@mutant("A delete says GONE while the instance lives.", caught_by=("C-DEL-02",))
class SaysGoneWhileItLives(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _delete(self, id: InstanceId, owner: Owner) -> Deletion:
            answer = super()._delete(id, owner)
            return Deletion.GONE if answer is Deletion.GOING else answer


@mutant("A delete waits until the instance is gone.", caught_by=("C-DEL-02",))
class DeleteWaits(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            answer = super().delete(ids, owner=owner, deadline=deadline)
            if Deletion.GOING not in answer.values():
                return answer
            self._clock.sleep(self._cloud.delete_takes)
            return {id: Deletion.GONE if was is Deletion.GOING else was for id, was in answer.items()}


@mutant("The protection of an instance is taken off before it is deleted.", caught_by=("C-DEL-03",))
class TakesProtectionOff(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            self._cloud.protected -= set(ids)
            return super().delete(ids, owner=owner, deadline=deadline)


@mutant("What cannot be deleted is told as absent.", caught_by=("C-DEL-03",))
class SwallowsProtection(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            try:
                return super().delete(ids, owner=owner, deadline=deadline)
            except Conflict:
                return dict.fromkeys(ids, Deletion.ALREADY_ABSENT)


@mutant("A list gets every instance again, one by one.", caught_by=("C-QUI-01",))
class LooksAtEachTwice(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            shown = super().list(owner, deadline=deadline)
            return tuple(self.get(instance.id, owner=owner, deadline=deadline) for instance in shown)


@mutant("A look at instances renews their tags.", caught_by=("C-QUI-01",))
class WritesAtRest(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            self._call("create", lambda: None, deadline=deadline, owner=owner)
            return super().list(owner, deadline=deadline)


@mutant("Where a zone is sold out, one is taken that the spec does not name.", caught_by=("C-CAP-01",))
class TriesAnUnnamedZone(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _place(self, spec: InstanceSpec) -> Offering:
            try:
                return super()._place(spec)
            except CapacityUnavailable:
                return super()._place(attrs.evolve(spec, zones=()))


@mutant("The zones of a spec are not looked at.", caught_by=("C-CAP-01", "K-CAP-05"))
class IgnoresZones(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _place(self, spec: InstanceSpec) -> Offering:
            return super()._place(attrs.evolve(spec, zones=()))


@mutant("Only the first zone of a spec is tried.", caught_by=("C-CAP-01",))
class TriesTheFirstZone(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _place(self, spec: InstanceSpec) -> Offering:
            return super()._place(attrs.evolve(spec, zones=spec.zones[:1]))


@mutant("Zones are tried by their names, not in the spec's order.", caught_by=("C-CAP-01",))
class SortsZones(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _place(self, spec: InstanceSpec) -> Offering:
            return super()._place(attrs.evolve(spec, zones=tuple(sorted(spec.zones))))


@mutant("A stockout does not say how far it reaches.", caught_by=("C-CAP-01",))
class StockoutWithoutScope(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _place(self, spec: InstanceSpec) -> Offering:
            try:
                return super()._place(spec)
            except CapacityUnavailable as error:
                error.scope = Scope.REQUEST
                raise


@mutant("A stockout is a fault that passes.", caught_by=("C-CAP-01",))
class StockoutPasses(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _place(self, spec: InstanceSpec) -> Offering:
            try:
                return super()._place(spec)
            except CapacityUnavailable as error:
                raise Transient(error.message, reason="SERVER") from error


@mutant("The account's last instance cannot be had.", caught_by=("C-CAP-02",))
class QuotaOffByOne(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _check_quota(self, spec: InstanceSpec, takes: Mapping[str, float]) -> None:
            super()._check_quota(spec, {**takes, "instances": takes["instances"] + 1})


@mutant("A spent quota does not tell its numbers.", caught_by=("C-CAP-02",))
class QuotaWithoutNumbers(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _check_quota(self, spec: InstanceSpec, takes: Mapping[str, float]) -> None:
            try:
                super()._check_quota(spec, takes)
            except QuotaExceeded as error:
                raise QuotaExceeded(error.message, metric=error.metric, reason="COUNT") from error


@mutant("What was deleted counts against the quota for ever.", caught_by=("C-CAP-02",))
class QuotaForgetsNothing(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
            ever = float(len({machine.id for machine in self._cloud.ever()}))
            found = super().quotas(deadline=deadline)
            return tuple(attrs.evolve(q, used=ever) if q.metric == "instances" else q for q in found)


@mutant("The catalogue leaves out what is sold out.", caught_by=("C-CAP-03",))
class HidesTheSoldOut(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _offerings(self) -> Iterator[Offering]:
            return (offering for offering in super()._offerings() if offering.available)


@mutant("The catalogue shows what is sold out as available.", caught_by=("C-CAP-03",))
class SellsTheSoldOut(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _offerings(self) -> Iterator[Offering]:
            return (attrs.evolve(offering, available=True) for offering in super()._offerings())


@mutant("One type that is sold out makes the catalogue call every other sold out.", caught_by=("C-CAP-03",))
class SoldOutIsContagious(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _offerings(self) -> Iterator[Offering]:
            found = tuple(super()._offerings())
            zones = {offering.zone for offering in found if not offering.available}
            return (attrs.evolve(offering, available=offering.zone not in zones) for offering in found)


@mutant("An instance that the cloud could not make after all shows its words alone.", caught_by=("C-CAP-04",))
class SwallowsLateFailures(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            return tuple(attrs.evolve(each, failure=None) for each in super().list(owner, deadline=deadline))


@mutant("A list shows no notices.", caught_by=("C-SPOT-01",))
class LosesNotices(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            shown = super().list(owner, deadline=deadline)
            return tuple(attrs.evolve(instance, notice=None) for instance in shown)


@mutant("A notice is told as the end of the instance.", caught_by=("C-SPOT-01",))
class AnnouncedIsGone(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            return attrs.evolve(instance, state=InstanceState.STOPPED) if instance.notice else instance


@mutant("Every SPOT instance shows a notice from its first moment on.", caught_by=("C-SPOT-01",))
class AlwaysAnnounced(ReferenceKit):
    class Cluster(Showing):
        def shown(self, instance: Instance) -> Instance:
            at = self._clock.now() + timedelta(minutes=2)
            return attrs.evolve(instance, notice=instance.notice or Notice(kind=NoticeKind.PREEMPTION, at=at))


def _imagined(spec: InstanceSpec) -> Instance:
    return Instance(
        id=InstanceId(f"i-{spec.name}"), name=spec.name, node_id=spec.node_id, owner=spec.owner,
        instance_type=spec.instance_type, state=InstanceState.PENDING, tags=spec.owner.tags(),
    )  # fmt: skip
