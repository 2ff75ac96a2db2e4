"""What a machine is made of: its disks, its interfaces, its identity, its power; and what becomes of them when it goes."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from anyscale_conformance.simulators.azure import interfaces
from anyscale_conformance.simulators.azure.errors import ArmError, bad_reference, invalid
from anyscale_conformance.simulators.azure.images import check_image
from anyscale_conformance.simulators.azure.kinds import fits
from anyscale_conformance.simulators.azure.lifecycle import begin_delete
from anyscale_conformance.simulators.azure.registry import KINDS
from anyscale_conformance.simulators.azure.store import Resource, instant
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request, parse

DISKS = "Microsoft.Compute/disks"
DISPLAY = {
    "starting": "VM starting", "running": "VM running", "stopping": "VM stopping", "stopped": "VM stopped",
    "deallocating": "VM deallocating", "deallocated": "VM deallocated",
}  # fmt: skip
AFTER = timedelta(seconds=2)
"""How long after the machine the things that go with it begin to go."""


def check(at: Subscription, request: Request, body: Body) -> None:
    """Refuse disks, interfaces and identities that cannot be a machine's. Raises ArmError."""
    properties = body["properties"]
    storage: Body = properties.get("storageProfile") or {}
    disk: Body = storage.get("osDisk") or {}
    option = disk.get("createOption")
    if option not in ("FromImage", "Attach", "Empty", "Copy", "Restore"):
        raise invalid("Required parameter 'osDisk.createOption' is missing (null).", target="osDisk.createOption")
    if option == "FromImage":
        check_image(at, request, storage.get("imageReference"), str(body["location"]))
    _check_disks(at, request, storage)
    _check_interfaces(at, request, body)
    for id in (body.get("identity") or {}).get("userAssignedIdentities") or ():
        if at.find(id) is None:
            raise ArmError(
                400, "FailedIdentityOperation",
                f"Identity operation for resource '{request.target.path}' failed with error 'Failed to perform resource "
                f"identity operation. Status: 'BadRequest'. Resource '{id}' was not found.'.",
            )  # fmt: skip
    wanted = (properties.get("virtualMachineScaleSet") or {}).get("id")
    if wanted and at.find(wanted) is None:
        raise bad_reference(wanted, request.target.path)


def make(at: Subscription, machine: Resource) -> None:
    """Make the disks and interfaces that a machine's body asks for, and take those that it refers to."""
    storage = machine.properties.setdefault("storageProfile", {})
    _make_disk(at, machine, storage["osDisk"], f"{machine.name}_OsDisk_1_{uuid.uuid4().hex}", 30)
    for number, disk in enumerate(storage.setdefault("dataDisks", [])):
        name = f"{machine.name}_DataDisk_{disk.get('lun', number)}_{uuid.uuid4().hex}"
        _make_disk(at, machine, disk, name, int(disk.get("diskSizeGB") or 0))
    network = machine.properties["networkProfile"]
    wanted = network.pop("networkInterfaceConfigurations", None)
    network.pop("networkApiVersion", None)
    if wanted:
        network["networkInterfaces"] = [_make_interface(at, machine, one, len(wanted) == 1) for one in wanted]


def identity(at: Subscription, machine: Resource, before: Body | None = None) -> None:
    """Complete a machine's identities with their ids; one of its own stays the same."""
    found = machine.body.get("identity")
    if not found:
        return
    if "SystemAssigned" in str(found.get("type")):
        own = ((before or {}).get("identity") or {}).get("principalId") or str(uuid.uuid4())
        found.update(principalId=own, tenantId=at.tenant_id)
        at.directory.principals.setdefault(own, at.now() + at.propagation)
    mapped = found.get("userAssignedIdentities") or {}
    for id in mapped:
        known = at.find(id)
        if known is not None:
            mapped[id] = {name: known.properties[name] for name in ("principalId", "clientId")}


