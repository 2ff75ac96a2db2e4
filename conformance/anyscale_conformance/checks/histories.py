"""X-CON-08: what ran at once is held against every order in which it could have run one after another."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any

import attrs

from anyscale_conformance.checks.concurrency import at_once
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import MAIN, Subject
from anyscale_core.errors import AlreadyExists, CloudError, Conflict, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion

ROUNDS = 16
CALLS = 5
"""How many run at once: 120 orders, each of which is tried."""


@attrs.frozen(kw_only=True)
class State:
    """What one name stands for: the token of what is there, whether that is going, and the tokens whose things are deleted."""

    holder: Token | None = None
    is_going: bool = False
    spent: frozenset[Token] = frozenset()

    @property
    def is_there(self) -> bool:
        """Whether something is there to stay."""
        return self.holder is not None and not self.is_going


@attrs.frozen(kw_only=True)
class Call:
    """One call and what came of it. ``of``: whose thing a delete or a get is about; None when it goes by the name."""

    verb: str
    token: Token | None = None
    of: Token | None = None
    outcome: Any = None

    def __str__(self) -> str:
        token = "" if self.token is None else f" with token {self.token[:4]}"
        outcome = self.outcome
        if not isinstance(outcome, CloudError | Deletion):
            return f"{self.verb}{token}: it is there"
        return f"{self.verb}{token}: {outcome.name if isinstance(outcome, Deletion) else outcome.category}"


@check("X-CON-08", on=MAIN)
def as_if_in_some_order(ctx: Context) -> None:
    """Lets creates by several tokens, deletes and gets of one name run at once, and looks for an order that explains them all."""
    it = ctx.it
    for _ in range(ROUNDS):
        spec, first, second = it.spec(), ctx.token(), ctx.token()
        key = it.key(it.create(spec, token=first)) if ctx.rng.random() < 0.5 else ""
        of = first if it.slot == "cluster" else None
        known = key or ("" if it.slot == "cluster" else spec.name)
        kinds = ("create", "create", "delete", "delete", "get") if known else ("create",)
        calls = [Call(verb=ctx.rng.choice(kinds), token=ctx.rng.choice((first, second)), of=of) for _ in range(CALLS)]
        calls = [call if call.verb == "create" else attrs.evolve(call, token=None) for call in calls]
        outcomes = at_once([_act(it, call, spec, known) for call in calls])
        calls = [attrs.evolve(call, outcome=outcome) for call, outcome in zip(calls, outcomes, strict=True)]
        ctx.eventually(partial(_rests, ctx, it), f"what is going of the {it.kind} to go")
        is_there = any(item.name == spec.name for item in ctx.inventory(it.kind))
        start = State(holder=first) if key else State()
        told = "; ".join(map(str, calls))
        end = "it is there" if is_there else "nothing is there"
        expect(explained(start, calls, is_there=is_there), f"no order of these explains them and that {end}: {told}")
        for thing in it.listed():
            it.delete_for_good(it.key(thing))


def explained(start: State, calls: list[Call], *, is_there: bool) -> bool:
    """Tell whether the calls, in some order, can have come out as they did, and have led to what is there in the end."""
    for order in permutations(calls):
        states = {start}
        for call in order:
            states = {after for before in states for after in _after(before, call)}
        if any(state.is_there == is_there for state in states):
            return True
    return False


def _act(it: Subject, call: Call, spec: Any, key: str) -> Callable[[], Any]:
    if call.verb == "create":
        return partial(it.create, spec, token=call.token)
    return partial(it.delete, key) if call.verb == "delete" else partial(it.get, key)


def _rests(ctx: Context, it: Subject) -> bool:
    return not [item for item in ctx.inventory(it.kind) if item.state == "deleting"]


def _after(state: State, call: Call) -> Iterator[State]:
    """Yield every state that may follow on a call with that outcome; none when it cannot have come out so."""
    if state.is_going:  # it may have gone just before
        yield from _after(attrs.evolve(state, holder=None, is_going=False), call)
    if isinstance(call.outcome, Conflict) and call.outcome.reason in Conflict.PASSING:
        yield state
    elif call.verb == "create":
        yield from _after_create(state, call)
    elif state.holder is None or call.of not in (None, state.holder):
        # Two deletes that overlap may both have seen it go.
        gone = call.outcome is Deletion.ALREADY_ABSENT or (call.outcome is Deletion.GONE and state.spent)
        absent = isinstance(call.outcome, NotFound) if call.verb == "get" else gone
        yield from [state] if absent else []
    elif call.verb == "get":
        yield from [] if isinstance(call.outcome, CloudError) else [state]
    elif call.outcome is Deletion.GOING:
        yield attrs.evolve(state, is_going=True, spent=state.spent | {state.holder})
    elif call.outcome is Deletion.GONE:
        yield State(spent=state.spent | {state.holder})


def _after_create(state: State, call: Call) -> Iterator[State]:
    refused = isinstance(call.outcome, AlreadyExists | Conflict)
    made = not isinstance(call.outcome, CloudError)
    if state.is_there and call.token == state.holder:
        yield from [state] if made else []
    elif call.token in state.spent or state.holder is not None:
        if refused:
            yield state
        elif made and state.holder is None:  # a spent token may make a new and live thing
            yield attrs.evolve(state, holder=call.token, spent=state.spent - {call.token})
    elif made:
        yield attrs.evolve(state, holder=call.token)
