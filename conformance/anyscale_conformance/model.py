"""The model: what the cloud must hold after any sequence of calls, faults and crashes, compared with the oracle at each step.

A Hypothesis state machine over the subjects that a provider makes: every rule is one call, or one call through a fault, by one of
two owners. The program of a failure is shrunk where time is moved by hand, and stands in the message; the run's seed replays it.
"""

import builtins
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from anyscale_conformance.checks.repeats import ATTEMPTS
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import AMBIGUOUS, Crashed, Effect
from anyscale_conformance.kit import Item
from anyscale_conformance.rules import Hand
from anyscale_conformance.subjects import BATCH, ENDPOINT, Subject
from anyscale_core.errors import AlreadyExists, CapacityUnavailable, CloudError, Conflict, NotFound, Retry
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner

EXAMPLES, STEPS = 5, 30
"""Programs per run and steps per program, where time is moved by hand."""
REAL_EXAMPLES, REAL_STEPS = 1, 20
POOL = 2
"""How many names an owner's things of a kind share, so that they meet."""
FAULTS = (*AMBIGUOUS, Effect.CRASH_BEFORE, Effect.CRASH_AFTER, Effect.LOSE_BEFORE, Effect.THROTTLE)

M = TypeVar("M", bound="Model")
F = TypeVar("F", bound=Callable[..., None])


@attrs.define(kw_only=True, eq=False)
class Thing:
    """Something that was asked for. ``names``: of its items, one each. ``state``: live, going or gone."""

    subject: str
    spec: Any
    token: Token
    key: str
    names: tuple[str, ...]
    parent: "Thing | None" = None
    state: str = "live"
    stopped: bool = False

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        owner: Owner = self.spec.owner
        return owner

    def __str__(self) -> str:
        return f"{self.subject} {self.names[0]}"


def run(ctx: Context, subjects: tuple[str, ...]) -> None:
    """Run programs over these subjects by the row's seed. Fails the check with the shortest program that was found."""
    is_virtual = ctx.kit.is_virtual
    for name in subjects:  # what they hang on is made once, and is no part of the model
        for owner in (ctx.owner, ctx.stranger):
            ctx.subject(name).spec(owner=owner)
    machine = type("Model", (Model,), {"ctx": ctx, "subjects": subjects})
    how = settings(
        max_examples=EXAMPLES if is_virtual else REAL_EXAMPLES,
        stateful_step_count=STEPS if is_virtual else REAL_STEPS,
        phases=(Phase.generate, Phase.shrink) if is_virtual else (Phase.generate,),
        database=None, deadline=None, derandomize=False, print_blob=False, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
    )  # fmt: skip
    try:
        run_state_machine_as_test(seed(ctx.rng.getrandbits(32))(machine), settings=how)
    except (Flaky, HypothesisException) as error:
        first = next(iter(_failures(error)), None)
        raise CheckFailed(f"one program came out differently when it ran twice; first: {first or error}") from error


def _failures(error: BaseException) -> Iterator[CheckFailed]:
    if isinstance(error, CheckFailed):
        yield error
    for inner in getattr(error, "exceptions", ()):
        yield from _failures(inner)


def step(act: F) -> F:
    """Let a failure of a rule tell the program that led to it."""

    @functools.wraps(act)
    def stepped(self: "Model", *args: Any, **kwargs: Any) -> None:
        try:
            act(self, *args, **kwargs)
        except (CheckFailed, CloudError) as error:
            self.failed = True
            raise CheckFailed(f"{error} [program: {'; '.join(self.story)}]") from error

    return stepped  # type: ignore[return-value]


pick = st.sampled_from(range(6))
"""Picks one of several, by its number modulo how many there are."""


