"""Histories: lists of plain actions, made from a seed or by hypothesis, and the shortest part of one that still fails."""

import random
from collections.abc import Callable, Sequence

import attrs
from hypothesis import strategies as st

from tests.simulation.actions import ACTIONS

BOUND = 1000
"""``which`` and ``how`` are below it; what they choose is decided when the action is played, so any part of a history plays."""


@attrs.frozen
class Action:
    """One thing that happens: ``which`` one of those that there are then, and ``how``."""

    kind: str
    which: int = 0
    how: int = 0


History = Sequence[Action]


def from_seed(seed: int, steps: int) -> list[Action]:
    """Return the history of a seed."""
    dice = random.Random(seed)
    kinds = dice.choices(list(ACTIONS), [one.weight for one in ACTIONS.values()], k=steps)
    return [Action(kind, dice.randrange(BOUND), dice.randrange(BOUND)) for kind in kinds]


def histories(*, most: int) -> st.SearchStrategy[list[Action]]:
    """Return hypothesis' histories, of the same actions in the same proportions."""
    kinds = [kind for kind, one in ACTIONS.items() for _ in range(one.weight)]
    numbers = st.integers(0, BOUND - 1)
    return st.lists(st.builds(Action, st.sampled_from(kinds), numbers, numbers), min_size=most // 2, max_size=most)


def shrunk(history: History, fails: Callable[[History], bool], *, tries: int = 300) -> list[Action]:
    """Return a part of a failing history that still fails, and from which (``tries`` allowing) nothing can be left out.

    Zeller's ddmin, leaving out ever smaller chunks. Not hypothesis' own: its examples are bounded in size, histories are not.
    """
    kept, size = list(history), max(1, len(history) // 2)
    while tries > 0:
        start, smaller = 0, False
        while start < len(kept) and tries > 0:
            candidate = [*kept[:start], *kept[start + size :]]
            tries -= 1
            if fails(candidate):
                kept, smaller = candidate, True
            else:
                start += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return kept
