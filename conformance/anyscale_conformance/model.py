"""The model: what the cloud must hold after any sequence of calls, faults and crashes, compared with the oracle at each step.

Every rule is one call, or one call through a fault, by one of two owners, on one of the subjects that the provider makes. The
program of a failure is shrunk where time is moved by hand, and stands in the message; the run's seed replays it.
"""

import builtins
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

from anyscale_conformance.checks.repeats import ATTEMPTS
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import AMBIGUOUS, Crashed, Effect
from anyscale_conformance.kit import Item
from anyscale_conformance.programs import Draw, Program, random_program, shortest
from anyscale_conformance.rules import Hand
from anyscale_conformance.subjects import BATCH, ENDPOINT, Subject
from anyscale_core.errors import AlreadyExists, CapacityUnavailable, CloudError, Conflict, NotFound, Retry
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner

PROGRAMS, STEPS = 10, 45
"""Programs per run and steps per program where time is moved by hand; a step that makes no sense where it stands is left out."""
REAL_PROGRAMS, REAL_STEPS = 1, 30
SHRINKS = 60
"""How many shorter programs are tried after a failure."""
POOL = 2
"""How many names an owner's things of a kind share, so that they meet."""
FAULTS = (*AMBIGUOUS, Effect.CRASH_BEFORE, Effect.CRASH_AFTER, Effect.LOSE_BEFORE, Effect.THROTTLE)


@attrs.define(kw_only=True, eq=False)
class Thing:
    """Something that was asked for. ``names``: of its items. ``state``: live, going, gone, or moved by a newer order."""

    subject: str
    spec: Any
    token: Token
    key: str
    names: tuple[str, ...]
    parent: "Thing | None" = None
    state: str = "live"

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        owner: Owner = self.spec.owner
        return owner

    def __str__(self) -> str:
        return f"{self.subject} {self.names[0]}"


@attrs.frozen(kw_only=True)
class Failure:
    """A program that failed: how, and what it had done by then."""

    message: str
    story: tuple[str, ...]


Rule = Callable[["Model", Draw], None]
RULES: dict[str, Rule] = {}
WEIGHTS: dict[str, int] = {}


def rule(weight: int) -> Callable[[Rule], Rule]:
    """Make a method a rule, to be drawn so often."""

    def register(act: Rule) -> Rule:
        RULES[act.__name__], WEIGHTS[act.__name__] = act, weight
        return act

    return register


def run(ctx: Context, subjects: tuple[str, ...]) -> None:
    """Run programs over these subjects by the row's seed. Fails the check with the shortest failing program that was found."""

    def attempt(program: Program) -> Failure | None:
        return Model(ctx, subjects).run(program)

    for name in subjects:  # what they hang on is made once, and is no part of the model
        for owner in (ctx.owner, ctx.stranger):
            ctx.subject(name).spec(owner=owner)
    is_virtual = ctx.kit.is_virtual
    for _ in range(PROGRAMS if is_virtual else REAL_PROGRAMS):
        program = random_program(ctx.rng, WEIGHTS, STEPS if is_virtual else REAL_STEPS)
        failure = attempt(program)
        if failure is None:
            continue
        if is_virtual:
            failure = shortest(program, failure, attempt, tries=SHRINKS)
        raise CheckFailed(f"{failure.message} [program: {'; '.join(failure.story)}]")


