"""Random programs by a seed, and the shortest of them that still fails.

Ours and not Hypothesis: a row must run the same program from the command line and inside somebody's pytest, and Hypothesis
draws on constants of whatever modules are loaded, which it keeps in a folder; and the search for a shorter one must end soon.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import attrs

T = TypeVar("T")
F = TypeVar("F")
M = TypeVar("M", bound="Made")

NUMBERS = 8
"""How many choices a step can make at most."""


@attrs.frozen(kw_only=True)
class Step:
    """One step of a program: a rule, and the numbers that its choices are made by. ``serial``: its place before any cut.

    ``chosen``: once it has run, the serials of the steps that made the things it chose, -1 for none; with a thing's maker cut out
    the step is left out too, instead of choosing another.
    """

    rule: str
    numbers: tuple[int, ...]
    serial: int = 0
    chosen: tuple[int, ...] | None = None


Program = tuple[Step, ...]


class Made(Protocol):
    """Something that a step of the program made."""

    @property
    def born(self) -> int:
        """The serial of that step."""
        ...


class Draw:
    """The choices of one step."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._numbers = iter(step.numbers)
        self._chosen = None if step.chosen is None else iter(step.chosen)
        self._now: list[int] = []

    @property
    def step(self) -> Step:
        """The step, with what it has chosen."""
        return attrs.evolve(self._step, chosen=tuple(self._now))

    def one(self, things: Sequence[M]) -> list[M]:
        """Choose one of the things that steps have made, or none: the one that it chose before, when it is a repeat."""
        number = next(self._numbers)
        if self._chosen is None:
            found = [things[number % len(things)]] if things else []
        else:
            born = next(self._chosen, -1)
            found = [thing for thing in things if thing.born == born][:1]
        self._now += [thing.born for thing in found] or [-1]
        return found

    def of(self, choices: Sequence[T]) -> T:
        """Choose one."""
        return choices[next(self._numbers) % len(choices)]


def random_program(rng: random.Random, weights: Mapping[str, int], length: int) -> Program:
    """Return so many steps of these rules, each as often as its weight says."""
    rules = rng.choices(tuple(weights), weights=tuple(weights.values()), k=length)
    numbers = [tuple(rng.randrange(60) for _ in range(NUMBERS)) for _ in rules]
    return tuple(Step(rule=rules[at], numbers=numbers[at], serial=at) for at in range(length))


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
