"""Providers that do not tell what went wrong, or try again by themselves."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_conformance.kits.reference import ReferenceKit, WiredCloud
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import (
    AlreadyExists,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Throttled,
    Transient,
    Unclassified,
)
from anyscale_core.models.identity import Identity, IdentitySpec
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceSpec, InstanceState, Outcome
from anyscale_core.models.networking import Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.testing.driver import FakeDriver
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver


class Translating(FakeDriver):
    """A driver that makes something else of the cloud's errors."""

    def _call(self, verb: str, act: Any, **fields: Any) -> Any:
        try:
            return super()._call(verb, act, **fields)
        except CloudError as error:
            raise self.translated(error, verb) from error

    def translated(self, error: CloudError, verb: str) -> BaseException:
        """Return what comes out."""
        raise NotImplementedError


@mutant("A refused permission is told as absence.", caught_by=("X-ERR-07",))
class ForbiddenIsAbsent(ReferenceKit):
    class Cluster(Translating, FakeClusterDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            return NotFound("no such thing") if isinstance(error, PermissionDenied) and verb == "get" else error


@mutant("A failure while listing is an empty list.", caught_by=("X-ERR-08", "X-PAGE-03"))
class FailedListIsEmpty(ReferenceKit):
    class Storage(FakeStorageDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            try:
                return super().list(owner, deadline=deadline)
            except Transient:
                return ()


@mutant("A delete that failed says that the thing was absent.", caught_by=("X-ERR-07", "X-ERR-08"))
class FailedDeleteIsAbsent(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            try:
                return super().delete(name, owner=owner, deadline=deadline)
            except (Transient, PermissionDenied):
                return Deletion.ALREADY_ABSENT


@mutant("An SDK's own error leaves the driver.", caught_by=("X-ERR-02",))
class RawErrorEscapes(ReferenceKit):
    class Storage(FakeStorageDriver):
        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
            if not name.isascii():
                raise KeyError(name)
            return super().get(name, owner=owner, deadline=deadline)


@mutant("What the vendor said is lost.", caught_by=("X-ERR-03",))
class LosesTheVendor(ReferenceKit):
    class Identity(Translating, FakeIdentityDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            error.vendor = None if error.vendor is None else attrs.evolve(error.vendor, request_id="")
            return error


@mutant("An unknown code is told as a passing fault.", caught_by=("X-ERR-04",))
class UnknownIsTransient(ReferenceKit):
    class Networking(Translating, FakeNetworkingDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            return Transient(error.message) if isinstance(error, Unclassified) else error


@mutant("An item that the cloud could not make comes out as made.", caught_by=("X-ERR-05", "X-PART-06"))
class FailedItemIsMade(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            return tuple(
                outcome if isinstance(outcome, Created) else Created(instance=self._hoped(spec))
                for spec, outcome in zip(specs, outcomes, strict=True)
            )

        def _hoped(self, spec: InstanceSpec) -> Instance:
            return Instance(
                id=InstanceId(f"i-{spec.name}"), name=spec.name, node_id=spec.node_id, owner=spec.owner,
                instance_type=spec.instance_type, state=InstanceState.PENDING,
            )  # fmt: skip


@mutant("A stockout is told as a passing fault, to be repeated in place.", caught_by=("X-ERR-06",))
class StockoutIsTransient(ReferenceKit):
    class Cluster(Translating, FakeClusterDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            return Transient(error.message) if isinstance(error, CapacityUnavailable) else error


@mutant("A spent quota is told as a throttle.", caught_by=("X-ERR-06",))
class QuotaIsThrottle(ReferenceKit):
    class Storage(Translating, FakeStorageDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            return Throttled(error.message, reason="RATE") if isinstance(error, QuotaExceeded) else error


@mutant("A refused permission says that it may be repeated.", caught_by=("X-ERR-06",))
class ForbiddenMayBeRepeated(ReferenceKit):
    class Identity(Translating, FakeIdentityDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            error.retry = Retry.SAME if isinstance(error, PermissionDenied) else error.retry
            return error


@mutant("A batch fails as a whole when one of its items fails.", caught_by=("X-PART-06",))
class OneFailsAll(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            for outcome in outcomes:
                if not isinstance(outcome, Created):
                    raise outcome.error
            return outcomes


@mutant("Outcomes come in the order of names, not of specs.", caught_by=("X-PART-06",))
class OutcomesOutOfOrder(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            return tuple(reversed(super().create(specs, token=token, deadline=deadline)))


@mutant("Throttled calls are repeated by the driver, three times.", caught_by=("X-RTY-01",))
class RepeatsThrottled(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _call(self, verb: str, act: Any, **fields: Any) -> Any:
            for _ in range(3):
                try:
                    return super()._call(verb, act, **fields)
                except Throttled:
                    continue
            return super()._call(verb, act, **fields)


@mutant("Passing faults are slept over and repeated.", caught_by=("X-RTY-01", "X-EC-05"))
class SleepsAndRepeats(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _call(self, verb: str, act: Any, **fields: Any) -> Any:
            try:
                return super()._call(verb, act, **fields)
            except Transient:
                self._clock.sleep(timedelta(seconds=5))
                return super()._call(verb, act, **fields)


@mutant("Refused permissions are tried again.", caught_by=("X-RTY-01",))
class RepeatsForbidden(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _call(self, verb: str, act: Any, **fields: Any) -> Any:
            try:
                return super()._call(verb, act, **fields)
            except PermissionDenied:
                return super()._call(verb, act, **fields)


@mutant("Retry-After is lost.", caught_by=("X-RTY-02",))
class LosesRetryAfter(ReferenceKit):
    class Cluster(Translating, FakeClusterDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            error.retry_after = None
            return error


@mutant("Retry-After in minutes is taken for seconds.", caught_by=("X-RTY-02",))
class MisreadsRetryAfter(ReferenceKit):
    class Storage(Translating, FakeStorageDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            error.retry_after = None if error.retry_after is None else error.retry_after / 60
            return error


@mutant("The error tells ten attempts for one.", caught_by=("X-RTY-03",))
class MiscountsAttempts(ReferenceKit):
    class Identity(Translating, FakeIdentityDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            error.attempts = 10
            return error


@mutant("A conflict that passes says that it never will.", caught_by=("X-CON-04", "X-EC-05"))
class ConflictsNeverPass(ReferenceKit):
    class Networking(Translating, FakeNetworkingDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            return Conflict(error.message, reason="IN_USE") if error.reason in ("ETAG", "BUSY") else error


@mutant("What is not visible yet is told as absent.", caught_by=("X-EC-05",))
class PropagationIsAbsence(ReferenceKit):
    class Identity(Translating, FakeIdentityDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            return NotFound(error.message, reason="REFERENCE") if error.reason == "PROPAGATION" else error


@mutant("The deadline is not looked at.", caught_by=("X-TIME-01",))
class IgnoresTheDeadline(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def _call(self, verb: str, act: Any, *, deadline: datetime, **fields: Any) -> Any:
            return super()._call(verb, act, deadline=max(deadline, self._clock.now() + timedelta(hours=1)), **fields)


@mutant("A list checks its deadline once, and not before each page.", caught_by=("X-TIME-01",))
class ListOutlivesItsDeadline(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _pages(self, shown: Any, *, deadline: datetime, owner: Owner) -> Any:
            if self._clock.now() >= deadline:
                raise DeadlineExceeded("too late", reason="REQUEST")
            return super()._pages(shown, deadline=deadline + timedelta(days=1), owner=owner)


@mutant("A request may take as long as it likes.", caught_by=("X-TIME-03",))
class EndlessRequests(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _call(self, verb: str, act: Any, *, deadline: datetime, **fields: Any) -> Any:
            if self._clock.now() >= deadline:
                return super()._call(verb, act, deadline=deadline, **fields)
            return self._cloud.carry(self.slot, verb, act, **fields)


@mutant("After a call was broken off, its name stays locked in this process.", caught_by=("X-TIME-02",))
class LocksForEver(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            locked: set[str] = self.__dict__.setdefault("locked", set())
            if spec.name in locked:
                raise Conflict("another call is making it", reason="BUSY")
            locked.add(spec.name)
            try:
                network = super().create(spec, owner=owner, token=token, deadline=deadline)
            except Exception:
                locked.discard(spec.name)
                raise
            locked.discard(spec.name)
            return network


@mutant("Instances show local times without a zone.", caught_by=("X-TIME-05",))
class NaiveTimes(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(attrs.evolve(i, created_at=i.created_at and i.created_at.replace(tzinfo=None)) for i in found)


@mutant("Since when an instance is there is read from this machine's clock.", caught_by=("X-TIME-06",))
class ReadsTheWallClock(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
            from datetime import UTC

            return attrs.evolve(super().get(id, owner=owner, deadline=deadline), created_at=datetime.now(UTC))


@mutant("A server error after the act is told as if the name had been taken by somebody.", caught_by=("X-AMB-03",))
class ErrorIsTaken(ReferenceKit):
    class Storage(Translating, FakeStorageDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            lost = isinstance(error, Transient) and error.reason == "SERVER" and verb == "create"
            return AlreadyExists(error.message, reason="FOREIGN") if lost else error


@mutant("A create that was refused once is refused for ever under its token.", caught_by=("X-PART-01",))
class RefusedForEver(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            refused: dict[str, CloudError] = self._cloud.__dict__.setdefault("refused", {})
            if token in refused:
                raise refused[token]
            try:
                return super().create(spec, token=token, deadline=deadline)
            except CloudError as error:
                refused[token] = error
                raise


@mutant(
    "After a failed create it looks in the list for what to repeat, and takes an empty answer for done.",
    caught_by=("X-PART-04",),
)
class LooksBeforeItRepeats(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            except PermissionDenied as error:
                try:
                    self.list(owner, deadline=deadline)
                except CloudError:
                    raise Conflict("nobody knows", reason="AMBIGUOUS") from error
                raise


@mutant("A call that outlived its deadline is made again under another token.", caught_by=("X-PART-05",))
class LateIsMadeAgain(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            bucket = super().create(spec, owner=owner, token=token, deadline=deadline)
            if self._clock.now() < deadline:
                return bucket
            later = deadline + timedelta(days=1)
            again = attrs.evolve(spec, name=f"{spec.name}b")
            return super().create(again, owner=owner, token=Token(f"{token}b"), deadline=later)


@mutant("A passing fault of a read says that repeating is no use.", caught_by=("X-RTY-04",))
class ReadsAreNotRepeated(ReferenceKit):
    class Identity(Translating, FakeIdentityDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            if verb == "list" and isinstance(error, Transient):
                error.retry = Retry.NEVER
            return error


@mutant("While one slot is throttled, all wait.", caught_by=("X-RTY-05",))
class AllWaitForOne(ReferenceKit):
    class Cloud(WiredCloud):
        closed_until: datetime | None = None

    class Cluster(Translating, FakeClusterDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            if isinstance(error, Throttled) and error.retry_after:
                self._cloud.closed_until = self._clock.now() + error.retry_after  # type: ignore[attr-defined]
            return error

    class Storage(FakeStorageDriver):
        def _call(self, verb: str, act: Any, **fields: Any) -> Any:
            closed: datetime | None = self._cloud.closed_until  # type: ignore[attr-defined]
            if closed is not None and closed > self._clock.now():
                self._clock.sleep(closed - self._clock.now())
            return super()._call(verb, act, **fields)


@mutant("A stockout is tried again in place, three times.", caught_by=("X-RTY-06",))
class TriesTheStockout(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes: tuple[Outcome, ...] = ()
            for _ in range(3):
                outcomes = super().create(specs, token=token, deadline=deadline)
                if all(isinstance(outcome, Created) for outcome in outcomes):
                    break
            return outcomes


@mutant("A throttled write says that it may be repeated when somebody has mended something.", caught_by=("X-RTY-07",))
class ThrottledNeedsMending(ReferenceKit):
    class Storage(Translating, FakeStorageDriver):
        def translated(self, error: CloudError, verb: str) -> BaseException:
            if isinstance(error, Throttled):
                error.retry = Retry.AFTER_FIX
            return error


@mutant("Some requests have no timeout at all.", caught_by=("X-TIME-04",))
class NoTimeout(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
            if self._clock.now() >= deadline:
                return super().get(name, owner=owner, deadline=deadline)
            return self._cloud.carry(self.slot, "get", lambda: self._owned(name, owner), names=(name,), owner=owner)


@mutant("A process that died while it made something keeps all others out.", caught_by=("X-CON-07",))
class TheDeadHoldTheLock(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            held: dict[str, str] = self._cloud.__dict__.setdefault("held", {})
            if held and token not in held:
                raise Conflict("another process is at it", reason="IN_USE")
            held[token] = spec.name
            with self._cloud.lock:
                try:
                    network = super().create(spec, owner=owner, token=token, deadline=deadline)
                except Exception:
                    held.pop(token, None)
                    raise
                held.pop(token, None)
            return network


@mutant("A create that meets a delete makes the thing anew without its owner.", caught_by=("X-CON-03",))
class RaceDropsTheOwner(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            outcomes = super().create(specs, token=token, deadline=deadline)
            for outcome in outcomes:
                if isinstance(outcome, Created) and outcome.instance.state is not InstanceState.PENDING:
                    continue
                made: dict[str, int] = self._cloud.__dict__.setdefault("made_again", {})
                made[token] = made.get(token, 0) + 1
                if made[token] > 1 and isinstance(outcome, Created):
                    self._cloud.machines[outcome.instance.id].tags = {}
            return outcomes