def update(at: Subscription, machine: Resource, old: Body) -> None:
    """Keep of a machine what a put does not say and cannot change."""
    before: Body = old["properties"]
    disks = (machine.properties.get("storageProfile") or {}).get("dataDisks")
    for name in ("vmId", "timeCreated", "storageProfile", "networkProfile", "hardwareProfile", "priority",
                 "evictionPolicy", "virtualMachineScaleSet"):  # fmt: skip
        if name in before:
            changed = machine.properties.get(name)
            kept = before[name]
            if isinstance(kept, dict) and isinstance(changed, dict):
                kept = {**kept, **{key: value for key, value in changed.items() if key not in ("osDisk", "dataDisks")}}
                kept.pop("networkInterfaceConfigurations", None)
                kept.pop("networkApiVersion", None)
            machine.properties[name] = kept
    if disks is not None:
        storage = machine.properties["storageProfile"]
        storage["dataDisks"] = change_disks(at, machine, storage.get("dataDisks") or (), disks)
    system = machine.properties.get("osProfile")
    if system is not None:
        for name in ("customData", "adminPassword"):
            system.pop(name, None)
    elif "osProfile" in before:
        machine.properties["osProfile"] = before["osProfile"]
    if "zones" in old:
        machine.body["zones"] = old["zones"]
    if "identity" in old:
        machine.body.setdefault("identity", old["identity"])
    identity(at, machine, old)


def check_update(at: Subscription, request: Request, body: Body, old: Resource) -> None:
    """Refuse data disks that cannot be attached, and interfaces that cannot be changed. Raises ArmError."""
    before: Body = old.properties.get("storageProfile") or {}
    wanted = (body["properties"].get("storageProfile") or {}).get("dataDisks") or []
    new = [disk for disk in wanted if _same(disk, before.get("dataDisks") or ()) is None]
    _check_disks(at, request, {"osDisk": {"createOption": "FromImage"}, "dataDisks": new})
    given = (body["properties"].get("networkProfile") or {}).get("networkInterfaces")
    known = [one["id"].lower() for one in old.properties["networkProfile"]["networkInterfaces"]]
    if given is not None and [str(one.get("id")).lower() for one in given] != known:
        raise ArmError(
            409, "PropertyChangeNotAllowed", "Changing property 'networkProfile' is not allowed on a running VM.",
            target="networkProfile",
        )  # fmt: skip


def change_disks(at: Subscription, machine: Resource, before: Sequence[Body], wanted: Sequence[Body]) -> list[Body]:
    """Attach and detach data disks until they are those that are wanted; return them."""
    after: list[Body] = []
    for disk in wanted:
        known = _same(disk, before)
        if known is None:
            _make_disk(
                at,
                machine,
                disk,
                f"{machine.name}_DataDisk_{disk['lun']}_{uuid.uuid4().hex}",
                disk.get("diskSizeGB", 0),
            )
        after.append({**known, **disk, "managedDisk": known["managedDisk"]} if known is not None else disk)
    for disk in before:
        found = at.find(disk["managedDisk"]["id"])
        if _same(disk, after) is None and found is not None:
            found.properties["diskState"] = "Unattached"
            found.body.pop("managedBy", None)
    return after


def _same(disk: Body, others: Sequence[Body]) -> Body | None:
    """Return the disk among others that is the same one: by its id or its name."""
    id = str((disk.get("managedDisk") or {}).get("id", "")).lower()
    for other in others:
        if (id and id == str((other.get("managedDisk") or {}).get("id", "")).lower()) or (
            disk.get("name") and disk.get("name") == other.get("name")
        ):
            return other
    return None


def hold(at: Subscription, machine: Resource) -> None:
    """Keep the interfaces of a machine that could not be made for it: nobody else may have them for three minutes."""
    for nic in nics(at, machine):
        nic.hidden["held"] = (machine.id, at.now() + interfaces.HELD)


def power(at: Subscription, machine: Resource, state: str) -> None:
    """Set a machine's power now: running boots it where machines are booted, everything else cuts it off."""
    machine.hidden["power"] = state
    machine.hidden.pop("failure", None)
    at.metadata.turn(machine, state)


