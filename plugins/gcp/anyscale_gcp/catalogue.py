"""What Compute Engine sells in a region: its machine types, with prices of a dated table.

The API tells no prices and no stock. A type without a price in the table is listed as not available: it would look free.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering
from anyscale_gcp.client import Client
from anyscale_gcp.prices import Prices
from anyscale_gcp.tags import plain

PAGE = 500
MIB = 1 << 20
FIELDS = "nextPageToken,items(name,guestCpus,memoryMb,accelerators,deprecated)"
ADDED = (1, 2, 4)
"""How many accelerators are offered with a machine type that has none of its own."""
HOST_FAMILY = "n1"
"""The one family that accelerators can be added to: cloud.google.com/compute/docs/gpus."""
RAY_NAMES: Mapping[str, str] = {
    "nvidia-tesla-t4": "T4", "nvidia-tesla-p4": "P4", "nvidia-tesla-p100": "P100", "nvidia-tesla-v100": "V100",
    "nvidia-l4": "L4", "nvidia-tesla-a100": "A100", "nvidia-a100-80gb": "A100-80G", "nvidia-h100-80gb": "H100",
}  # fmt: skip
"""What Ray calls an accelerator (``ray.util.accelerators``), by Google's name."""
COUNTED_APART = frozenset({"a2", "c2", "c2d", "c3", "m1", "m2", "m3", "n2", "n2d", "t2a", "t2d"})
"""Families whose vCPUs have a regional quota of their own (``Quota.metric`` of the API)."""
COUNTED_TOGETHER = frozenset({"e2", "f1", "g1", "n1"})
"""Families that share the quota CPUS. What newer ones take of which quota the API does not say."""
SHARED_CORE = {"f1-micro": 0.2, "g1-small": 0.5, "e2-micro": 0.25, "e2-small": 0.5, "e2-medium": 1.0}
"""vCPUs that are paid for and may be used all the time, of types that share a core."""


def offerings(client: Client, *, zones: Sequence[str], deadline: datetime) -> tuple[Offering, ...]:
    """Return every machine type in these zones, on demand and as SPOT; N1 also with the accelerators that a zone has."""
    prices = Prices.load()
    return tuple(offering for zone in zones for offering in _of_zone(client, zone, prices, deadline=deadline))


def takes_of(instance_type: str, cpus: float, accelerators: Mapping[str, int], market: MarketType) -> dict[str, float]:
    """Return how much of each regional quota one instance takes, by the metrics of ``regions.get``."""
    family = instance_type.partition("-")[0]
    is_spot = market is MarketType.SPOT
    own = f"{family.upper()}_CPUS" if family in COUNTED_APART else "CPUS" if family in COUNTED_TOGETHER else ""
    taken = {"INSTANCES": 1.0}
    if own:
        taken["PREEMPTIBLE_CPUS" if is_spot else own] = cpus
    for name, count in accelerators.items():
        metric = f"{name.removeprefix('nvidia-tesla-').removeprefix('nvidia-').upper().replace('-', '_')}_GPUS"
        taken[f"{'PREEMPTIBLE_' if is_spot else ''}NVIDIA_{metric}"] = float(count)
    return taken


def _of_zone(client: Client, zone: str, prices: Prices, *, deadline: datetime) -> Iterator[Offering]:
    types = _items(client, "machineTypes", zone, FIELDS, deadline=deadline)
    added = [
        str(each["name"])
        for each in _items(client, "acceleratorTypes", zone, "nextPageToken,items(name)", deadline=deadline)
        if str(each["name"]) in RAY_NAMES
    ]
    for type in types:
        own = {
            plain(each["guestAcceleratorType"]): int(each["guestAcceleratorCount"])
            for each in type.get("accelerators", ())
        }
        yield from _offered(type, zone, own, prices)
        if type["name"].startswith(f"{HOST_FAMILY}-") and not own:
            for name in added:
                if prices.can_be_added(name):
                    for count in ADDED:
                        yield from _offered(type, zone, {name: count}, prices, suffix=f"+{name}:{count}")


def _offered(
    type: Mapping[str, Any], zone: str, accelerators: Mapping[str, int], prices: Prices, *, suffix: str = ""
) -> Iterator[Offering]:
    name, cpus = str(type["name"]), float(type["guestCpus"])
    memory = float(type["memoryMb"]) * MIB
    resources = {"CPU": cpus, "memory": memory}
    for accelerator, count in accelerators.items():
        resources["GPU"] = resources.get("GPU", 0.0) + count
        if accelerator in RAY_NAMES:
            resources[f"accelerator_type:{RAY_NAMES[accelerator]}"] = 1.0
    for market in (MarketType.ON_DEMAND, MarketType.SPOT):
        price = prices.of(
            name, zone.rpartition("-")[0], cpus=SHARED_CORE.get(name, cpus), gib=memory / (1 << 30),
            accelerators=accelerators, market=market,
        )  # fmt: skip
        is_old = type.get("deprecated", {}).get("state") in ("OBSOLETE", "DELETED")
        yield Offering(
            instance_type=f"{name}{suffix}", zone=zone, market_type=market, price_per_hour=price or 0.0,
            resources=resources, available=price is not None and not is_old,
            takes=takes_of(name, cpus, accelerators, market),
        )  # fmt: skip


def _items(client: Client, kind: str, zone: str, fields: str, *, deadline: datetime) -> list[Mapping[str, Any]]:
    pages = client.pages(
        f"compute.{kind}.list",
        project=client.settings.project,
        zone=zone,
        maxResults=PAGE,
        fields=fields,
        deadline=deadline,
    )
    return list({str(item["name"]): item for page in pages for item in page.get("items", ())}.values())
