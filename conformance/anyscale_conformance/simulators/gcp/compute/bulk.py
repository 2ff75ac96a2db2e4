"""Many instances by one request: in a zone, or in whichever zones of a region have room.

Source: the bulkInsert methods and BulkInsertInstanceResource in compute's discovery document. One operation of the request
stands for all, one more for each instance, with the same ``operationGroupId``.
"""

import re
from collections.abc import Sequence
from typing import Any

from anyscale_conformance.simulators.gcp import operations
from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.catalogue import ZONES, region_of
from anyscale_conformance.simulators.gcp.compute import common, life, orders, usage
from anyscale_conformance.simulators.gcp.errors import ApiError, invalid
from anyscale_conformance.simulators.gcp.operations import OperationError
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Resource, words_of

MOST = 1000


@handles("compute.instances.bulkInsert", "compute.regionInstances.bulkInsert")
def insert(call: Call) -> Json:
    """Make many instances that differ in their names alone; fewer than ``minCount`` is none at all."""
    scope, body = common.scope_of(call), call.body
    names = _names(call)
    least = int(body.get("minCount") or len(names))
    if not 1 <= least <= len(names):
        raise invalid("resource.minCount", least, "It must be between 1 and the count.")
    properties = body.get("instanceProperties")
    if properties is None:
        raise ApiError(400, "required", "Required field 'resource.instanceProperties' not specified")
    if "/" in str(properties.get("machineType", "")):
        raise invalid(
            "resource.instanceProperties.machineType", properties["machineType"], "Give the type's name alone."
        )
    zones = _zones(call, scope)
    zone = next((found for found in zones if not _is_sold_out(call, found)), zones[0])
    order = orders.checked(call, properties, zone, field="resource.instanceProperties")
    for name in names:
        for collection in ("instances", "disks"):
            common.must_be_free(call.project, collection, f"zones/{zone}", name)
    if least == len(names):
        usage.must_fit(call.project, [usage.of_instance(order, zone)] * len(names))
    fitting = _fitting(call, [usage.of_instance(order, zone)] * len(names))
    target = Resource(
        project=call.project.id, scope=scope, collection="instances", name="", body={}, created_at=call.project.now
    )
    group = f"bulk-{call.project.new_id()}"
    if _is_sold_out(call, zone) or fitting < least:
        message = f"Requested minimum count of {least} VMs could not be created."
        error = OperationError("VM_MIN_COUNT_NOT_REACHED", message)
        if _is_sold_out(call, zone):
            error = life.stockout(call.project, zone, words_of(order["machineType"])[-1])
        return _told(call, target, group, zone, len(names), 0, error)
    for name in names[:fitting]:
        instance = life.add(call, zone, name, {**order, "disks": [dict(disk) for disk in order["disks"]],
                                               "networkInterfaces": _own(order["networkInterfaces"])})  # fmt: skip
        life.begin(call, instance, group=group)
    return _told(call, target, group, zone, len(names), fitting, None)


def _told(
    call: Call, target: Resource, group: str, zone: str, wanted: int, made: int, error: OperationError | None
) -> Json:
    """Start the operation that stands for all, and let it say how it went, zone by zone."""
    timings = call.project.timings

    def finish() -> None:
        status = {
            "targetVmCount": wanted, "createdVmCount": made, "failedToCreateVmCount": wanted - made, "deletedVmCount": 0,
            "status": "DONE",
        }  # fmt: skip
        operation.body["instancesBulkInsertOperationMetadata"] = {"perLocationStatus": {f"zones/{zone}": status}}
        operation.body["progress"] = 100
        if error is not None:
            raise error

    after = timings.insert if error is None else timings.stockout
    operation = operations.start(call, "bulkInsert", target, after=after, finish=finish, group=group)
    return operation.body


def _names(call: Call) -> list[str]:
    """Return the names of what is wanted: given one by one, or by a pattern of hashes. Raises 400."""
    body = call.body
    count = int(body.get("count", 0))
    if not 1 <= count <= MOST:
        raise invalid("resource.count", count, f"It must be between 1 and {MOST}.")
    given, pattern = body.get("perInstanceProperties", {}), str(body.get("namePattern", ""))
    if bool(given) == bool(pattern):
        raise invalid(
            "resource.namePattern", pattern, "Exactly one of namePattern and perInstanceProperties must be given."
        )
    if given:
        if len(given) != count:
            raise invalid(
                "resource.perInstanceProperties", len(given), f"It must have as many names as the count, {count}."
            )
        names = list(given)
    else:
        found = re.fullmatch(r"([^#]*)(#+)([^#]*)", pattern)
        if found is None or 10 ** len(found[2]) <= count:
            raise invalid(
                "resource.namePattern", pattern, "It must hold one sequence of hashes, long enough for the count."
            )
        names = [f"{found[1]}{number:0{len(found[2])}d}{found[3]}" for number in range(1, count + 1)]
    for name in names:
        common.name_of({"name": name})
    return names


def _zones(call: Call, scope: str) -> Sequence[str]:
    """Return the zones that a request lets its instances be in. Raises 400 when there is none."""
    kind, _, where = scope.partition("/")
    if kind == "zones":
        return [where]
    locations = call.body.get("locationPolicy", {}).get("locations", {})
    wanted = {words_of(key)[-1]: item.get("preference") for key, item in locations.items()}
    for zone in wanted:
        if region_of(zone) != where or zone not in ZONES[where]:
            raise invalid("resource.locationPolicy.locations", zone, f"It is no zone of {where}.")
    allowed = [zone for zone, preference in wanted.items() if preference == "ALLOW"]
    zones = [zone for zone in allowed or ZONES[where] if wanted.get(zone) != "DENY"]
    if not zones:
        raise invalid("resource.locationPolicy.locations", "", "It leaves no zone.")
    return zones


def _is_sold_out(call: Call, zone: str) -> bool:
    machine = words_of(str(call.body["instanceProperties"].get("machineType", "")))[-1:]
    return call.cloud.is_sold_out(call.project.id, zone, "".join(machine))


def _fitting(call: Call, wanted: Sequence[usage.Counts]) -> int:
    """Return how many of what is wanted the quotas leave room for."""
    for count in range(len(wanted), 0, -1):
        try:
            usage.must_fit(call.project, wanted[:count])
        except ApiError:
            continue
        return count
    return 0


def _own(interfaces: Sequence[Any]) -> list[Json]:
    """Return interfaces that an instance does not share with the next."""
    return [
        {**interface, "accessConfigs": [dict(access) for access in interface["accessConfigs"]]}
        if "accessConfigs" in interface
        else dict(interface)
        for interface in interfaces
    ]