def announce(at: Subscription, machine: Resource, notice: timedelta) -> None:
    """Announce that a Spot machine will be taken back, and do so after ``notice``."""
    due = at.now() + notice
    machine.hidden["eviction"] = due

    def act() -> None:
        if at.find(machine.id) is machine and machine.hidden.get("eviction") == due:
            machine.hidden.pop("eviction")
            if machine.properties.get("evictionPolicy") == "Delete":
                begin_delete(at, KINDS[machine.type.lower()], machine)
            else:
                power(at, machine, "deallocated")

    at.on(due, act)


def leave(at: Subscription, machine: Resource) -> None:
    """Let go of what a machine has, and have that go along which is marked so."""
    at.metadata.turn(machine, "gone")
    at.directory.principals.pop((machine.body.get("identity") or {}).get("principalId", ""), None)
    doomed: list[Resource] = []
    for disk, option in _disks(at, machine):
        disk.properties["diskState"] = "Unattached"
        disk.body.pop("managedBy", None)
        if option == "Delete":
            doomed.append(disk)
    for reference in machine.properties["networkProfile"].get("networkInterfaces") or ():
        nic = at.find(reference["id"])
        if nic is not None and (reference.get("properties") or {}).get("deleteOption") == "Delete":
            nic.hidden.pop("held", None)
            doomed.append(nic)

    def follow() -> None:
        for resource in doomed:
            if at.find(resource.id) is resource and resource.state != "Deleting":
                begin_delete(at, KINDS[resource.type.lower()], resource)

    at.on(at.now() + AFTER * at.pace, follow)


def instance_view(at: Subscription, machine: Resource) -> Body:
    """Return the statuses of a machine: first its provisioning, then its power."""
    when = instant(machine.made_at)
    failure: ArmError | None = machine.hidden.get("failure")
    if failure is not None:
        status = {
            "code": f"ProvisioningState/failed/{failure.code}", "level": "Error", "displayStatus": "Provisioning failed",
            "message": failure.message, "time": when,
        }  # fmt: skip
        return {"statuses": [status], "disks": []}
    word = {"Succeeded": "succeeded", "Creating": "creating", "Updating": "updating", "Deleting": "deleting"}
    state = word.get(machine.state, machine.state.lower())
    statuses: list[Body] = [
        {"code": f"ProvisioningState/{state}", "level": "Info", "displayStatus": f"Provisioning {state}", "time": when}
    ]
    current = machine.hidden.get("power")
    if current in DISPLAY:
        statuses.append({"code": f"PowerState/{current}", "level": "Info", "displayStatus": DISPLAY[current]})
    return {"statuses": statuses, "computerName": machine.name, "hyperVGeneration": "V2"}


def nics(at: Subscription, machine: Resource) -> Iterator[Resource]:
    """Yield a machine's interfaces that are there."""
    for reference in machine.properties.get("networkProfile", {}).get("networkInterfaces") or ():
        found = at.find(reference["id"])
        if found is not None:
            yield found


def of_scale_set(found: list[Resource], wanted: str, expand: str) -> list[Resource]:
    """Return those that a filter of the list of machines asks for. Raises ArmError for one that it does not know."""
    if not wanted:
        if expand:
            raise invalid("The expand query option is only allowed with a filter.", target="$expand", code="BadRequest")
        return found
    if not fits(r"'?virtualMachineScaleSet/id'?\s+eq\s+(null|'[^']*')", wanted.strip()):
        raise invalid(f"Invalid $filter '{wanted}'.", target="$filter", code="BadRequest")
    id = wanted.rpartition(" ")[2].strip("'").lower()
    sets = ((machine, machine.properties.get("virtualMachineScaleSet") or {}) for machine in found)
    return [machine for machine, one in sets if str(one.get("id", "null")).lower() == id]


def _disks(at: Subscription, machine: Resource) -> Iterator[tuple[Resource, str]]:
    storage = machine.properties.get("storageProfile") or {}
    for disk in (storage.get("osDisk") or {}, *(storage.get("dataDisks") or ())):
        found = at.find(str((disk.get("managedDisk") or {}).get("id", "")))
        if found is not None:
            yield found, str(disk.get("deleteOption", "Detach"))


