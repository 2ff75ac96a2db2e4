"""What a program of the model can do: one rule per call, and the run of programs by a row's seed."""

import contextlib
from collections.abc import Callable
from functools import partial

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error, expect_no_error
from anyscale_conformance.faults.plan import AMBIGUOUS, Effect
from anyscale_conformance.model import Model
from anyscale_conformance.programs import Draw, Program, Step, random_program, shortest
from anyscale_conformance.rules import Hand
from anyscale_conformance.subjects import BATCH
from anyscale_core.errors import AlreadyExists, CapacityUnavailable, CloudError, Conflict, NotFound
from anyscale_core.models.instance import Deletion, InstanceState

PROGRAMS, STEPS = 10, 50
"""Programs per run and steps per program where time is moved by hand; a step that makes no sense where it stands is left out."""
REAL_PROGRAMS, REAL_STEPS = 1, 30
SHRINKS = 150
"""How many shorter programs are tried after a failure."""
FAULTS = (*AMBIGUOUS, Effect.CRASH_BEFORE, Effect.CRASH_AFTER, Effect.LOSE_BEFORE, Effect.THROTTLE)


@attrs.frozen(kw_only=True)
class Failure:
    """A program that failed: how, what it had done by then, and its steps up to there."""

    message: str
    story: tuple[str, ...]
    program: Program


Rule = Callable[[Model, Draw], None]
RULES: dict[str, Rule] = {}
WEIGHTS: dict[str, int] = {}


def rule(weight: int) -> Callable[[Rule], Rule]:
    """Make a function a rule, to be drawn so often."""

    def register(act: Rule) -> Rule:
        RULES[act.__name__], WEIGHTS[act.__name__] = act, weight
        return act

    return register


def run(ctx: Context, subjects: tuple[str, ...]) -> None:
    """Run programs over these subjects by the row's seed. Fails the check with the shortest failing program that was found."""

    def attempt(program: Program) -> Failure | None:
        return carry_out(Model(ctx, subjects), program)

    is_virtual = ctx.kit.is_virtual
    for _ in range(PROGRAMS if is_virtual else REAL_PROGRAMS):
        program = random_program(ctx.rng, WEIGHTS, STEPS if is_virtual else REAL_STEPS)
        failure = attempt(program)
        if failure is None:
            continue
        if is_virtual:
            failure = shortest(failure.program, failure, attempt, tries=SHRINKS)
        raise CheckFailed(f"{failure.message} [program: {'; '.join(failure.story)}]")


def carry_out(model: Model, program: Program) -> Failure | None:
    """Run a program, look at the cloud after each step, and clear away what it made; return how it failed, if it did."""
    done: tuple[Step, ...] = ()
    try:
        for step in program:
            draw, model.serial = Draw(step), step.serial
            try:
                RULES[step.rule](model, draw)
            finally:
                done += (draw.step,)
            model.expect_nothing_more_and_nothing_less()
        model.clear()
        model.ctx.expect_inventory_of(frozenset(model.base), "a program, and deletes of all that was left of it,")
    except (CheckFailed, CloudError) as error:
        failure = Failure(message=str(error), story=tuple(model.story), program=done)
        with contextlib.suppress(CheckFailed, CloudError):
            model.clear()
        return failure
    return None


# What is done --------------------------------------------------------------------------------------------------


@rule(6)
def create(model: Model, draw: Draw) -> None:
    """Create under a name that may be taken, with a new token."""
    it, spec, network = model.spec(draw)
    model.tell("create", it, spec)
    model.create(it, spec, network)


@rule(4)
def create_through_a_fault(model: Model, draw: Draw) -> None:
    """Create while something strikes the first write, and repeat with the token as the core would."""
    it, spec, network = model.spec(draw)
    effect = draw.of(FAULTS)
    with model.fault(effect):
        model.tell(f"create through {effect.value}", it, spec)
        model.create(it, spec, network)


@rule(3)
def repeat(model: Model, draw: Draw) -> None:
    """Repeat a create whose thing is there."""
    for thing in model.one(draw, "live"):
        model.tell("repeat", model.it(thing), thing.spec)
        with expect_no_error(f"repeating the create of {thing}, which is there,"):
            again = model.it(thing).create(thing.spec, token=thing.token)
        expect_equal(model.it(thing).key(again), thing.key, f"the key that a repeat returned for {thing}")


