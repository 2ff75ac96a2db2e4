"""X-TIME: deadlines, clocks and instants."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import attrs

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect, Reach
from anyscale_conformance.rules import Uses, check
from anyscale_conformance.subjects import ALL, LASTING, MAIN
from anyscale_core.errors import Applied, CloudError, DeadlineExceeded

SLOW = timedelta(seconds=50)


@check("X-TIME-01", on=LASTING, uses=(Effect.DELAY, Uses.WIRE, Uses.CLOCK))
def a_deadline_holds(ctx: Context) -> None:
    """Calls after the deadline: no request may be made. Then makes every request slow: one may end late, none may follow."""
    it = ctx.it
    things = [it.make() for _ in range(8)]
    ctx.pass_window("consistency.list")
    calls = dict(_calls(ctx, it.key(things[0])))
    for verb, call in calls.items():
        before = len(ctx.plan.requests)
        with expect_error(DeadlineExceeded, when=f"{verb} after its deadline") as caught:
            call(ctx.clock.now() - timedelta(seconds=1))
        expect_equal(len(ctx.plan.requests) - before, 0, f"the requests of {verb} after its deadline")
        expect(caught.error.applied is not Applied.YES, f"{verb} after its deadline says that it was applied")
    slow = ctx.inject(Effect.DELAY, reach=Reach.ALL, count=None, delay=SLOW)
    for verb, call in calls.items():
        began = ctx.clock.now()
        deadline = began + timedelta(seconds=60)
        try:
            call(deadline)
        except CloudError as error:
            expect(isinstance(error, DeadlineExceeded), f"{verb} that ran out of time raised {error}")
        took = ctx.clock.now() - began
        expect(ctx.clock.now() <= deadline + SLOW, f"{verb} took {took} with 60 s to go and requests of {SLOW}")
    slow.lift()


@check("X-TIME-02", on=ALL, uses=(Effect.CRASH_BEFORE, Effect.CRASH_AFTER))
def a_call_broken_off_can_go_on(ctx: Context) -> None:
    """Breaks a create off at each write, as a cancelled thread would, and goes on in the same process."""
    it = ctx.it
    for position in ctx.positions(it):
        for effect in (Effect.CRASH_BEFORE, Effect.CRASH_AFTER):
            spec, token = it.spec(), ctx.token()
            before = len(ctx.inventory(it.kind))
            ctx.inject(effect, at=position)
            expect(ctx.break_off(partial(it.create, spec, token=token)), "the call went on after it was broken off")
            repeat(partial(it.create, spec, token=token))
            made = len(ctx.inventory(it.kind)) - before
            expect_equal(made, it.size, f"the number of {it.kind}s after a create was broken off at write {position}")
            it.make()


@check("X-TIME-03", on=LASTING, uses=(Uses.TIMEOUTS,))
def the_deadline_reaches_the_request(ctx: Context) -> None:
    """Gives calls little time and looks at the timeout of each request: none may be longer than the call has."""
    key = ctx.it.key(ctx.it.make())
    for verb, call in _calls(ctx, key):
        before = len(ctx.plan.requests)
        call(ctx.deadline(5))
        for request in ctx.plan.requests[before:]:
            within = request.timeout_s is not None and request.timeout_s <= 5.5
            expect(within, f"{request.action} of {verb} may take {request.timeout_s} s, and the call has 5 s")


@check("X-TIME-04", on=LASTING, uses=(Uses.TIMEOUTS,))
def no_request_without_a_timeout(ctx: Context) -> None:
    """Makes, gets, lists and deletes, and looks for requests that would wait for ever."""
    key = ctx.it.key(ctx.it.make())
    for _, call in _calls(ctx, key):
        call(ctx.deadline())
    ctx.it.delete(key)
    endless = sorted({request.action for request in ctx.plan.requests if request.timeout_s is None})
    expect(not endless, f"{', '.join(endless)} would wait for ever")


@check("X-TIME-05", slots=())
def every_instant_is_aware(ctx: Context) -> None:
    """Walks through everything that the drivers show and looks at each instant."""
    seen = 0
    for what, value in _shown(ctx):
        for instant in _instants(value):
            seen += 1
            expect(instant.utcoffset() is not None, f"{what} shows {instant}, which has no time zone")
    expect(seen or not ctx.has_slot("cluster"), "no instant is shown at all, not even since when an instance exists")


@check("X-TIME-06", slots=(), uses=(Uses.CLOCK,))
def time_is_read_from_the_clock(ctx: Context) -> None:
    """Moves the provider's clock years ahead; every instant shown must be near it, and every deadline judged by it."""
    ctx.pass_time(timedelta(days=3650))
    for name in MAIN:
        if ctx.makes(name):
            ctx.subject(name).make()
    now = ctx.clock.now()
    for what, value in _shown(ctx):
        for instant in _instants(value):
            near = abs(instant - now) < timedelta(days=365)
            expect(near, f"{what} shows {instant.astimezone(UTC)} while the clock stands at {now.astimezone(UTC)}")


def _calls(ctx: Context, key: str) -> Iterator[tuple[str, Callable[[datetime], object]]]:
    """Yield the calls of the subject, each to be given a deadline."""
    driver, owner, slot = ctx.driver(ctx.it.slot), ctx.owner, ctx.it.slot
    if slot == "cluster":
        ids = key.split()
        yield "get", lambda deadline: driver.get(ids[0], owner=owner, deadline=deadline)
        spec = ctx.subject("cluster").spec()
        yield "create", lambda deadline: driver.create([spec], token=ctx.token(), deadline=deadline)
        yield "delete", lambda deadline: driver.delete(ids, owner=owner, deadline=deadline)
    yield "list", lambda deadline: driver.list(owner, deadline=deadline)
    if slot in ("identity", "storage", "networking") and ctx.it.name == slot:
        yield "get", lambda deadline: driver.get(key, owner=owner, deadline=deadline)
        spec = ctx.it.spec()
        extra = {} if slot == "identity" else {"owner": owner}
        yield "create", lambda deadline: driver.create(spec, token=ctx.token(), deadline=deadline, **extra)
        yield "delete", lambda deadline: driver.delete(key, owner=owner, deadline=deadline)


def _shown(ctx: Context) -> Iterator[tuple[str, Any]]:
    """Yield everything that the drivers show, with the call that shows it."""
    for name in LASTING:
        if not ctx.makes(name):
            continue
        it = ctx.subject(name)
        thing = it.make()
        yield f"{it.create_action}", thing
        yield f"get of a {it.kind}", it.get(it.key(thing))
        yield f"list of {it.kind}s", it.listed()
    has = ctx.provider.capabilities.has
    if ctx.has_slot("cluster"):
        yield "cluster.offerings", ctx.cluster.offerings(deadline=ctx.deadline())
    if ctx.has_slot("cluster") and has("cluster.quotas"):
        yield "cluster.quotas", ctx.cluster.quotas(deadline=ctx.deadline())
    if ctx.has_slot("identity") and ctx.makes("identity") and has("identity.credentials"):
        name = ctx.subject("identity").make().name
        yield "identity.credentials", ctx.identity.credentials(name, owner=ctx.owner, deadline=ctx.deadline())
    if ctx.has_slot("storage") and ctx.makes("storage.grant"):
        yield "storage.grant", ctx.subject("storage.grant").make()


def _instants(value: Any) -> Iterator[datetime]:
    if isinstance(value, datetime):
        yield value
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _instants(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _instants(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _instants(item)
