"""Requests as Ray counts and compares them: amounts in ten-thousandths, label selectors, equal ones grouped."""

from collections.abc import Iterable, Mapping

import attrs

from anyscale_core.models.node import Demand
from anyscale_core.models.resources import Resources

UNIT = 10_000
"""Ray keeps amounts in ten-thousandths. Source: ray/src/ray/common/scheduling/fixed_point.h."""

GPU = "GPU"


@attrs.frozen(order=True)
class Request:
    """What one task, actor or bundle asks for. ``needs``: (resource, ten-thousandths), without zeros, by name.

    ``selectors``: (label, selector), all of which a node must meet.
    """

    needs: tuple[tuple[str, int], ...]
    selectors: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, one: Demand) -> "Request":
        """Return the request of one demand."""
        needs = ((name, _asked(name, amount)) for name, amount in one.resources.items())
        return cls(tuple(sorted((name, n) for name, n in needs if n > 0)), tuple(sorted(one.labels.items())))

    @classmethod
    def together(cls, parts: Iterable[Demand]) -> "Request":
        """Return what a node must have to hold all parts at once."""
        needs: dict[str, int] = {}
        selectors: set[tuple[str, str]] = set()
        for part in parts:
            request = cls.of(part)
            selectors |= set(request.selectors)
            for name, amount in request.needs:
                needs[name] = needs.get(name, 0) + amount * part.count
        return cls(tuple(sorted(needs.items())), tuple(sorted(selectors)))

    def demand(self, count: int) -> Demand:
        """Return so many of it as Ray would report them."""
        needs = {name: amount / UNIT for name, amount in self.needs}
        return Demand(resources=needs, count=count, labels=dict(self.selectors))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a node with these labels meets all selectors."""
        return all(selects(selector, labels.get(key)) for key, selector in self.selectors)

    def fits(self, room: Mapping[str, int]) -> bool:
        """Tell whether there is room for it."""
        return all(amount <= room.get(name, 0) for name, amount in self.needs)

    @property
    def size(self) -> float:
        """An order of requests: GPUs weigh most, then CPUs, then memory."""
        return size({name: amount / UNIT for name, amount in self.needs})

    def __str__(self) -> str:
        parts = [f"{name}={_shown(name, amount / UNIT)}" for name, amount in self.needs]
        return " ".join([*parts, *(f"[{key}={selector}]" for key, selector in self.selectors)]) or "nothing"


def units(resources: Resources) -> dict[str, int]:
    """Return amounts in ten-thousandths."""
    return {name: round(amount * UNIT) for name, amount in resources.items()}


def size(resources: Resources) -> float:
    """Return one number for how large a request or a node is."""
    memory = resources.get("memory", 0.0) / 4e9
    rest = sum(amount for name, amount in resources.items() if name not in ("CPU", GPU, "memory"))
    return resources.get(GPU, 0.0) * 16 + resources.get("CPU", 0.0) + memory + rest


def selects(selector: str, value: str | None) -> bool:
    """Tell whether a node's label meets one of Ray's label selectors: ``x``, ``!x``, ``in(x,y)`` or ``!in(x,y)``.

    A node without the label meets the negative ones. Source: Ray's documentation of label selectors.
    """
    negative = selector.startswith("!")
    text = selector.removeprefix("!").strip()
    listed = text.startswith("in(") and text.endswith(")")
    wanted = [part.strip() for part in text[3:-1].split(",")] if listed else [text]
    return (value in wanted) is not negative


def _asked(name: str, amount: float) -> int:
    """A part of a GPU is given from one GPU: three requests for 0.6 of one need three, though two have room for 1.8."""
    asked = round(amount * UNIT)
    if name == GPU and 0 < asked < UNIT:
        return UNIT // (UNIT // asked)
    return asked


def _shown(name: str, amount: float) -> str:
    return f"{amount / 2**30:.4g}GiB" if name == "memory" and amount >= 2**20 else f"{amount:g}"
