"""Demand and catalogues for the placement benchmark: made from a seed, with prices of the size that clouds ask."""

import random
from collections.abc import Sequence

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering
from anyscale_core.models.node import Demand
from anyscale_core.planning.packing import Item, Kind, Problem
from anyscale_core.planning.requests import Request, units

GIB = float(1024**3)
FAMILIES = (
    # name, GiB of memory and dollars an hour per CPU: what general-purpose, compute and memory families cost
    ("c5", 2, 0.0425), ("c6", 2, 0.0432), ("c7", 2, 0.0363), ("c8", 2, 0.0399),
    ("m5", 4, 0.0480), ("m6", 4, 0.0475), ("m7", 4, 0.0408), ("m8", 4, 0.0449),
    ("r5", 8, 0.0630), ("r6", 8, 0.0625), ("r7", 8, 0.0536), ("r8", 8, 0.0589),
)  # fmt: skip
SIZES = (2, 4, 8, 16, 32, 48, 64)
GPUS = (
    # name, CPUs, GiB, GPUs, kind, dollars an hour
    ("g4-1", 4, 16, 1, "T4", 0.526), ("g4-1b", 8, 32, 1, "T4", 0.752), ("g4-1c", 16, 64, 1, "T4", 1.204),
    ("g4-1d", 32, 128, 1, "T4", 2.176), ("g4-4", 48, 192, 4, "T4", 3.912), ("g4-8", 96, 384, 8, "T4", 7.824),
    ("g5-1", 4, 16, 1, "A10G", 1.006), ("g5-1b", 8, 32, 1, "A10G", 1.212), ("g5-1c", 16, 64, 1, "A10G", 1.624),
    ("g5-4", 48, 192, 4, "A10G", 5.672), ("g5-8", 192, 768, 8, "A10G", 16.288),
    ("p3-1", 8, 61, 1, "V100", 3.06), ("p3-4", 32, 244, 4, "V100", 12.24), ("p3-8", 64, 488, 8, "V100", 24.48),
    ("p4-8", 96, 1152, 8, "A100", 32.77), ("p5-8", 192, 2048, 8, "H100", 55.04),
)  # fmt: skip
FEW = ("c5-4", "c5-32", "m5-4", "m5-16", "m5-64", "r5-8", "r5-32", "g4-1", "g4-4", "p4-8")
MIXES = ("cpu", "mixed", "many")


def catalogue(types: int) -> tuple[Offering, ...]:
    """Return 10 or 100 instance types in one zone, ON_DEMAND."""
    plain = [
        _offering(f"{family}-{size}", size, size * gib, size * price)
        for family, gib, price in FAMILIES
        for size in SIZES
    ]
    offerings = [*plain, *(_offering(name, cpu, gib, price, gpus, kind) for name, cpu, gib, gpus, kind, price in GPUS)]
    if types == len(FEW):
        return tuple(offering for offering in offerings if offering.instance_type in FEW)
    assert types == len(offerings), f"there are catalogues of {len(FEW)} and {len(offerings)} types"
    return tuple(offerings)


def demand(mix: str, requests: int) -> tuple[Demand, ...]:
    """Return so many requests: ``cpu`` has 8 shapes, ``mixed`` 11 (16 % ask for GPUs), ``many`` 100 (15 % do)."""
    shapes, weights = _shapes(mix)
    drawn = random.Random(f"{mix} {requests}").choices(range(len(shapes)), weights, k=requests)
    return tuple(
        Demand(resources=shape, count=drawn.count(index)) for index, shape in enumerate(shapes) if index in set(drawn)
    )


def problem(asked: Sequence[Demand], offerings: Sequence[Offering]) -> Problem:
    """Return the arithmetic of a point of the grid: prices alone, no limits."""
    requests = [(Request.of(one), one.count) for one in asked]
    names = sorted({name for request, _ in requests for name, _ in request.needs})
    kinds = [units(one.resources) for one in offerings]
    everywhere = frozenset(range(len(kinds)))
    return Problem(
        items=tuple(
            Item(need=tuple(dict(request.needs).get(name, 0) for name in names), count=count, kinds=everywhere)
            for request, count in requests
        ),
        kinds=tuple(
            Kind(room=tuple(room.get(name, 0) for name in names), cost=one.price_per_hour)
            for room, one in zip(kinds, offerings, strict=True)
        ),
    )


def _shapes(mix: str) -> tuple[Sequence[dict[str, float]], Sequence[float]]:
    plain = [
        _need(0.5, 1), _need(1, 2), _need(1, 4), _need(2, 4), _need(2, 16), _need(4, 8), _need(8, 32), _need(16, 96),
    ]  # fmt: skip
    if mix == "cpu":
        return plain, (20, 25, 20, 12, 8, 8, 5, 2)
    if mix == "mixed":
        return [*plain, _need(2, 12, 1), _need(4, 24, 2), _need(12, 100, 8)], (15, 20, 17, 11, 8, 6, 5, 2, 11, 4, 1)
    rng = random.Random("many")
    many = [
        _need(rng.choice((0.5, 1, 2, 3, 4, 6, 8, 12)), rng.choice((1, 2, 3, 4, 6, 8, 12, 16, 24, 40)))
        for _ in range(85)
    ]
    return [*many, *(_need(rng.choice((1, 2, 4)), rng.choice((4, 8, 16)), rng.choice((1, 1, 2))) for _ in range(15))], [
        1
    ] * 100


def _need(cpu: float, gib: float, gpus: float = 0) -> dict[str, float]:
    return {"CPU": cpu, "memory": gib * GIB} | ({"GPU": gpus} if gpus else {})


def _offering(name: str, cpu: float, gib: float, price: float, gpus: float = 0, kind: str = "") -> Offering:
    resources = _need(cpu, gib, gpus) | ({f"accelerator_type:{kind}": 1.0} if kind else {})
    return Offering(
        instance_type=name,
        zone="z",
        market_type=MarketType.ON_DEMAND,
        price_per_hour=round(price, 4),
        resources=resources,
    )
