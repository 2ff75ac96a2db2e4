"""List prices, from a dated table beside this file. ``python -m anyscale_gcp.prices`` makes it anew from Google's catalogue.

Compute Engine sells vCPUs, memory and accelerators, each by family and region, so the table has those and no machine types.
"""

import functools
import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.models.cluster import MarketType

PATH = Path(__file__).with_name("prices.json")
SERVICE = "services/6F81-5844-456A"
"""Compute Engine in Google's catalogue (cloud.google.com/billing/docs/reference/pricing-api)."""
HOME = "us-central1"
BUILT_IN = frozenset({"nvidia-l4", "nvidia-tesla-a100", "nvidia-a100-80gb", "nvidia-h100-80gb"})
"""Accelerators that come with machine types of their own and cannot be added to others."""
_SKU = re.compile(
    r"(?P<spot>Spot Preemptible )?(?P<family>[A-Z]\d[A-Z]?)( AMD| Arm| Predefined)? Instance (?P<part>Core|Ram) running in .*"
)
"""Custom types, sole tenancy and commitments are sold by the same words and more, for other prices."""


@attrs.frozen(kw_only=True)
class Prices:
    """The table. Prices in US dollars per hour, those of ``HOME``; a region has a factor of them, a SPOT price too."""

    as_of: str
    currency: str
    families: Mapping[str, Mapping[str, float]]
    accelerators: Mapping[str, Mapping[str, float]]
    regions: Mapping[str, float]

    @staticmethod
    @functools.cache
    def load() -> "Prices":
        """Return the table that came with the package."""
        raw = json.loads(PATH.read_text())
        return Prices(**{field: raw[field] for field in attrs.fields_dict(Prices)})

    def of(
        self,
        machine_type: str,
        region: str,
        *,
        cpus: float,
        gib: float,
        accelerators: Mapping[str, int],
        market: MarketType,
    ) -> float | None:
        """Return the price of an hour of a machine; None when the table lacks its family, an accelerator or the region."""
        family, factor = self.families.get(machine_type.partition("-")[0]), self.regions.get(region)
        cards = [(self.accelerators.get(name), count) for name, count in accelerators.items()]
        if family is None or factor is None or any(card is None for card, _ in cards):
            return None
        is_spot = market is MarketType.SPOT
        price = (cpus * family["vcpu"] + gib * family["gib"]) * (family["spot"] if is_spot else 1.0)
        price += sum(
            count * card["hour"] * (card["spot"] if is_spot else 1.0) for card, count in cards if card is not None
        )
        return round(price * factor, 6)

    def can_be_added(self, accelerator: str) -> bool:
        """Tell whether an accelerator can be put into a machine type that has none, and has a price."""
        return accelerator in self.accelerators and accelerator not in BUILT_IN


def refreshed(table: Mapping[str, Any], skus: Iterable[Mapping[str, Any]], *, now: datetime) -> dict[str, Any]:
    """Return the table with the prices of a catalogue's SKUs. What the catalogue does not name stays as it was."""
    families = {name: dict(each) for name, each in table["families"].items()}
    spot: dict[str, float] = {}
    for sku in skus:
        found = _SKU.fullmatch(str(sku.get("description", "")))
        if found is None or HOME not in sku.get("serviceRegions", ()):
            continue
        name, price = found["family"].lower(), _hourly(sku)
        if price and found["spot"] and found["part"] == "Core":
            spot[name] = price
        elif price and not found["spot"]:
            families.setdefault(name, {"spot": 0.4})["vcpu" if found["part"] == "Core" else "gib"] = price
    for name, price in spot.items():
        if families.get(name, {}).get("vcpu"):
            families[name]["spot"] = round(price / families[name]["vcpu"], 4)
    whole = {name: each for name, each in sorted(families.items()) if {"vcpu", "gib", "spot"} <= each.keys()}
    return {**table, "as_of": now.astimezone(UTC).date().isoformat(), "families": whole}


def main(path: Path = PATH, *, endpoint: str = "", credentials: Any = None) -> None:
    """Read the catalogue and write the table. By default Google's, with the application default credentials."""
    from anyscale_gcp.client import skus

    found = skus(SERVICE, endpoint=endpoint, credentials=credentials)
    table = refreshed(json.loads(path.read_text()), found, now=datetime.now(UTC))
    path.write_text(json.dumps(table, indent=2) + "\n")
    sys.stdout.write(f"{len(table['families'])} families as of {table['as_of']}\n")


def _hourly(sku: Mapping[str, Any]) -> float:
    """Return a SKU's price per hour of one unit in dollars; 0 when it has none."""
    infos = sku.get("pricingInfo") or [{}]
    rates = infos[-1].get("pricingExpression", {}).get("tieredRates") or [{}]
    unit = rates[-1].get("unitPrice", {})
    return round(int(unit.get("units", 0)) + int(unit.get("nanos", 0)) / 1e9, 6)


if __name__ == "__main__":
    main()
