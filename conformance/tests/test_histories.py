"""X-CON-08's judge: an outcome is let pass when some order explains it, and only then."""

import pytest
from anyscale_conformance.checks.histories import Call, State, explained

from anyscale_core.errors import AlreadyExists, Conflict, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion

ONE, TWO = Token("one"), Token("two")
MADE = "made"
THERE = State(holder=ONE)


def create(token: Token, outcome: object = MADE) -> Call:
    return Call(verb="create", token=token, outcome=outcome)


def delete(outcome: object) -> Call:
    return Call(verb="delete", outcome=outcome)


TAKEN = AlreadyExists("taken", reason="OWNED")
SPENT = Conflict("spent", reason="TOKEN_SPENT")
BUSY = Conflict("busy", reason="BUSY")


@pytest.mark.parametrize(
    ("start", "calls", "is_there"),
    [
        (State(), [create(ONE), create(TWO, TAKEN)], True),
        (State(), [create(TWO, TAKEN), create(ONE), create(ONE)], True),
        (THERE, [delete(Deletion.GONE), create(ONE, SPENT)], False),
        (THERE, [delete(Deletion.GOING), create(TWO)], True),
        (THERE, [create(ONE), delete(Deletion.GOING), delete(Deletion.GOING)], False),
        (THERE, [delete(Deletion.GONE), delete(Deletion.GONE)], False),
        (THERE, [delete(BUSY), Call(verb="get", outcome=MADE)], True),
        (THERE, [Call(verb="get", outcome=NotFound("gone")), delete(Deletion.GONE)], False),
        (State(holder=TWO), [Call(verb="delete", of=ONE, outcome=Deletion.ALREADY_ABSENT)], True),
    ],
)
def test_what_an_order_explains_is_let_pass(start: State, calls: list[Call], is_there: bool) -> None:
    assert explained(start, calls, is_there=is_there)


@pytest.mark.parametrize(
    ("start", "calls", "is_there"),
    [
        (State(), [create(ONE), create(TWO)], True),
        (State(), [create(ONE, TAKEN), create(TWO, TAKEN)], False),
        (State(), [create(ONE)], False),
        (State(), [delete(Deletion.GONE)], False),
        (THERE, [delete(NotFound("gone")), delete(Deletion.GONE)], False),
        (THERE, [delete(Deletion.GONE)], True),
        (THERE, [delete(Deletion.ALREADY_ABSENT)], False),
        (THERE, [Call(verb="get", outcome=NotFound("gone"))], True),
        (THERE, [create(TWO)], True),
    ],
)
def test_what_no_order_explains_is_not(start: State, calls: list[Call], is_there: bool) -> None:
    assert not explained(start, calls, is_there=is_there)
