"""What Azure sells in a region, as its catalogue of sizes and a dated table of prices say; and what it allows us to have."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from anyscale_azure.config import Settings
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering, Quota

PRICES = Path(__file__).with_name("prices.json")
STARTUP = timedelta(seconds=90)
GIB = 1024**3
ACCELERATORS = (
    ("H200", "H200"), ("H100", "H100"), ("A100", "A100"), ("A10", "A10G"), ("T4", "T4"), ("V100", "V100"),
    ("_NC[0-9]+s_v3", "V100"),
)  # fmt: skip
"""What the name of a size says of its GPUs, and what Ray calls them."""


@attrs.frozen(kw_only=True)
class Price:
    """What an hour costs, in US dollars."""

    on_demand: float
    spot: float


def offered(sizes: Iterable[Mapping[str, Any]], settings: Settings) -> Iterator[Offering]:
    """Yield one offering for each size, zone and market; what is not to be had is listed and marked so."""
    for size in sizes:
        if size.get("resourceType") != "virtualMachines" or not _is_here(size, settings.location):
            continue
        powers = {each["name"]: each["value"] for each in size.get("capabilities") or ()}
        if powers.get("CpuArchitectureType", "x64") != "x64" or "vCPUs" not in powers:
            continue
        price = price_of(size["name"], powers)
        markets = [(MarketType.ON_DEMAND, price.on_demand)]
        if str(powers.get("LowPriorityCapable", "")).lower() == "true":
            markets.append((MarketType.SPOT, price.spot))
        shut = _shut(size)
        for zone in _zones(size, settings):
            for market, per_hour in markets:
                yield Offering(
                    instance_type=size["name"], zone=zone, market_type=market, price_per_hour=per_hour,
                    resources=resources_of(size["name"], powers), available=not shut & {"", zone}, startup=STARTUP,
                    takes=_takes(size, powers, market),
                )  # fmt: skip


def resources_of(name: str, powers: Mapping[str, str]) -> dict[str, float]:
    """Return what Ray would see on a machine of this size."""
    found = {"CPU": float(powers["vCPUs"]), "memory": float(powers.get("MemoryGB", 0)) * GIB}
    gpus = float(powers.get("GPUs", 0))
    if not gpus:
        return found
    kind = next((kind for pattern, kind in ACCELERATORS if re.search(pattern, name)), None)
    return found | {"GPU": gpus} | ({f"accelerator_type:{kind}": 1.0} if kind else {})


def price_of(name: str, powers: Mapping[str, str]) -> Price:
    """Return a size's price by the table; one that is not in it is estimated by its cores and GPUs, as the table says."""
    table = _table()
    found = table["sizes"].get(name)
    if found is None:
        rates = table["estimate"]
        found = float(powers["vCPUs"]) * rates["core"] + float(powers.get("GPUs", 0)) * rates["gpu"]
    if isinstance(found, list):
        return Price(on_demand=found[0], spot=found[1])
    return Price(on_demand=round(found, 4), spot=round(found * table["estimate"]["spot"], 4))


def quotas(usages: Iterable[Mapping[str, Any]], location: str) -> Iterator[Quota]:
    """Yield the limits of a region, by the names that Azure gives them: ``cores``, ``standardDSv5Family``, ..."""
    seen: set[str] = set()
    for usage in usages:
        metric = str(usage["name"]["value"])
        if metric not in seen:
            seen.add(metric)
            yield Quota(metric=metric, scope=location, limit=float(usage["limit"]), used=float(usage["currentValue"]))


def _takes(size: Mapping[str, Any], powers: Mapping[str, str], market: MarketType) -> dict[str, float]:
    cores = float(powers["vCPUs"])
    if market is MarketType.SPOT:
        return {"lowPriorityCores": cores, "virtualMachines": 1.0}
    family = {str(size["family"]): cores} if size.get("family") else {}
    return {"cores": cores, "virtualMachines": 1.0, **family}


def _zones(size: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    if not settings.zones:
        return ("",)
    have = {zone for info in size.get("locationInfo") or () for zone in info.get("zones") or ()}
    return tuple(zone for zone in settings.zones if zone in have)


def _shut(size: Mapping[str, Any]) -> set[str]:
    """Return the zones where a size is not to be had; the empty one stands for all."""
    shut: set[str] = set()
    for restriction in size.get("restrictions") or ():
        zones = (restriction.get("restrictionInfo") or {}).get("zones") or ()
        shut |= set(zones) if restriction.get("type") == "Zone" else {""}
    return shut


def _is_here(size: Mapping[str, Any], location: str) -> bool:
    return location.lower() in {str(each).lower() for each in size.get("locations") or ()}


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PRICES.read_text())
    return found