class Model:
    """What one program has asked for so far."""

    def __init__(self, ctx: Context, subjects: tuple[str, ...]) -> None:
        self.ctx, self.subjects = ctx, subjects
        self.things: list[Thing] = []
        self.story: list[str] = []
        self.base = {item.key for item in ctx.inventory()}
        self.pool = {name: [ctx.name() for _ in range(POOL)] for name in subjects}

    def run(self, program: Program) -> Failure | None:
        """Run a program, look at the cloud after each step, and clear away what it made; return how it failed, if it did."""
        try:
            for step in program:
                RULES[step.rule](self, Draw(step))
                self.expect_nothing_more_and_nothing_less()
            self._clear()
            self.ctx.expect_inventory_of(frozenset(self.base), "a program, and deletes of all that was left of it,")
        except (CheckFailed, CloudError) as error:
            failure = Failure(message=str(error), story=tuple(self.story))
            with contextlib.suppress(CheckFailed, CloudError):
                self._clear()
            return failure
        return None

    # What is done --------------------------------------------------------------------------------------------------

    @rule(6)
    def create(self, draw: Draw) -> None:
        """Create under a name that may be taken, with a new token."""
        it, spec, network = self._spec(draw)
        self._tell("create", it, spec)
        self._create(it, spec, network)

    @rule(4)
    def create_through_a_fault(self, draw: Draw) -> None:
        """Create while something strikes the first write, and repeat with the token as the core would."""
        it, spec, network = self._spec(draw)
        effect = draw.of(FAULTS)
        with self._fault(effect):
            self._tell(f"create through {effect.value}", it, spec)
            self._create(it, spec, network)

    @rule(3)
    def repeat(self, draw: Draw) -> None:
        """Repeat a create whose thing is there."""
        for thing in self._one(draw, "live"):
            self._tell("repeat", self._it(thing), thing.spec)
            again = self._it(thing).create(thing.spec, token=thing.token)
            expect_equal(self._it(thing).key(again), thing.key, f"the key that a repeat returned for {thing}")

    @rule(2)
    def ask_for_another(self, draw: Draw) -> None:
        """Use the token of what is there for something else."""
        for thing in self._one(draw, "live"):
            spec = draw.of(self._it(thing).others(thing.spec))
            self._tell("use its token for another spec:", self._it(thing), thing.spec)
            with expect_error(Conflict, reason="TOKEN_MISMATCH", when=f"using the token of {thing} for another spec"):
                self._it(thing).create(spec, token=thing.token)

    @rule(3)
    def repeat_the_spent(self, draw: Draw) -> None:
        """Repeat a create whose thing is deleted: it is refused, or makes a new and live one."""
        for thing in self._one(draw, "gone", "going"):
            self._tell("repeat the spent", self._it(thing), thing.spec)
            try:
                again = self._it(thing).create(thing.spec, token=thing.token)
            except (Conflict, AlreadyExists, NotFound):
                return  # NotFound: what it hung on is gone too
            key = self._it(thing).key(again)
            taken = [other for other in self._of("live") if other.subject == thing.subject and other.key == key]
            expect(not taken, f"a spent token returned {thing}, which another token has made since")
            expect(self._items(thing), f"a spent token returned {thing}, which is not there")
            thing.state, thing.key = "live", key

    @rule(1)
    def repeat_the_moved(self, draw: Draw) -> None:
        """Repeat an order for a way in that a newer one has moved: it comes too late, and changes nothing."""
        for thing in self._one(draw, "moved"):
            self._tell("repeat the older order for", self._it(thing), thing.spec)
            with contextlib.suppress(Conflict, NotFound):
                self._it(thing).create(thing.spec, token=thing.token)

    @rule(4)
    def delete(self, draw: Draw) -> None:
        """Delete what is there."""
        for thing in self._one(draw, "live"):
            self._tell("delete", self._it(thing), thing.spec)
            answer = self._delete(thing)
            if answer is None:
                return
            expect(answer is not Deletion.ALREADY_ABSENT, f"the first delete of {thing} said that it is absent")
            expect(
                answer is Deletion.GOING or not self._items(thing), f"delete said {answer.name}, and {thing} is there"
            )

    @rule(2)
    def delete_through_a_fault(self, draw: Draw) -> None:
        """Delete what is there while something strikes the first write, and repeat."""
        for thing in self._one(draw, "live"):
            effect = draw.of(FAULTS)
            with self._fault(effect):
                self._tell(f"delete through {effect.value}", self._it(thing), thing.spec)
                self._delete(thing)

    @rule(1)
    def delete_the_gone(self, draw: Draw) -> None:
        """Delete what is gone, unless its name is in use again."""
        for thing in self._one(draw, "gone"):
            if self._has(thing.key, thing.owner):
                return
            self._tell("delete the gone", self._it(thing), thing.spec)
            answer = self._it(thing).delete(thing.key, owner=thing.owner)
            expect_equal(answer, Deletion.ALREADY_ABSENT, f"the answer to deleting {thing}, which is gone")

    @rule(2)
    def delete_anothers(self, draw: Draw) -> None:
        """Delete what is somebody else's, unless one's own has that name too."""
        for thing in self._one(draw, "live"):
            other = self.ctx.stranger if thing.owner == self.ctx.owner else self.ctx.owner
            if self._has(thing.key, other):
                return
            self._tell("delete another's", self._it(thing), thing.spec)
            answer = self._it(thing).delete(thing.key, owner=other)
            expect_equal(answer, Deletion.ALREADY_ABSENT, f"the answer to deleting {thing}, which is somebody else's")

    @rule(1)
    def kill(self, draw: Draw) -> None:
        """Let the cloud take an instance away without a word: one that has its name to itself, as hands go by names."""
        used = [name for thing in self._of("live", "going") for name in thing.names]
        alone = [t for t in self._of("live") if t.subject == "cluster" and used.count(t.names[0]) == 1]
        if not alone or Hand.KILL not in self.ctx.hands:
            return
        thing = draw.of(alone)
        self._tell("kill", self._it(thing), thing.spec)
        self.ctx.hand(Hand.KILL)(thing.names[0])
        self.ctx.eventually(lambda: not self._items(thing), f"the killed {thing} to be gone")
        thing.state = "gone"

    @rule(1)
    def create_the_sold_out(self, draw: Draw) -> None:  # noqa: ARG002
        """Create while there is none to be had."""
        if "cluster" not in self.subjects or not {Hand.SELL_OUT, Hand.RESTOCK} <= set(self.ctx.hands):
            return
        it = self.ctx.subject("cluster")
        spec = it.spec()
        self._tell("create the sold out", it, spec)
        self.ctx.hand(Hand.SELL_OUT)(spec.instance_type)
        try:
            with expect_error(CapacityUnavailable, when="creating what is sold out"):
                it.create(spec)
        finally:
            self.ctx.hand(Hand.RESTOCK)()

    @rule(4)
    def wait(self, draw: Draw) -> None:
        """Let some time pass: nothing, a moment, a boot."""
        self._tell("wait")
        share = draw.of((0, 1, 5, 40))
        self.ctx.pass_time(self.ctx.kit.patience * share / (600 if self.ctx.kit.is_virtual else 6000))

    @rule(1)
    def restart(self, draw: Draw) -> None:  # noqa: ARG002
        """Let another process go on."""
        self._tell("restart")
        self.ctx.restart()

    # What is looked at ---------------------------------------------------------------------------------------------

    @rule(4)
    def get(self, draw: Draw) -> None:
        """Get something, whatever has become of it, unless another has its key by now."""
        for thing in self._one(draw, "live", "going", "gone"):
            if any(other.key == thing.key and other is not thing for other in self._of("live", "going")):
                return
            self._tell("get", self._it(thing), thing.spec)
            try:
                seen = self._it(thing).get(thing.key, owner=thing.owner)
            except NotFound:
                expect(thing.state != "live", f"{thing} is there, and `get` says that it is not")
                # Of a batch, some may be gone before the others.
                is_gone = thing.state == "gone" or thing.subject == BATCH or not self._items(thing)
                expect(is_gone, f"{thing} is going, and `get` says that it is gone")
                return
            expect(thing.state != "gone", f"{thing} is gone, and `get` shows it")
            state = getattr(getattr(seen, "state", None), "value", "")
            expect(thing.state == "live" or state in ("", "deleting"), f"{thing} is going, and is shown as {state}")
            expect(thing.state == "going" or state != "deleting", f"{thing} is there, and is shown as {state}")

    @rule(3)
    def list(self, draw: Draw) -> None:
        """List one owner's things after the declared window: what is there, and perhaps what is going."""
        it, who = self.ctx.subject(draw.of(self.subjects)), draw.of((self.ctx.owner, self.ctx.stranger))
        self._tell("list", it)
        shown = [thing.name for thing in it.listed(owner=who)]
        self._settle(self.ctx.inventory())
        ours = [thing for thing in self.things if self._it(thing).kind == it.kind and thing.owner == who]
        live = {name for thing in ours if thing.state == "live" for name in thing.names}
        going = {name for thing in ours if thing.state == "going" for name in thing.names}
        known = live | going | {name for _, _, name in self.base}
        expect(live <= set(shown), f"the list of {it.kind}s has not {', '.join(sorted(live - set(shown)))}")
        more = ", ".join(sorted(set(shown) - known))
        expect(not more, f"the list of {it.kind}s shows {more}, which is not there")
        twice = ", ".join(sorted({name for name in shown if shown.count(name) > 1} - going))
        expect(not twice, f"the list of {it.kind}s shows {twice} more than once")

    def expect_nothing_more_and_nothing_less(self) -> None:
        """Compare the oracle with the model: every live thing once, as it was last ordered, and no other but what is going."""
        items = self.ctx.inventory()
        self._settle(items)
        known = {item.key for thing in self._of("going") for item in self._items(thing, items)}
        for thing in self._of("live"):
            found = self._items(thing, items)
            expect_equal(sorted(item.name for item in found), sorted(thing.names), f"what exists of {thing}")
            target = found[0].detail.get("target")
            if thing.subject == ENDPOINT and target is not None:
                port = target.rpartition(":")[2]
                expect_equal(port, str(thing.spec.target_port), f"the port that {thing} leads to, by its last order,")
            known |= {item.key for item in found}
        kinds = {self.ctx.subject(name).kind for name in self.subjects}
        new = [item for item in items if item.key not in self.base and item.kind in kinds]
        leaked = ", ".join(str(item) for item in new if item.key not in known)
        expect(not leaked, f"nobody asked for {leaked}, and it is there")

    # Beneath -------------------------------------------------------------------------------------------------------

    def _tell(self, what: str, it: Subject | None = None, spec: Any = None) -> None:
        """Write a step into the story."""
        whose = "" if spec is None else " of ours" if spec.owner == self.ctx.owner else " of a stranger's"
        name = "" if spec is None else f" {spec.name}"
        self.story.append(f"{what}{f' {it.name}' if it is not None else ''}{name}{whose}")

    def _of(self, *states: str) -> builtins.list[Thing]:
        return [thing for thing in self.things if thing.state in states]

    def _one(self, draw: Draw, *states: str) -> builtins.list[Thing]:
        """Return one of the things in these states, or none when there is none."""
        found = self._of(*states)
        return [draw.of(found)] if found else []

    def _has(self, key: str, owner: Owner) -> bool:
        """Tell whether an owner has something of that key."""
        return any(thing.key == key and thing.owner == owner for thing in self._of("live", "going"))

    def _it(self, thing: Thing) -> Subject:
        return self.ctx.subject(thing.subject)

    def _spec(self, draw: Draw) -> tuple[Subject, Any, Thing | None]:
        """Return what is to be made, and the network that it hangs on when that is one of the model's."""
        it, owner = self.ctx.subject(draw.of(self.subjects)), draw.of((self.ctx.owner, self.ctx.stranger))
        # A batch meets no other: an item that cannot be made would leave the rest of it there.
        spec = it.spec(None if it.name == BATCH else draw.of(self.pool[it.name]), owner=owner)
        networks = [thing for thing in self._of("live") if thing.subject == "networking" and thing.owner == owner]
        network = draw.of([None, *networks]) if it.name in ("cluster", ENDPOINT) else None
        if it.name == ENDPOINT:
            spec = attrs.evolve(spec, target_port=spec.target_port + draw.of((0, 1, 2)))
        return it, spec if network is None else attrs.evolve(spec, network=network.spec.name), network

    def _create(self, it: Subject, spec: Any, network: Thing | None) -> None:
        """Create, and hold the outcome against what the model knows of the name."""
        token = self.ctx.token()
        alike = [t for t in self._of("live", "going") if t.subject == it.name and t.spec.name == spec.name]
        mine = [thing for thing in alike if thing.owner == spec.owner]
        try:
            made = self._through(lambda: it.create(spec, token=token))
        except (AlreadyExists, Conflict) as error:
            expect(alike, f"the name {spec.name} is free, and creating the {it.name} raised {error}")
            if isinstance(error, AlreadyExists):
                why = f"why {it.name} {spec.name} was refused"
                expect_equal(error.reason, "OWNED" if mine else "FOREIGN", why)
            return
        was_live = any(thing.state == "live" for thing in mine)
        expect(not was_live or it.name == ENDPOINT, f"{it.name} {spec.name} was there, and another token made it again")
        for thing in mine:  # its place is taken: a way in was moved, or what was going is gone
            thing.state = "moved" if thing.state == "live" else "gone"
        names = tuple(each.name for each in spec.specs) if it.name == BATCH else (spec.name,)
        self.things.append(
            Thing(subject=it.name, spec=spec, token=token, key=it.key(made), names=names, parent=network)
        )

    def _delete(self, thing: Thing) -> Deletion | None:
        """Delete what is live; return the answer, None when it was refused, which is right while something hangs on it."""
        children = [child for child in self._of("live", "going") if child.parent is thing]
        try:
            answer: Deletion = self._through(lambda: self._it(thing).delete(thing.key, owner=thing.owner))
        except Conflict as error:
            is_used = children and error.reason in ("IN_USE", "BUSY")
            expect(is_used, f"deleting {thing}, in which there are {len(children)} others, raised {error}")
            return None
        live = ", ".join(str(child) for child in children if child.state == "live")
        expect(not live, f"{thing} was deleted while {live} used it")
        thing.state = "going"
        return answer

    @contextlib.contextmanager
    def _fault(self, effect: Effect) -> Iterator[None]:
        """Let the effect strike the next write of the block, where the carrier can."""
        if effect not in self.ctx.carrier.effects:
            yield
            return
        fault = self.ctx.inject(effect, may_miss=True)
        try:
            yield
        finally:
            fault.lift()

    def _through(self, act: Callable[[], Any]) -> Any:
        """Call as the core would: again after a crash, and after an error that says that repeating helps."""
        for _ in range(ATTEMPTS):
            try:
                return act()
            except Crashed:
                self.ctx.restart()
            except CloudError as error:
                if error.retry not in (Retry.SAME, Retry.WITH_TOKEN) or isinstance(error, Conflict):
                    raise
        raise CheckFailed(f"repeating {ATTEMPTS} times with the token did not help")

    def _items(self, thing: Thing, items: tuple[Item, ...] | None = None) -> builtins.list[Item]:
        """Return what exists of a thing, by its ids where it has such, else by its names and owner."""
        kind, ids = self._it(thing).kind, set(thing.key.split())
        every = self.ctx.inventory() if items is None else items
        named = [i for i in every if i.kind == kind and i.name in thing.names and thing.owner.owns(i.tags)]
        return [item for item in named if item.id in ids] if kind == "instance" else named

    def _settle(self, items: tuple[Item, ...]) -> None:
        for thing in self._of("going"):
            if not self._items(thing, items):
                thing.state = "gone"

    def _clear(self) -> None:
        """Delete all that is left, networks last, and wait until it is gone."""
        self.ctx.plan.clear()
        self._tell("delete all that is left")
        for thing in sorted(self._of("live", "going"), key=lambda thing: thing.subject == "networking"):
            self.ctx.eventually(partial(self._is_gone, thing), f"{thing} to be gone")

    def _is_gone(self, thing: Thing) -> bool:
        try:
            return self._it(thing).delete(thing.key, owner=thing.owner) is not Deletion.GOING
        except Conflict as error:
            if error.reason not in ("IN_USE", "BUSY"):
                raise
            return False
