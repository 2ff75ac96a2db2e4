"""Quantities of Ray resources: ``{"CPU": 4.0, "memory": 17179869184.0, "GPU": 1.0}``; memory in bytes."""

from collections.abc import Iterable, Mapping

Resources = Mapping[str, float]

EPSILON = 1e-9
"""Ray counts in ten-thousandths; sums of its floats are compared with this slack."""


def fits(need: Resources, room: Resources) -> bool:
    """Tell whether ``need`` can be met out of ``room``; what ``room`` does not name is zero."""
    return all(amount <= room.get(name, 0.0) + EPSILON for name, amount in need.items() if amount > 0)


def plus(*parts: Resources) -> dict[str, float]:
    """Return the sum of all parts."""
    return total(parts)


def total(parts: Iterable[Resources]) -> dict[str, float]:
    """Return the sum of an iterable of resources."""
    out: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            out[name] = out.get(name, 0.0) + amount
    return out


def minus(room: Resources, need: Resources) -> dict[str, float]:
    """Return ``room`` less ``need``; may go below zero."""
    out = dict(room)
    for name, amount in need.items():
        out[name] = out.get(name, 0.0) - amount
    return out