def _check_disks(at: Subscription, request: Request, storage: Body) -> None:
    disks = [storage.get("osDisk") or {}, *(storage.get("dataDisks") or ())]
    luns = [disk.get("lun") for disk in disks[1:]]
    if None in luns or len(set(luns)) < len(luns):
        raise invalid("The lun of every data disk has to be given, and to be another.", target="dataDisk.lun")
    for disk in disks:
        id = (disk.get("managedDisk") or {}).get("id")
        if disk.get("createOption") == "Attach" and not id:
            raise invalid("A disk that is attached needs its id.", target="managedDisk.id")
        if disk.get("createOption") != "Attach":
            name = disk.get("name")
            if name and at.find(f"{request.target.path.rsplit('/', 2)[0]}/disks/{name}") is not None:
                raise ArmError(
                    409, "ConflictingUserInput",
                    f"Disk {name} already exists in resource group {request.target.group.upper()}. Only CreateOption.Attach is "
                    "supported.", target=str(name),
                )  # fmt: skip
            continue
        found = at.find(str(id))
        if found is None:
            raise ArmError(404, "NotFound", f"Disk {id} is not found.", target="dataDisk.managedDisk.id")
        if found.body.get("managedBy"):
            raise ArmError(
                409,
                "ConflictingUserInput",
                f"Disk '{id}' cannot be attached as the disk is already owned by VM '{found.body['managedBy']}'.",
            )


def _check_interfaces(at: Subscription, request: Request, body: Body) -> None:
    network: Body = body["properties"].get("networkProfile") or {}
    given, inline = network.get("networkInterfaces") or [], network.get("networkInterfaceConfigurations") or []
    if bool(given) == bool(inline):
        raise invalid("Virtual Machine must have at least one network interface.", target="networkProfile")
    if inline and not network.get("networkApiVersion"):
        raise invalid(
            "Required parameter 'networkApiVersion' is missing (null).", target="networkProfile.networkApiVersion"
        )
    for one in given:
        nic = at.find(str(one.get("id", "")))
        if nic is None or nic.state == "Deleting":
            raise bad_reference(str(one.get("id")), request.target.path)
        for user in at.users(nic.id, "Microsoft.Compute/virtualMachines", "networkInterfaces"):
            raise ArmError(400, "NicInUse", f"Network Interface {nic.id} is used by existing resource {user.id}.")
        held = nic.hidden.get("held")
        if held is not None and at.now() < held[1] and held[0].lower() != request.target.path.lower():
            raise ArmError(
                400, "NicReservedForAnotherVm",
                "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please provide another nic(s) or "
                f"retry after 180 seconds. Reserved VM: {held[0]}",
            )  # fmt: skip
    for one in inline:
        body_of = interface_body(body, one, request.target.path)
        id = f"{request.target.scope}/providers/{interfaces.INTERFACES}/{at.name_part(one['name'])}"
        if at.find(id) is not None:
            raise ArmError(409, "ConflictingUserInput", f"Network interface {id} already exists.", target="name")
        asked = as_request(request, id)
        for part in body_of["properties"]["ipConfigurations"]:
            part["properties"].pop("publicIPAddressConfiguration", None)
        interfaces.Interface().check_parts(at, asked, body_of, None)


def interface_made(at: Subscription, nic: Resource) -> None:
    """Complete an interface that came into being without a request of its own."""
    KINDS[interfaces.INTERFACES.lower()].put(at, nic, None)