@rule(2)
def ask_for_another(model: Model, draw: Draw) -> None:
    """Use the token of what is there for something else."""
    for thing in model.one(draw, "live"):
        spec = draw.of(model.it(thing).others(thing.spec))
        model.tell("use its token for another spec:", model.it(thing), thing.spec)
        with expect_error(Conflict, reason="TOKEN_MISMATCH", when=f"using the token of {thing} for another spec"):
            model.it(thing).create(spec, token=thing.token)


@rule(3)
def repeat_the_spent(model: Model, draw: Draw) -> None:
    """Repeat a create whose thing is deleted: it is refused, or makes a new and live one."""
    for thing in model.one(draw, "gone", "going"):
        model.tell("repeat the spent", model.it(thing), thing.spec)
        try:
            again = model.it(thing).create(thing.spec, token=thing.token)
        except (Conflict, AlreadyExists, NotFound):
            return  # NotFound: what it hung on is gone too
        key = model.it(thing).key(again)
        # Another owner may have one of that name.
        alike = [other for other in model.of("live") if other.subject == thing.subject and other.key == key]
        taken = [other for other in alike if other.spec.owner == thing.spec.owner]
        expect(not taken, f"a spent token returned {thing}, which another token has made since")
        expect(model.items(thing), f"a spent token returned {thing}, which is not there")
        thing.state, thing.key = "live", key


@rule(3)
def repeat_the_moved(model: Model, draw: Draw) -> None:
    """Repeat an order for a way in that a newer one has moved: it comes too late, and changes nothing."""
    for thing in model.one(draw, "moved"):
        model.tell("repeat the older order for", model.it(thing), thing.spec)
        with contextlib.suppress(Conflict, NotFound):
            model.it(thing).create(thing.spec, token=thing.token)


@rule(4)
def delete(model: Model, draw: Draw) -> None:
    """Delete what is there."""
    for thing in model.one(draw, "live"):
        model.tell("delete", model.it(thing), thing.spec)
        answer = model.delete(thing)
        if answer is None:
            return
        expect(answer is not Deletion.ALREADY_ABSENT, f"the first delete of {thing} said that it is absent")
        expect(answer is Deletion.GOING or not model.items(thing), f"delete said {answer.name}, and {thing} is there")


@rule(2)
def delete_through_a_fault(model: Model, draw: Draw) -> None:
    """Delete what is there while something strikes the first write, and repeat."""
    for thing in model.one(draw, "live"):
        effect = draw.of(FAULTS)
        with model.fault(effect):
            model.tell(f"delete through {effect.value}", model.it(thing), thing.spec)
            model.delete(thing)


@rule(2)
def delete_the_going(model: Model, draw: Draw) -> None:
    """Delete again what is being deleted: until it is gone, nobody may say that it is."""
    for thing in model.one(draw, "going"):
        model.tell("delete the going", model.it(thing), thing.spec)
        answer = model.it(thing).delete(thing.key, owner=thing.owner)
        expect(answer is Deletion.GOING or not model.items(thing), f"delete said {answer.name}, and {thing} is there")


@rule(1)
def delete_the_gone(model: Model, draw: Draw) -> None:
    """Delete what is gone, unless its name is in use again."""
    for thing in model.one(draw, "gone"):
        if model.has(thing.key, thing.owner):
            return
        model.tell("delete the gone", model.it(thing), thing.spec)
        answer = model.it(thing).delete(thing.key, owner=thing.owner)
        expect_equal(answer, Deletion.ALREADY_ABSENT, f"the answer to deleting {thing}, which is gone")


@rule(2)
def delete_anothers(model: Model, draw: Draw) -> None:
    """Delete what is somebody else's, unless one's own has that name too."""
    for thing in model.one(draw, "live"):
        other = draw.of([owner for owner in model.owners.values() if owner != thing.owner])
        if model.has(thing.key, other):
            return
        model.tell("delete another's", model.it(thing), thing.spec)
        answer = model.it(thing).delete(thing.key, owner=other)
        expect_equal(answer, Deletion.ALREADY_ABSENT, f"the answer to deleting {thing}, which is somebody else's")


