"""The catalogue: the price table of this package, where the region offers each type, and what SPOT costs now."""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_aws.client import Aws
from anyscale_aws.config import Settings
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering
from anyscale_core.models.resources import Resources

PRICES = Path(__file__).with_name("prices.json")
"""The table: list prices of one region, with their date; ``prices`` renews it."""
STARTUP = timedelta(seconds=90)
"""From RunInstances until a node agent has started, as a rule."""
FILTER_MAX = 200
"""Values that a filter of EC2 may have."""
MIB = 1 << 20
FAMILY = re.compile(r"p5|[a-z]+")
"""What a type's class is told by: its letters; P5 has a quota of its own on the SPOT market."""

CODES: Mapping[str, tuple[str, str]] = {
    # Class of instances -> its quota on demand and SPOT (EC2 User Guide, "On-Demand Instance quotas", "Spot Instance quotas").
    "standard": ("L-1216C47A", "L-34B43A08"),
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "p": ("L-417A185B", "L-7212CCBC"),
    "p5": ("L-417A185B", "L-C4BD4855"),
    "hpc": ("L-F7808C92", "L-34B43A08"),
    "u": ("L-43DA4232", "L-34B43A08"),
    "x": ("L-7295265B", "L-E3A00192"),
    "f": ("L-74FC7D96", "L-88CF9481"),
    "inf": ("L-1945791B", "L-B5D1601B"),
    "trn": ("L-2C3B7624", "L-6B0D517C"),
    "dl": ("L-6E869C2A", "L-85EED4F7"),
}


@attrs.frozen(kw_only=True)
class InstanceType:
    """One type of the table: ``memory`` in MiB, ``price`` in dollars per hour in the table's region."""

    name: str
    vcpus: int
    memory: int
    architecture: str
    price: float
    gpus: int = 0
    gpu: str = ""

    def resources(self) -> Resources:
        """Return what Ray would see."""
        found = {"CPU": float(self.vcpus), "memory": float(self.memory * MIB)}
        return found | ({"GPU": float(self.gpus), f"accelerator_type:{self.gpu}": 1.0} if self.gpus else {})


@functools.cache
def table() -> Mapping[str, InstanceType]:
    """Return the price table of the package, by type."""
    document = json.loads(PRICES.read_text())
    return {name: InstanceType(name=name, **fields) for name, fields in document["types"].items()}


def architecture(instance_type: str) -> str:
    """Return the architecture of a type; that of Graviton by its name where the table does not have it."""
    found = table().get(instance_type)
    if found is not None:
        return found.architecture
    return "arm64" if re.match(r"[a-z]+\d+g[a-z]*\.", instance_type) else "x86_64"


def vcpus(instance_type: str) -> int:
    """Return the vCPUs of a type of the table; 0 for one that is not in it."""
    found = table().get(instance_type)
    return 0 if found is None else found.vcpus


def quota_code(instance_type: str, market: MarketType) -> str:
    """Return the code of the quota that instances of a type count against."""
    match = FAMILY.match(instance_type)
    family = match.group(0) if match else ""
    key = "g" if family in ("g", "gr", "vt") else family if family in CODES else "standard"
    return CODES[key][market is MarketType.SPOT]


class Catalogue:
    """What a cloud may offer: the table, or the types of its settings."""

    def __init__(self, settings: Settings, region: str) -> None:
        self._settings, self._region = settings, region

    def offerings(self, aws: Aws, deadline: datetime) -> tuple[Offering, ...]:
        """Return every type in every zone of the region, on demand and SPOT; what a zone does not offer is not available."""
        types = self._types()
        names = [type.name for type in types]
        offered = _offered(aws, names, deadline)
        spot = _spot_prices(aws, names, deadline)
        zones = sorted({zone for _, zone in offered} | {zone for _, zone in spot})
        return tuple(offering for type in types for zone in zones for offering in self._of(type, zone, offered, spot))

    def _types(self) -> Sequence[InstanceType]:
        known = table()
        return [known[name] for name in self._settings.instance_types or known if name in known]

    def _of(
        self, type: InstanceType, zone: str, offered: frozenset[tuple[str, str]], spot: Mapping[tuple[str, str], float]
    ) -> Iterator[Offering]:
        prices = {
            MarketType.ON_DEMAND: self._settings.prices.get(type.name, type.price),
            MarketType.SPOT: spot.get((type.name, zone)),
        }
        for market, price in prices.items():
            if price is not None:
                yield Offering(
                    instance_type=type.name, zone=zone, market_type=market, price_per_hour=price,
                    resources=type.resources(), available=(type.name, zone) in offered, startup=STARTUP,
                    takes={quota_code(type.name, market): float(type.vcpus)},
                )  # fmt: skip


def _offered(aws: Aws, names: Sequence[str], deadline: datetime) -> frozenset[tuple[str, str]]:
    """Return which types the zones of the region offer."""
    found: set[tuple[str, str]] = set()
    for some in _chunks(names):
        pages = aws.pages(
            "ec2", "describe_instance_type_offerings", deadline, next=("NextToken", "NextToken"),
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": some}],
        )  # fmt: skip
        found |= {(each["InstanceType"], each["Location"]) for page in pages for each in page["InstanceTypeOfferings"]}
    return frozenset(found)


def _spot_prices(aws: Aws, names: Sequence[str], deadline: datetime) -> dict[tuple[str, str], float]:
    """Return what SPOT instances cost now, in dollars per hour, by type and zone."""
    pages = aws.pages(
        "ec2", "describe_spot_price_history", deadline, next=("NextToken", "NextToken"), InstanceTypes=list(names),
        ProductDescriptions=["Linux/UNIX"], StartTime=aws.clock.now(),
    )  # fmt: skip
    latest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for each in (each for page in pages for each in page["SpotPriceHistory"]):
        key = (each["InstanceType"], each["AvailabilityZone"])
        if key not in latest or each["Timestamp"] > latest[key]["Timestamp"]:
            latest[key] = each
    return {key: float(each["SpotPrice"]) for key, each in latest.items()}


def _chunks(names: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(names), FILTER_MAX):
        yield list(names[start : start + FILTER_MAX])
