"""Random programs by a seed, and the shortest of them that still fails.

Ours and not Hypothesis: a row must run the same program from the command line and inside somebody's pytest, and Hypothesis
draws on constants of whatever modules are loaded, which it keeps in a folder; and the search for a shorter one must end soon.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

T = TypeVar("T")
F = TypeVar("F")

NUMBERS = 6
"""How many choices a step can make at most."""


@attrs.frozen(kw_only=True)
class Step:
    """One step of a program: a rule, and the numbers that its choices are made by."""

    rule: str
    numbers: tuple[int, ...]


Program = tuple[Step, ...]


class Draw:
    """The choices of one step: the same numbers choose alike from what is there, so a program makes sense after cuts too."""

    def __init__(self, step: Step) -> None:
        self._numbers = iter(step.numbers)

    def of(self, choices: Sequence[T]) -> T:
        """Choose one."""
        return choices[next(self._numbers) % len(choices)]


def random_program(rng: random.Random, weights: Mapping[str, int], length: int) -> Program:
    """Return so many steps of these rules, each as often as its weight says."""
    rules = rng.choices(tuple(weights), weights=tuple(weights.values()), k=length)
    return tuple(Step(rule=rule, numbers=tuple(rng.randrange(60) for _ in range(NUMBERS))) for rule in rules)


def shortest(program: Program, first: F, attempt: Callable[[Program], F | None], *, tries: int) -> F:
    """Cut steps out of a failing program as long as it fails, at most so often; return the failure of the shortest.

    ``attempt`` runs a program and returns its failure, None when it passes. ``first``: the failure of the whole.
    """
    failure, size = first, len(program) // 2
    while size:
        start = 0
        while start < len(program) and tries:
            cut = program[:start] + program[start + size :]
            tries -= 1
            found = attempt(cut) if cut else None
            if found is None:
                start += size
            else:
                program, failure = cut, found
        size //= 2
    return failure
