"""Microsoft.Compute/virtualMachineScaleSets of orchestration mode Flexible: machines that are made many at once."""

import copy
import uuid
from datetime import timedelta

from anyscale_conformance.simulators.azure import allocation, interfaces, parts, shapes
from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, shown
from anyscale_conformance.simulators.azure.lifecycle import begin_delete, headers_of, page
from anyscale_conformance.simulators.azure.machines import MACHINES, VirtualMachine
from anyscale_conformance.simulators.azure.registry import KINDS, register
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request, parse

SETS = "Microsoft.Compute/virtualMachineScaleSets"
MOST = 1000


def delete_instances(at: Subscription, one: Resource, request: Request) -> Reply:
    """Delete some of a set's machines, and make the set so much smaller."""
    wanted = shapes.checked("compute.VirtualMachineScaleSetVMInstanceRequiredIDs", request.body or {})["instanceIds"]
    found = {machine.name.lower(): machine for machine in members(at, one)}
    if missing := [name for name in wanted if name.lower() not in found]:
        raise invalid(f"The provided instanceId {missing[0]} is not an active Virtual Machine Scale Set VM instanceId.",
                      target="instanceIds")  # fmt: skip
    operation = at.begin(one, KINDS[MACHINES.lower()].goes)
    going = [found[name.lower()] for name in wanted]
    for machine in going:
        if machine.state != "Deleting":
            begin_delete(at, KINDS[MACHINES.lower()], machine)
    one.body["sku"]["capacity"] = max(0, int(one.body["sku"]["capacity"]) - len(going))
    at.on(operation.ends, lambda: at.end(operation))
    return Reply(status=202, headers=headers_of(at, request, operation.id, Flow.BOTH))


def instances(at: Subscription, one: Resource, request: Request) -> Reply:
    """Answer with a set's machines."""
    return page(at, request, members(at, one), lambda machine: _instance(at, machine, request))


@register
class ScaleSet(Kind):
    """A flexible scale set. Its machines are machines like others."""

    type = SETS
    shape = "compute.VirtualMachineScaleSet"
    patch = "compute.VirtualMachineScaleSetUpdate"
    takes = timedelta(seconds=10)
    goes = timedelta(seconds=10)
    name_pattern = VirtualMachine.name_pattern
    actions = {"delete": delete_instances}  # noqa: RUF012 - a table
    views = {"virtualmachines": instances}  # noqa: RUF012 - a table

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        properties: Body = body.setdefault("properties", {})
        if properties.get("orchestrationMode", "Flexible" if old else "Uniform") != "Flexible":
            raise invalid(
                "This simulator has scale sets of orchestrationMode Flexible alone.", target="orchestrationMode"
            )
        if old is None and properties.get("platformFaultDomainCount") is None:
            raise invalid(
                "Required parameter 'platformFaultDomainCount' is missing (null).", target="platformFaultDomainCount"
            )
        capacity = int((body.get("sku") or {}).get("capacity") or 0)
        profile = properties.get("virtualMachineProfile")
        if not 0 <= capacity <= MOST:
            raise invalid(f"The capacity has to be from 0 to {MOST}.", target="sku.capacity")
        if capacity and not profile:
            raise invalid(
                "Required parameter 'virtualMachineProfile' is missing (null).", target="virtualMachineProfile"
            )
        if profile:
            sample = machine_body(body, f"{request.target.name}_00000000")
            asked = parts.as_request(
                request, f"{request.target.scope}/providers/{MACHINES}/{request.target.name}_00000000"
            )
            allocation.check_size(at, asked, sample)
            parts.check(at, asked, sample)
            more = capacity - (len(members(at, old)) if old is not None else 0)
            allocation.check_quota(at, sample, count=max(0, more))
            network = sample["properties"]["networkProfile"]
            interfaces.check_room(at, network.get("networkInterfaceConfigurations"), count=max(0, more))

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        before = (old or {}).get("properties") or {}
        for name, value in before.items():
            resource.properties.setdefault(name, value)
        resource.properties.setdefault("uniqueId", str(uuid.uuid4()))
        resource.body.setdefault("sku", (old or {}).get("sku") or {"capacity": 0})
        resource.body["sku"].setdefault("capacity", 0)
        now = members(at, resource)
        capacity = int(resource.body["sku"]["capacity"])
        for _ in range(capacity - len(now)):
            _add(at, resource)
        for machine in now[capacity:]:
            begin_delete(at, KINDS[MACHINES.lower()], machine)
        profile = resource.properties.get("virtualMachineProfile") or {}
        (profile.get("osProfile") or {}).pop("adminPassword", None)

    def finish(self, at: Subscription, resource: Resource) -> ArmError | None:
        return next((one.hidden["failure"] for one in members(at, resource) if "failure" in one.hidden), None)

    def duration(self, at: Subscription, resource: Resource) -> timedelta:
        return at.boot + timedelta(seconds=5)

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for machine in members(at, resource):
            if machine.state != "Deleting":
                begin_delete(at, KINDS[MACHINES.lower()], machine)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        if profile := body["properties"].get("virtualMachineProfile"):
            profile = copy.deepcopy(profile)
            (profile.get("osProfile") or {}).pop("customData", None)
            body["properties"]["virtualMachineProfile"] = profile
        return body


