"""X-CON: many at once. Threads start together at a barrier; what they did is judged by the oracle."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Uses, check
from anyscale_conformance.subjects import ALL, LASTING, MAIN
from anyscale_core.errors import AlreadyExists, CloudError, Conflict, NotFound
from anyscale_core.models.instance import Deletion

THREADS = 6
ROUNDS = 3


@check("X-CON-01", on=ALL)
def many_creates_with_one_token(ctx: Context) -> None:
    """Lets six threads, half of them with a driver of their own, create with one token at once; several times."""
    it = ctx.it
    for _ in range(ROUNDS):
        spec, token = it.spec(), ctx.token()
        before = len(ctx.inventory(it.kind))
        outcomes = at_once([partial(it.create, spec, token=token)] * THREADS)
        _only(outcomes, Conflict)
        keys = {it.key(repeat(partial(it.create, spec, token=token)))} | {
            it.key(each) for each in outcomes if _is_thing(each)
        }
        expect_equal(len(keys), 1, "the number of keys that creates with one token returned at once")
        made = len(ctx.inventory(it.kind)) - before
        expect_equal(made, it.size, f"the number of {it.kind}s after {THREADS} creates at once with one token")


@check("X-CON-02", on=ALL)
def many_creates_of_their_own(ctx: Context) -> None:
    """Lets six threads create six different things at once; there must be six, each what its creator was told."""
    it = ctx.it
    specs = [it.spec() for _ in range(THREADS)]
    before = len(ctx.inventory(it.kind))
    outcomes = at_once([partial(it.create, spec) for spec in specs])
    errors = [outcome for outcome in outcomes if not _is_thing(outcome)]
    expect(not errors, f"{len(errors)} of {THREADS} creates at once failed: {errors[:1]}")
    for spec, thing in zip(specs, outcomes, strict=True):
        if hasattr(thing, "name"):
            expect_equal(thing.name, spec.name, "the name of what a create among others returned")
    made = len(ctx.inventory(it.kind)) - before
    expect_equal(made, it.size * THREADS, f"the number of {it.kind}s after {THREADS} creates at once")


@check("X-CON-03", on=LASTING)
def create_and_delete_at_once(ctx: Context) -> None:
    """Repeats a create while a delete of the same thing runs; in the end it is there whole, or gone without remains."""
    it = ctx.it
    for _ in range(ROUNDS):
        spec, token = it.spec(), ctx.token()
        key = it.key(it.create(spec, token=token))
        outcomes = at_once([partial(it.create, spec, token=token), partial(it.delete, key), partial(it.list)])
        _only(outcomes, Conflict, AlreadyExists, NotFound)
        it.delete_and_wait(key)
        ctx.eventually(lambda: len(ctx.inventory(it.kind)) in (0, it.size), f"the {it.kind} to be there whole, or gone")
        for thing in it.listed():
            ctx.subject("cluster" if it.slot == "cluster" else it.name).delete(
                thing.id if it.slot == "cluster" else thing.name
            )
        ctx.eventually(lambda: not ctx.inventory(it.kind), f"the {it.kind} to be gone")


@check("X-CON-04", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def a_lost_update_is_told(ctx: Context) -> None:
    """Answers each write of a create that somebody else was faster; wants Conflict(ETAG), once, and a repeat that works."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        fault = ctx.inject(Effect.REFUSE, at=position, category=Conflict, reason="ETAG")
        with expect_error(Conflict, reason="ETAG", when="a create that lost against another writer"):
            it.create(spec, token=token)
        expect_equal(fault.fired, 1, "how often the lost write was made")
        repeat(partial(it.create, spec, token=token))


@check("X-CON-05", on=MAIN)
def one_driver_in_many_threads(ctx: Context) -> None:
    """Lets threads create, get, list and delete through one driver; each must get its own answers, and all must end right."""
    it = ctx.it
    kept = it.make()

    def live() -> None:
        thing = it.make()
        key = it.key(thing)
        expect_equal(it.key(it.get(key)), key, "what `get` returned among other threads")
        expect_equal(it.get(key).name, thing.name, "the name that `get` returned among other threads")
        it.list()
        expect(it.delete(key) is not Deletion.ALREADY_ABSENT, "a thread's own thing was absent when it deleted it")

    for _ in range(ROUNDS):
        outcomes = at_once([live] * THREADS)
        errors = [outcome for outcome in outcomes if outcome is not None]
        expect(not errors, f"{len(errors)} of {THREADS} threads failed: {errors[:1]}")
    ctx.eventually(lambda: len(ctx.inventory(it.kind)) == 1, f"all {it.kind}s but one to be gone")
    expect_equal(it.key(it.get(it.key(kept))), it.key(kept), "what was there all the time")


@check("X-CON-06", on=MAIN)
def two_accounts_share_nothing(ctx: Context) -> None:
    """Has a second world of the provider in this process, and uses the same names and tokens in both, in turn."""
    it = ctx.it
    with ctx.another_world() as other:
        there = other.subject(ctx.subject_name)
        spec, token = it.spec(), ctx.token()
        here = it.create(spec, token=token)
        expect_equal(other.inventory(it.kind), (), f"the {it.kind}s of another account after a create in the first")
        expect_equal(there.names(), (), "the list of another account after a create in the first")
        elsewhere = there.create(there.renamed(there.spec(), spec.name), token=token)
        expect_equal(len(other.inventory(it.kind)), 1, f"the {it.kind}s of another account after its own create")
        there.delete_for_good(there.key(elsewhere))
        other.eventually(lambda: not other.inventory(it.kind), "the other account's thing to be gone")
        expect_equal(len(ctx.inventory(it.kind)), 1, f"the {it.kind}s of the first account after a delete in the other")
        expect_equal(it.key(it.create(spec, token=token)), it.key(here), "the key in the first account, in the end,")


@check("X-CON-07", on=MAIN, uses=(Effect.CRASH_BEFORE,))
def a_lock_dies_with_its_holder(ctx: Context) -> None:
    """Dies before each write of a create; another process makes something else at once, and then the same thing."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        ctx.inject(Effect.CRASH_BEFORE, at=position)
        expect(ctx.crash(partial(it.create, spec, token=token)), "the crash did not end the call")
        before = len(ctx.inventory(it.kind))
        outcomes = at_once([it.make, it.make])
        errors = [outcome for outcome in outcomes if not _is_thing(outcome)]
        expect(not errors, f"creates after a crash at write {position} failed: {errors[:1]}")
        expect_equal(len(ctx.inventory(it.kind)) - before, 2, "the number of things made after a crash")
        repeat(partial(it.create, spec, token=token))


def at_once(acts: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all acts in threads that start together; return what each returned or the CloudError that it raised.

    Anything else that a thread raises fails the check.
    """
    barrier = threading.Barrier(len(acts))
    outcomes: list[Any] = [None] * len(acts)
    broken: list[BaseException] = []

    def work(place: int) -> None:
        barrier.wait()
        try:
            outcomes[place] = acts[place]()
        except CloudError as error:
            outcomes[place] = error
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0] if isinstance(broken[0], CheckFailed) else CheckFailed(f"a thread ended with {broken[0]!r}")
    return outcomes


def _is_thing(outcome: Any) -> bool:
    return not isinstance(outcome, CloudError)


def _only(outcomes: list[Any], *allowed: type[CloudError]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, CloudError) and not isinstance(outcome, allowed):
            raise CheckFailed(f"a call among others at once raised {outcome}")
