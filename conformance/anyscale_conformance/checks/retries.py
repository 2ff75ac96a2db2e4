"""X-RTY: who repeats what, and when."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect, Reach, RetryAfter
from anyscale_conformance.rules import Hand, Uses, check
from anyscale_conformance.subjects import ALL, LASTING, MAIN
from anyscale_core.drivers.layers import RetryLayer, layered
from anyscale_core.errors import (
    CapacityUnavailable,
    CloudError,
    DeadlineExceeded,
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Scope,
    Throttled,
    Transient,
)


@check("X-RTY-01", on=ALL, uses=(Effect.REFUSE, Effect.THROTTLE, Effect.LOSE_BEFORE, Uses.WIRE))
def a_driver_repeats_nothing(ctx: Context) -> None:
    """Fails a request for good, in five ways, and counts how often the driver makes it: once."""
    ways = ((Effect.THROTTLE, Throttled), (Effect.LOSE_BEFORE, DeadlineExceeded), (Effect.REFUSE, Transient),
            (Effect.REFUSE, PermissionDenied), (Effect.REFUSE, InvalidRequest))  # fmt: skip
    for verb, act in _calls(ctx):
        for effect, category in ways:
            before = ctx.clock.now()
            fault = ctx.inject(effect, count=None, category=category, reach=Reach.ALL)
            with expect_error(category, Transient, when=f"{verb} that meets {effect.value} for ever"):
                act()
            fault.lift()
            expect_equal(
                fault.fired, 1, f"how often {verb} made the request that meets {effect.value} ({category.category})"
            )
            waited = ctx.clock.now() - before
            expect(not ctx.kit.is_virtual or waited == timedelta(), f"the driver waited {waited} after {effect.value}")


@check("X-RTY-02", on=ALL, uses=(Effect.THROTTLE, Uses.WIRE))
def retry_after_reaches_the_core(ctx: Context) -> None:
    """Throttles with several waits, in seconds and as a date; each must be on the error, and is no less than was asked for."""
    for verb, act in _calls(ctx):
        for seconds in (1, 7, 90):
            for form in RetryAfter:
                ctx.inject(
                    Effect.THROTTLE, reach=Reach.ALL, retry_after=timedelta(seconds=seconds), retry_after_as=form
                )
                with expect_error(Throttled, when=f"a throttled {verb}") as caught:
                    act()
                told = caught.error.retry_after
                enough = told is not None and told >= timedelta(seconds=seconds)
                expect(enough, f"the cloud asked {verb} to wait {seconds} s ({form.value}), and the error says {told}")


@check("X-RTY-03", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def attempts_are_counted(ctx: Context) -> None:
    """Fails a request of each verb and compares the error's count of attempts with what the wire saw."""
    for verb, act in _calls(ctx):
        fault = ctx.inject(Effect.REFUSE, count=None, category=Transient, reach=Reach.ALL)
        with expect_error(Transient, when=f"{verb} that fails") as caught:
            act()
        fault.lift()
        expect_equal(caught.error.attempts, fault.fired, f"the attempts that {verb} tells, beside those on the wire,")


@check("X-RTY-04", on=MAIN, uses=(Effect.REFUSE,))
def waits_grow_and_are_jittered(ctx: Context) -> None:
    """Puts the core's retry layer on the driver and lets three requests fail; looks at the waits between them."""
    it = ctx.it
    waits: list[timedelta] = []
    chances = iter((0.0, 1.0, 0.5))
    layer = RetryLayer(ctx.clock, waits.append, chance=lambda: next(chances))
    driver = layered(ctx.new_driver_behind(it.slot), layer)
    ctx.inject(Effect.REFUSE, reach=Reach.READS, count=3, category=Transient)
    driver.list(ctx.owner, deadline=ctx.deadline())
    expect_equal(len(waits), 3, "the number of waits around three failures")
    expect(waits[0] < waits[1] < waits[2] or waits[1] > 2 * waits[0], f"the waits do not grow: {waits}")