def members(at: Subscription, one: Resource) -> list[Resource]:
    """Return the machines of a set that are not going."""
    return [
        machine
        for machine in at.all(MACHINES)
        if str((machine.properties.get("virtualMachineScaleSet") or {}).get("id", "")).lower() == one.key
        and machine.state != "Deleting"
    ]


def machine_body(body: Body, name: str) -> Body:
    """Return the body of one machine of a set."""
    profile: Body = copy.deepcopy(body["properties"]["virtualMachineProfile"])
    system: Body = profile.get("osProfile") or {}
    prefix = system.pop("computerNamePrefix", name[:9])
    for nic in (profile.get("networkProfile") or {}).get("networkInterfaceConfigurations") or ():
        nic["name"] = f"{nic.get('name')}-{name[-8:]}"
        nic.setdefault("properties", {}).setdefault("deleteOption", "Delete")
        for part in nic["properties"].get("ipConfigurations") or ():
            address = (part.get("properties") or {}).get("publicIPAddressConfiguration")
            if address is not None:
                address["name"] = f"{address.get('name')}-{name[-8:]}"
                address.setdefault("properties", {}).setdefault("deleteOption", "Delete")
    storage: Body = profile.get("storageProfile") or {}
    (storage.get("osDisk") or {}).setdefault("deleteOption", "Delete")
    kept = {key: profile[key] for key in ("networkProfile", "priority", "evictionPolicy", "billingProfile", "userData")
            if key in profile}  # fmt: skip
    made: Body = {
        "location": body["location"], "tags": dict(body.get("tags") or {}),
        "properties": {
            **kept, "storageProfile": storage, "hardwareProfile": {"vmSize": (body.get("sku") or {}).get("name")},
            "osProfile": {**system, "computerName": f"{prefix}{name[-6:]}"},
        },
    }  # fmt: skip
    if body.get("zones"):
        made["zones"] = list(body["zones"])[:1]
    if body.get("identity"):
        made["identity"] = copy.deepcopy(body["identity"])
    return made


def _add(at: Subscription, one: Resource) -> None:
    name = f"{one.name}_{uuid.uuid4().hex[:8]}"
    body = machine_body(one.body, name)
    body["properties"]["virtualMachineScaleSet"] = {"id": one.id}
    if zones := one.body.get("zones"):
        body["zones"] = [zones[len(members(at, one)) % len(zones)]]
    kind = KINDS[MACHINES.lower()]
    machine = at.make(f"{parse(one.id).scope}/providers/{MACHINES}/{name}", MACHINES, body)
    kind.put(at, machine, None)
    machine.state = "Creating"
    operation = at.begin(machine, at.boot)

    def finish() -> None:
        if operation.status == "InProgress" and at.find(machine.id) is machine:
            error = kind.finish(at, machine)
            machine.state = "Failed" if error else "Succeeded"
            at.end(operation, error)

    at.on(operation.ends, finish)


def _instance(at: Subscription, machine: Resource, request: Request) -> Body:
    body = KINDS[MACHINES.lower()].view(at, machine, request)
    return {**body, "instanceId": machine.name, "sku": {"name": machine.properties["hardwareProfile"]["vmSize"]}}