def interface_body(machine: Body, one: Body, path: str) -> Body:
    """Return the interface that a configuration in a machine's body stands for."""
    properties: Body = one.get("properties") or {}
    parts: list[Any] = []
    for part in properties.get("ipConfigurations") or ():
        given = part.get("properties") or {}
        kept = {name: given[name] for name in ("subnet", "primary", "privateIPAddressVersion") if name in given}
        if pools := given.get("loadBalancerBackendAddressPools"):
            kept["loadBalancerBackendAddressPools"] = pools
        parts.append({"name": part.get("name"), "properties": kept})
    if not one.get("name"):
        raise invalid(
            f"A network interface configuration of {path} has no name.", target="networkInterfaceConfigurations"
        )
    kept = {name: properties[name] for name in ("networkSecurityGroup", "enableAcceleratedNetworking",
                                                "enableIPForwarding") if name in properties}  # fmt: skip
    body: Body = {"location": machine["location"], "properties": {**kept, "ipConfigurations": parts}}
    if one.get("tags"):
        body["tags"] = dict(one["tags"])
    return body


def _make_interface(at: Subscription, machine: Resource, one: Body, is_only: bool) -> Body:
    scope = machine.target.scope
    body = interface_body(machine.body, one, machine.id)
    given = (one.get("properties") or {}).get("ipConfigurations") or ()
    for part, wanted in zip(body["properties"]["ipConfigurations"], given, strict=True):
        address = (wanted.get("properties") or {}).get("publicIPAddressConfiguration")
        if address is not None:
            part["properties"]["publicIPAddress"] = _make_address(at, machine, address)
    id = f"{scope}/providers/{interfaces.INTERFACES}/{at.name_part(one['name'])}"
    nic = at.make(id, interfaces.INTERFACES, body)
    interface_made(at, nic)
    properties = one.get("properties") or {}
    return {
        "id": nic.id,
        "properties": {
            "primary": properties.get("primary", is_only), "deleteOption": properties.get("deleteOption", "Detach"),
        },
    }  # fmt: skip


def _make_address(at: Subscription, machine: Resource, wanted: Body) -> Body:
    properties = wanted.get("properties") or {}
    body: Body = {
        "location": machine.location, "sku": wanted.get("sku") or {"name": "Standard", "tier": "Regional"},
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4",
                       "idleTimeoutInMinutes": properties.get("idleTimeoutInMinutes", 4)},
    }  # fmt: skip
    if wanted.get("tags"):
        body["tags"] = dict(wanted["tags"])
    if machine.body.get("zones"):
        body["zones"] = list(machine.body["zones"])
    id = f"{machine.target.scope}/providers/{interfaces.ADDRESSES}/{at.name_part(wanted['name'])}"
    address = at.make(id, interfaces.ADDRESSES, body)
    KINDS[interfaces.ADDRESSES.lower()].put(at, address, None)
    return {"id": address.id, "properties": {"deleteOption": properties.get("deleteOption", "Detach")}}


def _make_disk(at: Subscription, machine: Resource, disk: Body, name: str, size: int) -> None:
    managed: Body = disk.setdefault("managedDisk", {})
    if disk.get("createOption") == "Attach":
        found = at.find(managed["id"])
        assert found is not None
    else:
        disk.setdefault("name", name)
        disk.setdefault("diskSizeGB", size)
        body: Body = {
            "location": machine.location, "sku": {"name": managed.get("storageAccountType", "Premium_LRS")},
            # A disk that comes along with a machine gets the machine's tags, as they are at that moment.
            "tags": machine.tags,
            "properties": {
                "creationData": {"createOption": disk["createOption"]}, "diskSizeGB": disk["diskSizeGB"],
                "uniqueId": str(uuid.uuid4()), "timeCreated": instant(at.now()),
            },
        }  # fmt: skip
        if machine.body.get("zones"):
            body["zones"] = list(machine.body["zones"])
        found = at.make(f"{machine.target.scope}/providers/{DISKS}/{disk['name']}", DISKS, body)
        managed["id"] = found.id
        managed.setdefault("storageAccountType", "Premium_LRS")
    disk.setdefault("deleteOption", "Detach")
    found.body["managedBy"] = machine.id
    found.properties["diskState"] = "Attached"


def as_request(request: Request, id: str) -> Request:
    """Return a request as if it were a put of another resource: of what comes along with one."""
    return Request(
        method="PUT", path=id, target=parse(id), query=request.query, headers={}, body=None, base=request.base,
        principal=request.principal,
    )  # fmt: skip