@check("X-RTY-05", slots=("cluster",), uses=(Effect.THROTTLE,))
def one_throttle_stalls_nothing_else(ctx: Context) -> None:
    """Throttles the writes of instances for an hour; everything else must go on at once."""
    it = ctx.subject("cluster")
    spec = it.spec()
    others = [ctx.subject(name) for name in MAIN if name != "cluster" and ctx.makes(name)]
    fault = ctx.inject(Effect.THROTTLE, it.create_action, count=None, retry_after=timedelta(hours=1), may_miss=True)
    wire = ctx.inject(Effect.THROTTLE, count=1, retry_after=timedelta(hours=1), may_miss=True)
    with expect_error(Throttled, when="a throttled create"):
        it.create(spec)
    wire.lift()
    before = ctx.clock.now()
    it.list()
    for other in others:
        other.make()
        other.list()
    fault.lift()
    waited = ctx.clock.now() - before
    expect(
        not ctx.kit.is_virtual or waited == timedelta(), f"calls of other scopes waited {waited} for the throttled one"
    )


@check("X-RTY-06", slots=("cluster",), uses=(Hand.SELL_OUT, Hand.RESTOCK, Hand.LIMIT))
def stockouts_and_quotas_are_reported_at_once(ctx: Context) -> None:
    """Sells out, then sets a limit; each comes out with its scope, at once, and is to be tried elsewhere."""
    it = ctx.subject("cluster")
    spec = it.spec()
    for hand, argument, category in (
        (Hand.SELL_OUT, spec.instance_type, CapacityUnavailable), (Hand.LIMIT, 0, QuotaExceeded)
    ):  # fmt: skip
        if hand is Hand.LIMIT:
            ctx.hand(Hand.RESTOCK)()
        ctx.hand(hand)(argument)
        before, written = ctx.clock.now(), len(ctx.writes())
        with expect_error(category, when=f"a create after {hand.value}") as caught:
            it.create(spec)
        error = caught.error
        expect(error.scope is not Scope.REQUEST, f"{error.category} does not say how far it reaches")
        expect(
            error.retry in (Retry.ELSEWHERE, Retry.AFTER_FIX),
            f"{error.category} says of repeating: {error.retry.value}",
        )
        expect(
            len(ctx.writes()) - written <= 1, f"{error.category} was tried {len(ctx.writes()) - written} times in place"
        )
        expect(
            not ctx.kit.is_virtual or ctx.clock.now() == before, f"the driver waited before it told of {error.category}"
        )


@check("X-RTY-07", on=MAIN, uses=(Effect.THROTTLE,))
def a_throttled_write_needs_its_token(ctx: Context) -> None:
    """Throttles a create and a delete under the core's retry layer: the one with a token is repeated, the other is not."""
    it = ctx.it
    layer = RetryLayer(ctx.clock, ctx.pass_time)
    plain = ctx.driver(it.slot)
    ctx.use_driver(it.slot, layered(ctx.new_driver_behind(it.slot), layer))
    create = ctx.inject(Effect.THROTTLE)
    key = it.key(it.make())
    expect_equal(create.fired, 1, "how often the throttle struck the create")
    delete = ctx.inject(Effect.THROTTLE, count=None)
    try:
        it.delete(key)
    except CloudError as error:
        expect(isinstance(error, Throttled), f"a throttled delete raised {error}")
    delete.lift()
    expect_equal(delete.fired, 1, "how often a throttled delete, which has no token, was made")
    ctx.use_driver(it.slot, plain)


def _calls(ctx: Context) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the calls of the subject by verb, on a thing that is there; what has no list is not asked for one."""
    it = ctx.it
    spec, key = it.spec(), it.key(it.make())
    yield "create", partial(it.create, spec)
    if it.name in LASTING:
        yield "get", partial(it.get, key)
        yield "list", it.list
    yield "delete", partial(it.delete, key)
