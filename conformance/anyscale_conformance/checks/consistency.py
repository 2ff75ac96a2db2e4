"""X-EC: what a list shows, and when."""

from functools import partial

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Hand, Uses, check
from anyscale_conformance.subjects import ALL, LASTING
from anyscale_core.errors import Conflict, Transient
from anyscale_core.models.instance import Deletion


@check("X-EC-01", on=LASTING)
def what_was_made_is_listed_in_time(ctx: Context) -> None:
    """Makes several, lets the declared window pass and looks for each in the list, with the list as old as it may be."""
    it = ctx.it
    _lag(ctx)
    made = [it.make() for _ in range(3)]
    names = sorted(part.name for thing in made for part in getattr(thing, "instances", (thing,)))
    expect_equal(it.names(), tuple(names), f"the {it.kind}s in the list after the declared window")
    for thing in made:
        expect_equal(it.key(it.get(it.key(thing))), it.key(thing), "what `get` returns for a key that create returned")


@check("X-EC-02", on=ALL)
def a_lagging_list_makes_no_second_thing(ctx: Context) -> None:
    """Creates again at once, by another process, while lists do not show the first thing yet."""
    it, token = ctx.it, ctx.token()
    _lag(ctx)
    spec = it.spec()
    first = it.create(spec, token=token)
    ctx.restart()
    again = it.create(spec, token=token)
    expect_equal(it.key(again), it.key(first), "the key that the second create returned, while lists lagged,")
    expect_equal(len(ctx.inventory(it.kind)), it.size, f"the number of {it.kind}s after two creates while lists lagged")


@check("X-EC-03", on=LASTING)
def a_name_can_be_used_again(ctx: Context) -> None:
    """Deletes a thing and, once it is gone, makes another of the same name with a new token; twice."""
    it = ctx.it
    spec = it.spec()
    thing = it.create(spec)
    for _ in range(2):
        it.delete_for_good(it.key(thing))
        ctx.eventually(lambda: not ctx.inventory(it.kind), f"the {it.kind} to be gone")
        ctx.pass_window("consistency.delete")
        thing = it.create(spec)
        expect_equal(len(ctx.inventory(it.kind)), it.size, f"the number of {it.kind}s after the name was used again")
        expect_equal(it.key(it.get(it.key(thing))), it.key(thing), "what `get` returns of the new thing")


@check("X-EC-04", on=("cluster",))
def an_old_list_does_no_harm(ctx: Context) -> None:
    """Takes a list, deletes what it shows, makes a namesake, and then acts by the old list again."""
    it = ctx.it
    spec = it.spec()
    it.create(spec)
    old = it.listed()
    for thing in old:
        it.delete_for_good(it.key(thing))
    _lag(ctx)
    new = it.create(spec)
    for thing in old:
        if it.key(thing) != it.key(new):
            answer = it.delete(it.key(thing))
            expect(answer is not Deletion.GOING, "a delete by an old list says that something is going")
    alive = [item.id for item in ctx.inventory(it.kind) if item.state != "deleting"]
    expect_equal(alive, [it.key(new)], "what is alive after deletes by an old list")
    ctx.restart()
    expect_equal(len(ctx.inventory(it.kind)), 1, "the number of instances after an old list was acted on")


@check("X-EC-05", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def propagation_is_told_and_passes(ctx: Context) -> None:
    """Answers each write that something is not visible yet; wants Transient(PROPAGATION), no waiting, and a repeat that works."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        ctx.inject(Effect.REFUSE, at=position, category=Transient, reason="PROPAGATION")
        before = ctx.clock.now()
        with expect_error(Transient, reason="PROPAGATION", when="a create before what it needs is visible"):
            it.create(spec, token=token)
        expect(not ctx.kit.is_virtual or ctx.clock.now() == before, "the driver waited for what is not visible yet")
        repeat(partial(it.create, spec, token=token))
        ctx.inject(Effect.REFUSE, at=position, category=Conflict, reason="BUSY")
        with expect_error(Conflict, reason="BUSY", when="a create while the cloud is busy with another"):
            it.make()


def _lag(ctx: Context) -> None:
    """Let lists be as old as the provider declares that they may be, where the kit can."""
    if Hand.LAG in ctx.hands:
        ctx.hand(Hand.LAG)(ctx.provider.capabilities.windows["consistency.list"])
