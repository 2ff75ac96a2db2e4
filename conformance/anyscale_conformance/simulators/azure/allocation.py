"""Whether there is a machine to be had: sizes, zones, quotas, stockouts."""

from anyscale_conformance.simulators.azure.catalogue import BY_NAME, SIZES, Size, cores, zones_of
from anyscale_conformance.simulators.azure.errors import ArmError, invalid, quota
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request

TAIL = "Read more about improving likelihood of allocation success at http://aka.ms/allocation-guidance"


def size_of(body: Body) -> Size:
    """Return the size of a machine's body. Raises ArmError for one that nobody sells."""
    name = str(((body.get("properties") or {}).get("hardwareProfile") or {}).get("vmSize", ""))
    if name.lower() not in BY_NAME:
        known = ",".join(size.name for size in SIZES)
        raise invalid(
            f"The value {name} provided for the VM size is not valid. The valid sizes in the current region are: {known}. "
            "Find out more on the available VM sizes in each region at https://aka.ms/azure-regions.", target="vmSize",
        )  # fmt: skip
    return BY_NAME[name.lower()]


def check_size(at: Subscription, request: Request, body: Body) -> None:
    """Refuse a size, a place or a market that does not exist. Raises ArmError."""
    location = str(body.get("location", "")).replace(" ", "").lower()
    if location not in at.locations:
        raise ArmError(
            400, "LocationNotAvailableForResourceType",
            f"The provided location '{location}' is not available for resource type 'Microsoft.Compute/virtualMachines'. List "
            f"of available regions for the resource type is '{','.join(at.locations)}'.",
        )  # fmt: skip
    size, zones = size_of(body), [str(zone) for zone in body.get("zones") or ()]
    if zones and body.get("placement"):
        raise invalid("'zones' and 'placement' cannot both be given.", target="placement", code="InvalidParameter")
    if len(zones) > 1:
        raise invalid("A virtual machine can be in one zone only.", target="zones", code="InvalidParameter")
    if zones and not zones_of(size, location):
        raise ArmError(
            400, "LocationNotSupportAvailabilityZones",
            f"The resource '{request.target.path}' is in location '{location}', which does not support availability zones.",
        )  # fmt: skip
    if zones and zones[0] not in ("1", "2", "3"):
        raise ArmError(
            400, "InvalidAvailabilityZone",
            f"The zone(s) '{zones[0]}' for resource '{request.target.path}' is not supported. The supported zones for location "
            f"'{location}' are '1,2,3'",
        )  # fmt: skip
    is_restricted = (size.name.lower(), "") in at.restricted or (size.name.lower(), *zones[:1]) in at.restricted
    if is_restricted or (zones and zones[0] not in zones_of(size, location)):
        where = f"'{location}' in zone '{zones[0]}'" if zones else f"'{location}'"
        raise ArmError(
            409, "SkuNotAvailable",
            f"The requested VM size for resource '{request.target.path}' is currently not available in location {where}. "
            "Please try another size or deploy to a different location or different zone. See "
            "https://aka.ms/azureskunotavailable for details.",
        )  # fmt: skip
    _check_market(body["properties"], size)


def place(at: Subscription, machine: Resource) -> None:
    """Choose the zone of a machine whose placement leaves it to Azure: one that has its size, and has some left."""
    placement: Body = machine.body.get("placement") or {}
    if placement.get("zonePlacementPolicy") not in ("Any", "Auto") or machine.body.get("zones"):
        return
    size = size_of(machine.body)
    wanted = placement.get("includeZones") or zones_of(size, machine.location)
    left = [zone for zone in wanted if zone not in (placement.get("excludeZones") or ())]
    there = [zone for zone in left if not {(size.name.lower(), zone), (size.name.lower(), "")} & at.sold_out]
    if left:
        machine.body["zones"] = [(there or left)[0]]


def check_quota(at: Subscription, body: Body, *, count: int = 1) -> None:
    """Refuse ``count`` machines that would be more cores than the subscription may have. Raises ArmError."""
    size, location = size_of(body), str(body["location"]).replace(" ", "").lower()
    used = cores(at, location)
    if body["properties"].get("priority") == "Spot":
        names = [("lowPriorityCores", "LowPriorityCores")]
    else:
        names = [(size.family, f"{size.family} Cores"), ("cores", "Total Regional Cores")]
    wanted = size.cpus * count
    for name, text in names:
        limit = at.limit(name, location)
        if used.get(name, 0) + wanted > limit:
            raise quota(text, location, limit=limit, used=used.get(name, 0), wanted=wanted)
    if used.get("virtualMachines", 0) + count > at.limit("virtualMachines", location):
        limit = at.limit("virtualMachines", location)
        raise ArmError(
            409, "QuotaExceeded",
            f"The number of virtual machines would exceed the limit of {limit} in {location}: {limit} are there.",
        )  # fmt: skip


def shortage(at: Subscription, resource: Resource, needs_cores: bool) -> ArmError | None:
    """Return what allocation fails with when the machine's size is sold out where it is to be."""
    size, zones = size_of(resource.body), resource.body.get("zones") or []
    name = size.name.lower()
    if not needs_cores:
        return None
    if zones and (name, zones[0]) in at.sold_out:
        if resource.properties.get("proximityPlacementGroup"):
            return ArmError(
                409, "OverconstrainedZonalAllocationRequest",
                "Allocation failed. VM(s) with the following constraints cannot be allocated, because the condition is too "
                f"restrictive. Please remove some constraints and try again. Constraints applied are: Networking "
                f"Constraints, VM Size, Proximity placement group. {TAIL}",
            )  # fmt: skip
        return ArmError(
            409,
            "ZonalAllocationFailed",
            f"Allocation failed. We do not have sufficient capacity for the requested VM size in this zone. {TAIL}",
        )
    if (name, "") in at.sold_out:
        code = "OverconstrainedAllocationRequest" if resource.properties.get("availabilitySet") else "AllocationFailed"
        code = "ZonalAllocationFailed" if zones else code
        place = "zone" if zones else "region"
        return ArmError(
            409,
            code,
            f"Allocation failed. We do not have sufficient capacity for the requested VM size in this {place}. {TAIL}",
        )
    return None


def _check_market(properties: Body, size: Size) -> None:
    priority = properties.get("priority") or "Regular"
    if priority not in ("Regular", "Low", "Spot"):
        raise invalid(f"The value '{priority}' of parameter 'priority' is not allowed.", target="priority")
    if priority == "Spot" and not size.has_spot:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"The specified VM size '{size.name}' does not support Azure Spot.",
            target="priority",
        )
    if priority == "Regular":
        for name in ("evictionPolicy", "billingProfile"):
            if properties.get(name) is not None:
                raise invalid(f"The property '{name}' is only supported for Azure Spot virtual machines.", target=name)
    elif properties.get("evictionPolicy") not in (None, "Deallocate", "Delete"):
        raise invalid("The eviction policy has to be Deallocate or Delete.", target="evictionPolicy")
    price = (properties.get("billingProfile") or {}).get("maxPrice")
    if price is not None and price != -1 and price <= 0:
        raise invalid("maxPrice has to be -1 or greater than 0.", target="billingProfile.maxPrice")
