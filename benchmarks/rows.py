"""A row: ours and the floor as medians of rounds that were taken side by side."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

Ours = TypeVar("Ours")
Least = TypeVar("Least")

DIGITS = 4


@attrs.frozen(kw_only=True)
class Row:
    """``ours`` and ``floor``: medians in ``unit``, lower is better. ``ratio``: of the medians.

    ``n``: rounds of each. ``spread``: for ``ours`` and ``floor`` the least and the greatest value.
    """

    name: str
    ours: float
    floor: float
    ratio: float
    n: int
    spread: Mapping[str, tuple[float, float]]
    unit: str
    notes: str = ""


def row(name: str, unit: str, ours: Sequence[float], floor: Sequence[float], *notes: str) -> Row:
    """Return the row of these values; empty notes are left out. Raises ValueError without at least one round."""
    if not ours or len(ours) != len(floor):
        raise ValueError(f"{name}: {len(ours)} rounds of ours and {len(floor)} of the floor; they are taken in pairs")
    mine, least = statistics.median(ours), statistics.median(floor)
    return Row(
        name=name,
        ours=_rounded(mine),
        floor=_rounded(least),
        ratio=round(mine / least, 3),
        n=len(ours),
        spread={"ours": _spread(ours), "floor": _spread(floor)},
        unit=unit,
        notes="; ".join(note for note in notes if note),
    )


def interleaved(rounds: int, ours: Callable[[], Ours], floor: Callable[[], Least]) -> tuple[list[Ours], list[Least]]:
    """Measure ours and the floor in turns, so that a slow minute of the machine falls on both."""
    pairs = [(ours(), floor()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def excess(ours: Sequence[float], floor: Sequence[float]) -> float:
    """Return how far the median of ours lies above the floor's."""
    return statistics.median(ours) - statistics.median(floor)


def readable(row: Row) -> str:
    """Return a row as a line for people."""
    (low, high), (least, most) = row.spread["ours"], row.spread["floor"]
    return (
        f"{row.name}: ours {row.ours:g} {row.unit} ({low:g}..{high:g}), floor {row.floor:g} ({least:g}..{most:g}),"
        f" ratio {row.ratio:.2f}, n {row.n}{f'; {row.notes}' if row.notes else ''}"
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return _rounded(min(values)), _rounded(max(values))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
