"""X-PART: a call that fails in its middle."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import attrs

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect, Reach
from anyscale_conformance.rules import Uses, check
from anyscale_conformance.subjects import ALL, BATCH
from anyscale_core.errors import CloudError, InvalidRequest, PermissionDenied, Transient
from anyscale_core.models.instance import Created, NotCreated


@check("X-PART-01", on=ALL, uses=(Effect.REFUSE,))
def a_failed_step_leaves_nothing_or_a_beginning(ctx: Context) -> None:
    """Fails each write of a create once; the repeat with the token must complete it, and make it once."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        before = len(ctx.inventory(it.kind))
        ctx.inject(Effect.REFUSE, at=position, category=PermissionDenied)
        with expect_error(PermissionDenied, when=f"a create whose write {position} was forbidden"):
            it.create(spec, token=token)
        it.create(spec, token=token)
        made = len(ctx.inventory(it.kind)) - before
        expect_equal(
            made, it.size, f"the number of {it.kind}s after write {position} failed and the create was repeated"
        )


@check("X-PART-02", on=ALL, uses=(Effect.REFUSE,))
def clean_up_spares_what_was_there(ctx: Context) -> None:
    """Has things of ours and of a stranger's, then fails each write of a create for good, also under a taken name."""
    it = ctx.it
    ours, _ = it.make(), it.make(owner=ctx.stranger) if it.name != "storage.grant" else None
    spec = it.spec()
    kept = {item.key for item in ctx.inventory()}
    for position in ctx.positions(it):
        before = {item.key for item in ctx.inventory()}
        fault = ctx.inject(Effect.REFUSE, at=position, category=Transient)
        for wanted in (
            it.spec(),
            it.renamed(spec, getattr(ours, "name", ctx.name())) if it.name != BATCH else it.spec(),
        ):
            try:
                it.create(wanted)
            except CloudError:
                lost = before - {item.key for item in ctx.inventory()}
                expect(not lost, f"a create that failed at write {position} took away {sorted(lost)}")
        fault.lift()
    lost = kept - {item.key for item in ctx.inventory()}
    expect(not lost, f"failed creates took away {sorted(lost)}")


@check("X-PART-03", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def the_first_error_is_raised(ctx: Context) -> None:
    """Forbids one write and lets everything after it fail otherwise; the error that comes out is the first one."""
    it = ctx.it
    for position in ctx.positions(it):
        spec = it.spec()
        ctx.inject(Effect.REFUSE, at=position, category=PermissionDenied, reason="POLICY")
        ctx.inject(Effect.REFUSE, at=position + 1, count=None, reach=Reach.WRITES, may_miss=True)
        when = f"a create whose write {position} was forbidden and whose clean-up failed"
        with expect_error(PermissionDenied, reason="POLICY", when=when):
            it.create(spec)
        ctx.plan.clear()


@check("X-PART-04", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def clean_up_goes_by_recorded_ids(ctx: Context) -> None:
    """Fails each write of a create, after which no read is answered any more; what was made must be gone, or be completed."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        reads = _reads_before(ctx, partial(it.create, it.spec()), position)
        before = len(ctx.inventory(it.kind))
        # What was made since may have given a list before the write one page more: then the call is blind before it.
        refused = ctx.inject(Effect.REFUSE, at=position, category=PermissionDenied, may_miss=True)
        blind = ctx.inject(Effect.REFUSE, reach=Reach.READS, at=reads + 1, count=None, may_miss=True)
        with expect_error(PermissionDenied, Transient, when=f"a create whose write {position} was forbidden"):
            it.create(spec, token=token)
        expect(refused.fired or blind.fired, f"neither the refusal of write {position} nor that of a read struck")
        blind.lift()
        ctx.plan.clear()
        repeat(partial(it.create, spec, token=token))
        made = len(ctx.inventory(it.kind)) - before
        expect_equal(made, it.size, f"the number of {it.kind}s after a blind failure at write {position} and a repeat")


def _reads_before(ctx: Context, create: Callable[[], object], position: int) -> int:
    """Return how many reads an undisturbed create makes before its ``position``-th write: a driver may look first."""
    begun = len(ctx.plan.requests)
    create()
    reads = writes = 0
    for request in ctx.plan.requests[begun:]:
        writes += request.is_write
        if writes == position:
            break
        reads += not request.is_write
    return reads


@check("X-PART-05", on=ALL, uses=(Effect.DELAY, Uses.WIRE, Uses.CLOCK))
def clean_up_has_its_own_budget(ctx: Context) -> None:
    """Lets each write of a create take longer than the call may; after it the thing is there, or a repeat makes it."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        before = len(ctx.inventory(it.kind))
        ctx.inject(Effect.DELAY, at=position, delay=timedelta(hours=1))
        try:
            it.create(spec, token=token)
        except CloudError:
            repeat(partial(it.create, spec, token=token))
        made = len(ctx.inventory(it.kind)) - before
        expect_equal(
            made, it.size, f"the number of {it.kind}s after write {position} outlived the deadline, and a repeat"
        )


@check("X-PART-06", slots=("cluster",), needs=("cluster.batch",))
def a_batch_answers_item_by_item(ctx: Context) -> None:
    """Puts an item that cannot work first, in the middle and last; the others must be made, and the answers in order."""
    it = ctx.subject("cluster")
    size = 4
    for bad in range(size):
        specs = [it.spec() for _ in range(size)]
        specs[bad] = attrs.evolve(specs[bad], instance_type="conformance-no-such-type")
        outcomes = ctx.cluster.create(specs, token=ctx.token(), deadline=ctx.deadline())
        expect_equal(len(outcomes), size, "the number of outcomes of a batch of four")
        for place, (spec, outcome) in enumerate(zip(specs, outcomes, strict=True)):
            if place != bad:
                if not isinstance(outcome, Created):
                    raise CheckFailed(f"item {place} was not made because item {bad} could not be")
                expect_equal(outcome.instance.name, spec.name, f"the name in the outcome of item {place}")
                continue
            if not isinstance(outcome, NotCreated):
                raise CheckFailed(f"an item of an unknown instance type came out as {type(outcome).__name__}")
            expect_equal(outcome.name, spec.name, "the name in the outcome of the item that failed")
            expect(isinstance(outcome.error, InvalidRequest), f"an unknown instance type is {outcome.error}")
        names = {item.name for item in ctx.inventory("instance")}
        expect(specs[bad].name not in names, "the item that was told as not made exists")
    expect_equal(len(ctx.inventory("instance")), size * (size - 1), "the number of instances that four batches made")