@rule(1)
def kill(model: Model, draw: Draw) -> None:
    """Let the cloud take an instance away without a word."""
    for thing in model.alone(draw, Hand.KILL):
        model.tell("kill", model.it(thing), thing.spec)
        model.ctx.hand(Hand.KILL)(thing.names[0])
        model.ctx.eventually(partial(model.is_absent, thing), f"the killed {thing} to be gone")
        thing.state = "gone"


@rule(2)
def stop(model: Model, draw: Draw) -> None:
    """Let an instance exist and not run; it is there all the same."""
    for thing in model.alone(draw, Hand.STOP):
        model.tell("stop", model.it(thing), thing.spec)
        model.ctx.hand(Hand.STOP)(thing.names[0])
        with expect_no_error(f"getting {thing}, which was stopped,"):
            seen = model.it(thing).get(thing.key, owner=thing.owner)
        expect_equal(seen.state, InstanceState.STOPPED, f"the state of {thing}, which was stopped,")


@rule(1)
def create_the_sold_out(model: Model, _: Draw) -> None:
    """Create while there is none to be had."""
    if "cluster" not in model.subjects or not {Hand.SELL_OUT, Hand.RESTOCK} <= set(model.ctx.hands):
        return
    it = model.ctx.subject("cluster")
    spec = it.spec()
    model.tell("create the sold out", it, spec)
    model.ctx.hand(Hand.SELL_OUT)(spec.instance_type)
    try:
        with expect_error(CapacityUnavailable, when="creating what is sold out"):
            it.create(spec)
    finally:
        model.ctx.hand(Hand.RESTOCK)()


@rule(4)
def wait(model: Model, draw: Draw) -> None:
    """Let some time pass: nothing, a moment, a boot."""
    model.tell("wait")
    share = draw.of((0, 1, 5, 40))
    model.ctx.pass_time(model.ctx.kit.patience * share / (600 if model.ctx.kit.is_virtual else 6000))


@rule(1)
def restart(model: Model, _: Draw) -> None:
    """Let another process go on."""
    model.tell("restart")
    model.ctx.restart()


# What is looked at ---------------------------------------------------------------------------------------------


@rule(4)
def get(model: Model, draw: Draw) -> None:
    """Get something, whatever has become of it, unless another has its key by now."""
    for thing in model.one(draw, "live", "going", "gone"):
        if any(other.key == thing.key and other is not thing for other in model.of("live", "going")):
            return
        model.tell("get", model.it(thing), thing.spec)
        try:
            seen = model.it(thing).get(thing.key, owner=thing.owner)
        except NotFound:
            expect(thing.state != "live", f"{thing} is there, and `get` says that it is not")
            # Of a batch, some may be gone before the others.
            is_gone = thing.state == "gone" or thing.subject == BATCH or not model.items(thing)
            expect(is_gone, f"{thing} is going, and `get` says that it is gone")
            return
        expect(thing.state != "gone", f"{thing} is gone, and `get` shows it")
        state = getattr(getattr(seen, "state", None), "value", "")
        expect(thing.state == "live" or state in ("", "deleting"), f"{thing} is going, and is shown as {state}")
        expect(thing.state == "going" or state != "deleting", f"{thing} is there, and is shown as {state}")


@rule(3)
def list(model: Model, draw: Draw) -> None:
    """List one owner's things after the declared window: what is there, and perhaps what is going."""
    it, who = model.ctx.subject(draw.of(model.subjects)), draw.of(tuple(model.owners.values()))
    model.tell("list", it)
    ours = [thing for thing in model.things if model.it(thing).kind == it.kind and thing.owner == who]
    # What goes while the window passes may still be shown: the list is as old as the window.
    going = {name for thing in ours if thing.state == "going" for name in thing.names}
    shown = [thing.name for thing in it.listed(owner=who)]
    model.settle(model.ctx.inventory())
    live = {name for thing in ours if thing.state == "live" for name in thing.names}
    known = live | going | {name for _, _, name in model.base}
    expect(live <= set(shown), f"the list of {it.kind}s has not {', '.join(sorted(live - set(shown)))}")
    more = ", ".join(sorted(set(shown) - known))
    expect(not more, f"the list of {it.kind}s shows {more}, which is not there")
    twice = ", ".join(sorted({name for name in shown if shown.count(name) > 1} - going))
    expect(not twice, f"the list of {it.kind}s shows {twice} more than once")
