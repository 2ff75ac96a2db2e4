"""A mutant: a kit of the reference provider with something broken, and the checks that must see it."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from anyscale_conformance.kit import Kit
from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.generic import Mutator, broken
from anyscale_conformance.rows import Row
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.verdicts import Verdict

K = TypeVar("K", bound=type[ReferenceKit])


@attrs.frozen(kw_only=True)
class Mutant:
    """One broken provider. ``caught_by``: ids of checks (or of rows), each of which must fail by its own message."""

    name: str
    says: str
    caught_by: tuple[str, ...]
    kit: type[ReferenceKit]


MUTANTS: dict[str, Mutant] = {}
"""Every mutant, by name; filled by ``load``."""


def mutant(says: str, *, caught_by: tuple[str, ...]) -> Callable[[K], K]:
    """Register a ReferenceKit subclass as a mutant; its name is the class's."""

    def register(kit: K) -> K:
        name = kit.__name__
        if name in MUTANTS:
            raise ValueError(f"two mutants are called {name}")
        kit.name = "fake"
        MUTANTS[name] = Mutant(name=name, says=says, caught_by=caught_by, kit=kit)
        return kit

    return register


def load() -> Mapping[str, Mutant]:
    """Import every module of this package and return all mutants, by name in order."""
    package = importlib.import_module("anyscale_conformance.mutants")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(MUTANTS.items()))


@attrs.frozen(kw_only=True)
class Hunt:
    """What became of a mutant. ``by``: the checks that failed by their own message. ``missed``: named, and did not."""

    mutant: str
    by: tuple[str, ...]
    missed: tuple[str, ...]

    @property
    def is_caught(self) -> bool:
        """Whether every check that was named for it caught it."""
        return not self.missed


def hunted(mutant: Mutant, *, seed: int = 0, is_full: bool = False) -> Hunt:
    """Run the checks that must catch the mutant, or all of them.

    A kill counts when a row of the named check ends as FAIL, which only the check's own message brings about: what crashes
    the suite or the kit is ERROR.
    """
    run = Run(kit=mutant.kit, seed=seed, limit_s=10.0)
    rows = run.rows(all_checks())
    chosen = rows if is_full else _named(mutant, rows)
    failed = [result for result in map(run.run, chosen) if result.verdict is Verdict.FAIL]
    ids = {result.row for result in failed} | {result.check for result in failed}
    return Hunt(
        mutant=mutant.name,
        by=tuple(sorted({result.check for result in failed})),
        missed=tuple(id for id in mutant.caught_by if id not in ids),
    )


def hunted_in(kit: type[Kit], name: str, mutator: Mutator, *, seed: int = 0) -> Hunt | None:
    """Break somebody's provider and run the checks that must see it; None when none of them concerns the provider.

    One of the checks has to fail, not all: which of them can tell depends on what the provider makes.
    """
    run = Run(kit=broken(kit, mutator), seed=seed, limit_s=30.0)
    rows = [row for row in run.rows(all_checks()) if row.check.id in mutator.caught_by]
    if not rows:
        return None
    by = sorted({result.check for result in map(run.run, rows) if result.verdict is Verdict.FAIL})
    return Hunt(mutant=name, by=tuple(by), missed=() if by else mutator.caught_by)


def _named(mutant: Mutant, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the rows that must catch the mutant. Raises ValueError for an id that no row has."""
    unknown = set(mutant.caught_by) - {row.id for row in rows} - {row.check.id for row in rows}
    if unknown:
        raise ValueError(f"{mutant.name} is to be caught by {', '.join(sorted(unknown))}, which no row is")
    return tuple(row for row in rows if {row.id, row.check.id} & set(mutant.caught_by))
