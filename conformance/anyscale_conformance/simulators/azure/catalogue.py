"""What the simulated regions sell: sizes with their families, zones and restrictions, as ``Microsoft.Compute/skus`` tells."""

import re

import attrs

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.lifecycle import page
from anyscale_conformance.simulators.azure.operations import route
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

ZONELESS = frozenset({"northcentralus"})
"""Regions without availability zones."""
ZONES = ("1", "2", "3")


@attrs.frozen(kw_only=True)
class Size:
    """One size of machines. ``memory`` and ``disk`` in GiB; ``gpus`` of the family's model."""

    name: str
    family: str
    cpus: int
    memory: float
    gpus: int = 0
    zones: tuple[str, ...] = ZONES
    has_spot: bool = True
    architecture: str = "x64"
    temporary_disk_mib: int = 0

    def capabilities(self) -> dict[str, str]:
        """Return what the cloud says about it, all of it as text."""
        return {
            "MaxResourceVolumeMB": str(self.temporary_disk_mib), "OSVhdSizeMB": "1047552", "vCPUs": str(self.cpus),
            "MemoryPreservingMaintenanceSupported": "True", "HyperVGenerations": "V1,V2", "MemoryGB": f"{self.memory:g}",
            "MaxDataDiskCount": str(min(64, 2 * self.cpus)), "CpuArchitectureType": self.architecture,
            "LowPriorityCapable": str(self.has_spot), "PremiumIO": "True", "VMDeploymentTypes": "IaaS",
            "vCPUsAvailable": str(self.cpus), "vCPUsPerCore": "2", "EphemeralOSDiskSupported": "False",
            "EncryptionAtHostSupported": "True", "AcceleratedNetworkingEnabled": "True", "RdmaEnabled": "False",
            "MaxNetworkInterfaces": "2", **({"GPUs": str(self.gpus)} if self.gpus else {}),
        }  # fmt: skip


SIZES = (
    Size(name="Standard_DS1_v2", family="standardDSv2Family", cpus=1, memory=3.5, temporary_disk_mib=7168),
    Size(name="Standard_B2s", family="standardBSFamily", cpus=2, memory=4, has_spot=False, temporary_disk_mib=8192),
    Size(name="Standard_D2s_v5", family="standardDSv5Family", cpus=2, memory=8),
    Size(name="Standard_D4s_v5", family="standardDSv5Family", cpus=4, memory=16),
    Size(name="Standard_D8s_v5", family="standardDSv5Family", cpus=8, memory=32),
    Size(name="Standard_D16s_v5", family="standardDSv5Family", cpus=16, memory=64),
    Size(name="Standard_D64s_v5", family="standardDSv5Family", cpus=64, memory=256),
    Size(name="Standard_D4ps_v5", family="standardDPSv5Family", cpus=4, memory=16, architecture="Arm64"),
    Size(name="Standard_E8s_v5", family="standardESv5Family", cpus=8, memory=64),
    Size(name="Standard_F16s_v2", family="standardFSv2Family", cpus=16, memory=32, temporary_disk_mib=131072),
    Size(name="Standard_NC4as_T4_v3", family="Standard NCASv3_T4 Family", cpus=4, memory=28, gpus=1, zones=("1", "2")),
    Size(
        name="Standard_NC24ads_A100_v4", family="StandardNCADSA100v4Family", cpus=24, memory=220, gpus=1, zones=("1",)
    ),
    Size(name="Standard_ND96asr_v4", family="standardNDASv4_A100Family", cpus=96, memory=900, gpus=8, zones=("2",)),
)
BY_NAME = {size.name.lower(): size for size in SIZES}


def cores(at: Subscription, location: str) -> dict[str, int]:
    """Return the cores in use in a region: in all, by family and of Spot, and how many machines there are."""
    used: dict[str, int] = {}
    for machine in at.all("Microsoft.Compute/virtualMachines"):
        if machine.location != location:
            continue
        used["virtualMachines"] = used.get("virtualMachines", 0) + 1
        if machine.hidden.get("power") in ("deallocated", ""):
            continue
        size = BY_NAME[machine.properties["hardwareProfile"]["vmSize"].lower()]
        is_spot = machine.properties.get("priority") == "Spot"
        for name in ("lowPriorityCores",) if is_spot else ("cores", size.family):
            used[name] = used.get(name, 0) + size.cpus
    return used