class Model(RuleBasedStateMachine):
    """The state machine. ``ctx`` and ``subjects`` are set by a subclass for each run."""

    ctx: Context
    subjects: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.things: list[Thing] = []
        self.story: list[str] = []
        self.failed = False
        self.base = {item.key for item in self.ctx.inventory()}
        self.pool = {name: [self.ctx.name() for _ in range(POOL)] for name in self.subjects}

    # What is done --------------------------------------------------------------------------------------------------

    @rule(subject=pick, name=pick, owner=pick, parent=pick)
    @step
    def create(self, subject: int, name: int, owner: int, parent: int) -> None:
        """Create under a name that may be taken, with a new token."""
        it, spec, network = self._spec(subject, name, owner, parent)
        self.tell("create", it, spec)
        self._create(it, spec, self.ctx.token(), network)

    @rule(subject=pick, name=pick, owner=pick, effect=st.sampled_from(FAULTS))
    @step
    def create_through_a_fault(self, subject: int, name: int, owner: int, effect: Effect) -> None:
        """Create while something strikes the first write, and repeat with the token as the core would."""
        it, spec, network = self._spec(subject, name, owner, 0)
        if effect not in self.ctx.carrier.effects:
            return
        self.tell(f"create through {effect.value}", it, spec)
        fault = self.ctx.inject(effect, at=1, may_miss=True)
        self._create(it, spec, self.ctx.token(), network)
        fault.lift()

    @precondition(lambda self: self.of("live"))
    @rule(which=pick)
    @step
    def repeat(self, which: int) -> None:
        """Repeat a create whose thing is there."""
        thing = self.one("live", which)
        self.tell("repeat", self.it(thing), thing.spec)
        again = self.it(thing).create(thing.spec, token=thing.token)
        expect_equal(self.it(thing).key(again), thing.key, f"the key that a repeat returned for {thing}")

    @precondition(lambda self: self.of("live"))
    @rule(which=pick, other=pick)
    @step
    def ask_for_another(self, which: int, other: int) -> None:
        """Use the token of what is there for something else."""
        thing = self.one("live", which)
        others = self.it(thing).others(thing.spec)
        spec = others[other % len(others)]
        self.tell("use its token for another spec:", self.it(thing), thing.spec)
        with expect_error(Conflict, reason="TOKEN_MISMATCH", when=f"using the token of {thing} for another spec"):
            self.it(thing).create(spec, token=thing.token)

    @precondition(lambda self: self.of("gone", "going"))
    @rule(which=pick)
    @step
    def repeat_the_spent(self, which: int) -> None:
        """Repeat a create whose thing is deleted: it is refused, or makes a new and live one."""
        thing = self.one("gone", which) if self.of("gone") else self.one("going", which)
        it = self.it(thing)
        self.tell("repeat the spent", it, thing.spec)
        try:
            again = it.create(thing.spec, token=thing.token)
        except (Conflict, AlreadyExists, NotFound):
            return  # NotFound: what it hung on is gone too
        key = it.key(again)
        taken = [other for other in self.of("live") if other.subject == thing.subject and other.key == key]
        expect(not taken, f"a spent token returned {thing}, which another token has made since")
        expect(self._items(thing), f"a spent token returned {thing}, which is not there")
        thing.state, thing.key = "live", key

    @precondition(lambda self: self.of("live"))
    @rule(which=pick, effect=st.sampled_from((None, None, *FAULTS)))
    @step
    def delete(self, which: int, effect: Effect | None) -> None:
        """Delete what is there, sometimes through a fault."""
        thing = self.one("live", which)
        self.tell(f"delete{f' through {effect.value}' if effect else ''}", self.it(thing), thing.spec)
        fault = None
        if effect is not None and effect in self.ctx.carrier.effects:
            fault = self.ctx.inject(effect, at=1, may_miss=True)
        children = [child for child in self.of("live", "going") if child.parent is thing]
        try:
            answer = self._through(lambda: self.it(thing).delete(thing.key, owner=thing.owner))
        except Conflict as error:
            expect(children, f"deleting {thing}, which nothing uses, raised {error}")
            expect(error.reason in ("IN_USE", "BUSY"), f"deleting {thing} with something in it raised {error}")
            return
        finally:
            if fault is not None:
                fault.lift()
        live = [str(child) for child in children if child.state == "live"]
        expect(not live, f"{thing} was deleted while {', '.join(live)} used it")
        expect(fault or answer is not Deletion.ALREADY_ABSENT, f"the first delete of {thing} said that it is absent")
        expect(answer is Deletion.GOING or not self._items(thing), f"a delete said {answer.name}, and {thing} is there")
        thing.state = "going"

    @precondition(lambda self: self.of("gone"))
    @rule(which=pick)
    @step
    def delete_the_gone(self, which: int) -> None:
        """Delete what is gone, unless its name is in use again."""
        thing = self.one("gone", which)
        if any(other.key == thing.key and other.owner == thing.owner for other in self.of("live", "going")):
            return
        self.tell("delete the gone", self.it(thing), thing.spec)
        answer = self.it(thing).delete(thing.key, owner=thing.owner)
        expect_equal(answer, Deletion.ALREADY_ABSENT, f"the answer to deleting {thing}, which is gone")

    @precondition(lambda self: self.of("live"))
    @rule(which=pick)
    @step
    def delete_anothers(self, which: int) -> None:
        """Delete what is somebody else's, unless one's own has that name too."""
        thing = self.one("live", which)
        other = self.ctx.stranger if thing.owner == self.ctx.owner else self.ctx.owner
        if any(mine.key == thing.key and mine.owner == other for mine in self.of("live", "going")):
            return
        self.tell("delete another's", self.it(thing), thing.spec)
        answer = self.it(thing).delete(thing.key, owner=other)
        expect_equal(answer, Deletion.ALREADY_ABSENT, f"the answer to deleting {thing}, which is somebody else's")

    @precondition(lambda self: self.alone())
    @rule(which=pick)
    @step
    def kill(self, which: int) -> None:
        """Let the cloud take an instance away without a word."""
        thing = self.alone()[which % len(self.alone())]
        self.tell("kill", self.it(thing), thing.spec)
        self.ctx.hand(Hand.KILL)(thing.names[0])
        self.ctx.eventually(lambda: not self._items(thing), f"the killed {thing} to be gone")
        thing.state = "gone"

    @precondition(lambda self: "cluster" in self.subjects and {Hand.SELL_OUT, Hand.RESTOCK} <= set(self.ctx.hands))
    @rule()
    @step
    def create_the_sold_out(self) -> None:
        """Create while there is none to be had."""
        it = self.ctx.subject("cluster")
        spec = it.spec()
        self.tell("create the sold out", it, spec)
        self.ctx.hand(Hand.SELL_OUT)(spec.instance_type)
        try:
            with expect_error(CapacityUnavailable, when="creating what is sold out"):
                it.create(spec)
        finally:
            self.ctx.hand(Hand.RESTOCK)()

    @rule(share=st.sampled_from((0, 1, 7, 40)))
    @step
    def wait(self, share: int) -> None:
        """Let some time pass."""
        self.tell("wait")
        self.ctx.pass_time(self.ctx.kit.patience * share / (600 if self.ctx.kit.is_virtual else 6000))

    @rule()
    @step
    def restart(self) -> None:
        """Let another process go on."""
        self.tell("restart")
        self.ctx.restart()

    # What is looked at ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.things)
    @rule(which=pick)
    @step
    def get(self, which: int) -> None:
        """Get something, whatever has become of it."""
        thing = self.things[which % len(self.things)]
        if self.it(thing).key and any(o.key == thing.key and o is not thing for o in self.of("live", "going")):
            return
        self.tell("get", self.it(thing), thing.spec)
        try:
            seen = self.it(thing).get(thing.key, owner=thing.owner)
        except NotFound:
            expect(thing.state != "live", f"{thing} is there, and `get` says that it is not")
            expect(
                thing.subject == BATCH or not self._items(thing), f"{thing} is going, and `get` says that it is gone"
            )
            return
        expect(thing.state != "gone", f"{thing} is gone, and `get` shows it")
        state = getattr(getattr(seen, "state", None), "value", "")
        expect(thing.state == "live" or state in ("", "deleting"), f"{thing} is going, and is shown as {state}")
        expect(thing.state == "going" or state != "deleting", f"{thing} is there, and is shown as {state}")

    @rule(subject=pick, owner=pick)
    @step
    def list(self, subject: int, owner: int) -> None:
        """List one owner's things after the declared window: what is there, and perhaps what is going."""
        it = self.ctx.subject(self.subjects[subject % len(self.subjects)])
        who = (self.ctx.owner, self.ctx.stranger)[owner % 2]
        self.tell("list", it)
        shown = [thing.name for thing in it.listed(owner=who)]
        self._settle()
        ours = [thing for thing in self.things if self.it(thing).kind == it.kind and thing.owner == who]
        live = {name for thing in ours if thing.state == "live" for name in thing.names}
        going = {name for thing in ours if thing.state == "going" for name in thing.names}
        before = {name for _, _, name in self.base}
        expect(live <= set(shown), f"the list of {it.kind}s has not {', '.join(sorted(live - set(shown)))}")
        more = set(shown) - live - going - before
        expect(not more, f"the list of {it.kind}s shows {', '.join(sorted(more))}, which is not there")
        twice = {name for name in shown if shown.count(name) > 1} - going
        expect(not twice, f"the list of {it.kind}s shows {', '.join(sorted(twice))} more than once")

    @invariant()
    @step
    def nothing_leaks_and_nothing_is_lost(self) -> None:
        """Compare the oracle with the model: every live thing once, no other but what is going."""
        self._settle()
        kinds = {self.ctx.subject(name).kind for name in self.subjects}
        new = [item for item in self.ctx.inventory() if item.key not in self.base and item.kind in kinds]
        for thing in self.of("live"):
            found = sorted(item.name for item in self._items(thing))
            expect_equal(found, sorted(thing.names), f"what exists of {thing}")
        known = {item.key for thing in self.of("live", "going") for item in self._items(thing)}
        leaked = [str(item) for item in new if item.key not in known]
        expect(not leaked, f"nobody asked for {', '.join(leaked)}, and it is there")

    def teardown(self) -> None:
        """End with nothing: after every program all that it made is deleted, and the world is as it was."""
        self.ctx.plan.clear()
        for parents in (False, True):
            for thing in [each for each in self.of("live") if (each.subject == "networking") is parents]:
                self._let_go(thing)
        if self.failed:
            return
        self.failed = True
        self.ctx.expect_inventory_of(
            frozenset(self.base), f"the end of a program [{'; '.join(self.story)}; delete all that is left]"
        )

    # Beneath -------------------------------------------------------------------------------------------------------

    def tell(self, what: str, it: Subject | None = None, spec: Any = None) -> None:
        """Write a step into the story."""
        whose = "" if spec is None else " of ours" if spec.owner == self.ctx.owner else " of a stranger's"
        name = "" if spec is None else f" {spec.name}"
        self.story.append(f"{what}{f' {it.name}' if it is not None else ''}{name}{whose}")

    def of(self, *states: str) -> "builtins.list[Thing]":
        """Return the things in these states, oldest first."""
        return [thing for thing in self.things if thing.state in states]

    def one(self, state: str, which: int) -> Thing:
        """Return one of the things in a state."""
        found = self.of(state)
        return found[which % len(found)]

    def alone(self) -> "builtins.list[Thing]":
        """Return the instances that a hand can take by their names: those that have one to themselves."""
        if Hand.KILL not in self.ctx.hands:
            return []
        used = [name for thing in self.of("live", "going") for name in thing.names]
        return [t for t in self.of("live") if t.subject == "cluster" and used.count(t.names[0]) == 1]

    def it(self, thing: Thing) -> Subject:
        """Return the subject of a thing."""
        return self.ctx.subject(thing.subject)

    def _spec(self, subject: int, name: int, owner: int, parent: int) -> tuple[Subject, Any, Thing | None]:
        it = self.ctx.subject(self.subjects[subject % len(self.subjects)])
        whose = (self.ctx.owner, self.ctx.stranger)[owner % 2]
        wanted = self.pool[it.name][name % POOL]
        # A batch meets no other: an item that cannot be made would leave the rest of it there.
        spec = it.spec(None if it.name == BATCH else wanted, owner=whose)
        networks = [t for t in self.of("live") if t.subject == "networking" and t.owner == whose]
        if parent and networks and it.name in ("cluster", ENDPOINT):
            network = networks[parent % len(networks)]
            return it, attrs.evolve(spec, network=network.spec.name), network
        return it, spec, None

    def _create(self, it: Subject, spec: Any, token: Token, network: Thing | None) -> None:
        """Create, and hold the outcome against what the model knows of the name."""
        alike = [t for t in self.of("live", "going") if t.subject == it.name and t.spec.name == spec.name]
        mine = [thing for thing in alike if thing.owner == spec.owner]
        is_taken = any(thing.state == "live" for thing in mine)
        try:
            made = self._through(lambda: it.create(spec, token=token))
        except (AlreadyExists, Conflict) as error:
            expect(alike, f"the name {spec.name} is free, and creating the {it.name} raised {error}")
            if isinstance(error, AlreadyExists):
                wanted = "OWNED" if mine else "FOREIGN"
                expect_equal(error.reason, wanted, f"the reason why {it.name} {spec.name} was refused")
            return
        if is_taken and it.name != ENDPOINT:
            raise CheckFailed(f"{it.name} {spec.name} was there, and was made again by another token")
        for thing in mine:  # its place is taken: an endpoint was moved, or what was going is gone
            thing.state = "gone"
            thing.key = f"{thing.key} (before)" if it.name == ENDPOINT else thing.key
        names = tuple(each.name for each in spec.specs) if it.name == BATCH else (spec.name,)
        self.things.append(
            Thing(subject=it.name, spec=spec, token=token, key=it.key(made), names=names, parent=network)
        )

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

    def _items(self, thing: Thing) -> "builtins.list[Item]":
        """Return what exists of a thing, by its ids where it has such, else by its names and owner."""
        kind, ids = self.it(thing).kind, set(thing.key.split())
        items = [item for item in self.ctx.inventory(kind, owner=thing.owner) if item.name in thing.names]
        return [item for item in items if item.id in ids] if kind == "instance" else items

    def _settle(self) -> None:
        for thing in self.of("going"):
            if not self._items(thing):
                thing.state = "gone"

    def _let_go(self, thing: Thing) -> None:
        try:
            self.ctx.eventually(lambda: self._is_let_go(thing), f"{thing} to be gone")
        except (CheckFailed, CloudError) as error:
            if not self.failed:
                self.failed = True
                raise CheckFailed(f"{error} [program: {'; '.join(self.story)}; delete {thing}]") from error

    def _is_let_go(self, thing: Thing) -> bool:
        try:
            return self.it(thing).delete(thing.key, owner=thing.owner) is not Deletion.GOING
        except Conflict as error:
            if error.reason not in ("IN_USE", "BUSY"):
                raise
            return False
