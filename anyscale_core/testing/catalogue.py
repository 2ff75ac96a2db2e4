"""What the fake cloud sells, and its limits."""

from collections.abc import Mapping
from datetime import timedelta

import attrs

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering
from anyscale_core.models.resources import Resources

ZONES = ("zone-a", "zone-b", "zone-c")
SPOT_SHARE = 0.3
"""A SPOT price as a part of the ON_DEMAND price."""

GIB = float(1024**3)


@attrs.frozen(kw_only=True)
class Kind:
    """One instance type: what Ray sees of it and what an hour costs."""

    name: str
    resources: Resources
    price: float
    zones: tuple[str, ...] = ZONES


KINDS = (
    Kind(name="cpu-2", resources={"CPU": 2.0, "memory": 8 * GIB}, price=0.10),
    Kind(name="cpu-4", resources={"CPU": 4.0, "memory": 16 * GIB}, price=0.20),
    Kind(name="cpu-16", resources={"CPU": 16.0, "memory": 64 * GIB}, price=0.80),
    Kind(name="mem-4", resources={"CPU": 4.0, "memory": 32 * GIB}, price=0.26),
    Kind(name="gpu-1", resources={"CPU": 8.0, "memory": 32 * GIB, "GPU": 1.0, "accelerator_type:T4": 1.0}, price=0.75),
    Kind(
        name="gpu-4",
        resources={"CPU": 48.0, "memory": 256 * GIB, "GPU": 4.0, "accelerator_type:A100": 1.0},
        price=12.0,
        zones=("zone-a", "zone-b"),
    ),
)

LIMITS: Mapping[str, float] = {"instances": 10_000.0, "CPU": 40_000.0, "SPOT_CPU": 40_000.0, "GPU": 1_000.0}
"""The account's limits: instances of any sort, ON_DEMAND cores, SPOT cores, accelerators."""


def offerings(startup: timedelta = timedelta(seconds=30)) -> tuple[Offering, ...]:
    """Return the catalogue of ``KINDS``: each type in each of its zones, ON_DEMAND and SPOT."""
    return tuple(
        Offering(
            instance_type=kind.name,
            zone=zone,
            market_type=market,
            price_per_hour=round(kind.price * (SPOT_SHARE if market is MarketType.SPOT else 1.0), 4),
            resources=kind.resources,
            startup=startup,
        )
        for kind in KINDS
        for zone in kind.zones
        for market in (MarketType.ON_DEMAND, MarketType.SPOT)
    )


OFFERINGS = offerings()