def zones_of(size: Size, location: str) -> tuple[str, ...]:
    """Return the zones of a region that have a size."""
    return () if location in ZONELESS else size.zones


@route("GET", "Microsoft.Compute/skus")
def skus(at: Subscription, request: Request) -> Reply:
    """Answer what sizes and disks there are, in one region or in all."""
    wanted = request.query.get("$filter", "")
    found = re.fullmatch(r"\s*location\s+eq\s+'([^']*)'\s*", wanted, re.IGNORECASE)
    if wanted and found is None:
        raise ArmError(400, "InvalidFilterInQueryString", f"Invalid $filter '{wanted}' specified in the query string.")
    locations = [found[1].replace(" ", "").lower()] if found else list(at.locations)
    items = [_sku(at, size, location) for location in locations if location in at.locations for size in SIZES]
    items += [_disk_sku(name, location) for location in locations for name in ("Premium_LRS", "StandardSSD_LRS")]
    return page(at, request, items, dict)


@route("GET", "Microsoft.Compute/locations/usages")
def usages(at: Subscription, request: Request) -> Reply:
    """Answer how much of each limit on machines is used in a region."""
    location = request.target.names[0].lower()
    limits = {"cores": "Total Regional vCPUs", "lowPriorityCores": "Total Regional Low-priority vCPUs",
              "virtualMachines": "Virtual Machines"}  # fmt: skip
    limits |= {size.family: f"{size.family} vCPUs" for size in SIZES}
    used = cores(at, location)
    return page(
        at, request,
        [_usage(name, text, used.get(name, 0), at.limit(name, location)) for name, text in limits.items()], dict,
    )  # fmt: skip


@route("GET", "Microsoft.Network/locations/usages")
def network_usages(at: Subscription, request: Request) -> Reply:
    """Answer how much of each limit on networks is used in a region."""
    location = request.target.names[0].lower()
    counts = {
        name: sum(1 for found in at.all(f"Microsoft.Network/{type}") if found.location == location)
        for name, type in (
            ("PublicIPAddresses", "publicIPAddresses"), ("NetworkInterfaces", "networkInterfaces"),
            ("VirtualNetworks", "virtualNetworks"), ("NetworkSecurityGroups", "networkSecurityGroups"),
        )
    }  # fmt: skip
    counts["StandardSkuPublicIpAddresses"] = counts["PublicIPAddresses"]
    found = [_usage(name, name, count, at.limit(name, location)) for name, count in counts.items()]
    return page(at, request, found, dict)


@route("GET", "Microsoft.Compute/locations/vmsizes")
def sizes(at: Subscription, request: Request) -> Reply:
    """Answer the sizes of a region, as the older list has them."""
    items = [{"name": size.name, "numberOfCores": size.cpus, "memoryInMB": int(size.memory * 1024)} for size in SIZES]
    return page(at, request, items, dict)


def _sku(at: Subscription, size: Size, location: str) -> Body:
    zones = zones_of(size, location)
    restrictions: list[Body] = []
    if (size.name.lower(), "") in at.restricted:
        restrictions.append(
            {"type": "Location", "values": [location], "restrictionInfo": {"locations": [location]},
             "reasonCode": "NotAvailableForSubscription"}
        )  # fmt: skip
    if gone := [zone for zone in zones if (size.name.lower(), zone) in at.restricted]:
        restrictions.append(
            {"type": "Zone", "values": [location], "restrictionInfo": {"locations": [location], "zones": gone},
             "reasonCode": "NotAvailableForSubscription"}
        )  # fmt: skip
    return {
        "resourceType": "virtualMachines", "name": size.name, "tier": "Standard",
        "size": size.name.removeprefix("Standard_"), "family": size.family, "locations": [location],
        "locationInfo": [{"location": location, "zones": list(zones), "zoneDetails": []}],
        "capabilities": [{"name": name, "value": value} for name, value in size.capabilities().items()],
        "restrictions": restrictions,
    }  # fmt: skip


def _disk_sku(name: str, location: str) -> Body:
    return {
        "resourceType": "disks", "name": name, "tier": "Premium", "size": "P10", "locations": [location],
        "locationInfo": [{"location": location, "zones": [], "zoneDetails": []}], "capabilities": [], "restrictions": [],
    }  # fmt: skip


def _usage(name: str, text: str, used: int, limit: int) -> Body:
    return {"unit": "Count", "currentValue": used, "limit": limit, "name": {"value": name, "localizedValue": text}}
