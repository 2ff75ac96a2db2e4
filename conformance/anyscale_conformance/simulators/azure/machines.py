"""Microsoft.Compute/virtualMachines: what may be made of what, and how machines live."""

import base64
import binascii
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from anyscale_conformance.simulators.azure import allocation, interfaces, parts
from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, references, shown
from anyscale_conformance.simulators.azure.lifecycle import BEING_DELETED, headers_of
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource, instant
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

MACHINES = "Microsoft.Compute/virtualMachines"
CUSTOM_DATA_MAX = 65535
"""Bytes, before they are encoded."""
UNCHANGING = (
    ("osProfile", "customData"), ("osProfile", "computerName"), ("osProfile", "adminUsername"),
    ("storageProfile", "imageReference"), ("priority",), ("virtualMachineScaleSet",), ("availabilitySet",),
    ("proximityPlacementGroup",),
)  # fmt: skip
"""What a put of a machine that is there cannot change."""


def start(at: Subscription, resource: Resource, request: Request) -> Reply:
    """Start a machine."""
    error = allocation.shortage(at, resource, resource.hidden.get("power") == "deallocated")
    if error is not None:
        raise error
    return turn(at, resource, request, "running", timedelta(seconds=30))


def power_off(at: Subscription, resource: Resource, request: Request) -> Reply:
    """Shut a machine down; its cores stay its own."""
    return turn(at, resource, request, "stopped", timedelta(seconds=20))


def deallocate(at: Subscription, resource: Resource, request: Request) -> Reply:
    """Shut a machine down and give its cores back."""
    return turn(at, resource, request, "deallocated", timedelta(seconds=30))


def restart(at: Subscription, resource: Resource, request: Request) -> Reply:
    """Restart a machine."""
    return turn(at, resource, request, "running", timedelta(seconds=30))


def simulate_eviction(at: Subscription, resource: Resource, request: Request) -> Reply:
    """Evict a Spot machine within half an hour, as the real action does; it answers 204."""
    if resource.properties.get("priority") != "Spot":
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Simulate eviction is not supported on VM '{resource.name}', which is not Spot.",
        )
    parts.announce(at, resource, timedelta(minutes=2))
    return Reply(status=204)


def turn(at: Subscription, resource: Resource, request: Request, power: str, takes: timedelta) -> Reply:
    """Bring a machine to another power state."""
    if resource.state == BEING_DELETED:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Operation is not allowed on VM '{resource.name}' since it is marked for deletion.",
        )
    operation = at.begin(resource, takes)
    resource.state = "Updating"
    resource.hidden["power"] = {"running": "starting", "stopped": "stopping"}.get(power, "deallocating")

    def finish() -> None:
        if operation.status != "InProgress" or at.find(resource.id) is not resource:
            return
        resource.state = "Succeeded"
        parts.power(at, resource, power)
        at.end(operation)

    at.on(operation.ends, finish)
    return Reply(status=202, headers=headers_of(at, request, operation.id, Flow.BOTH))


def instance_view(at: Subscription, resource: Resource, request: Request) -> Body:
    """Return how a machine is: its provisioning, and its power."""
    return parts.instance_view(at, resource)


@register
class VirtualMachine(Kind):
    """A machine."""

    type = MACHINES
    shape = "compute.VirtualMachine"
    patch = "compute.VirtualMachineUpdate"
    takes = timedelta(seconds=40)
    goes = timedelta(seconds=40)
    name_pattern = r"[A-Za-z0-9]([A-Za-z0-9.\-]{0,62}[A-Za-z0-9])?"
    actions = {  # noqa: RUF012 - a table
        "start": start, "poweroff": power_off, "deallocate": deallocate, "restart": restart,
        "simulateeviction": simulate_eviction,
    }  # fmt: skip
    views = {"instanceview": instance_view}  # noqa: RUF012 - a table

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        properties: Body = body.setdefault("properties", {})
        if old is not None:
            _check_unchanged(request, body, old)
            parts.check_update(at, request, body, old)
            if allocation.size_of(body if properties.get("hardwareProfile") else old.body) != allocation.size_of(
                old.body
            ):
                allocation.check_size(at, request, body)
            return
        allocation.check_size(at, request, body)
        _check_system(properties)
        parts.check(at, request, body)
        interfaces.check_room(at, properties["networkProfile"].get("networkInterfaceConfigurations"))
        allocation.check_quota(at, body)

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        properties = resource.properties
        system = properties.get("osProfile")
        if old is not None:
            parts.update(at, resource, old)
            if resource.hidden.pop("failure", None) is not None:
                resource.hidden["power"] = "creating"
            return
        properties |= {"vmId": str(uuid.uuid4()), "timeCreated": instant(at.now())}
        resource.hidden["power"] = "creating"
        if system is not None:
            resource.hidden["customData"] = system.pop("customData", None)
            system.pop("adminPassword", None)
            system.setdefault("requireGuestProvisionSignal", True)
        if user_data := properties.pop("userData", None):
            resource.hidden["userData"] = user_data
        allocation.place(at, resource)
        parts.identity(at, resource)
        parts.make(at, resource)

    def duration(self, at: Subscription, resource: Resource) -> timedelta:
        return at.boot if resource.hidden["power"] == "creating" else timedelta(seconds=5)

    def finish(self, at: Subscription, resource: Resource) -> ArmError | None:
        if resource.hidden["power"] != "creating":
            return None
        error = allocation.shortage(at, resource, True)
        if error is not None:
            resource.hidden |= {"power": "", "failure": error}
            parts.hold(at, resource)
            return error
        parts.power(at, resource, "running")
        return None

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        return None

    def leave(self, at: Subscription, resource: Resource) -> None:
        parts.leave(at, resource)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        query = {} if request is None else request.query
        wants_status = query.get("statusonly", "").lower() == "true"
        if "instanceview" in query.get("$expand", "").lower() or wants_status:
            body["properties"]["instanceView"] = parts.instance_view(at, resource)
        if "userdata" in query.get("$expand", "").lower() and "userData" in resource.hidden:
            body["properties"]["userData"] = resource.hidden["userData"]
        return body

    def filtered(self, at: Subscription, found: list[Resource], request: Request) -> list[Resource]:
        return parts.of_scale_set(found, request.query.get("$filter", ""), request.query.get("$expand", ""))

    def links(self, body: Body) -> Iterable[tuple[str, str]]:
        for id in references(body, "networkInterfaces"):
            yield id, "Microsoft.Network/networkInterfaces/join/action"
        for id in references(body, "subnet"):
            yield id, "Microsoft.Network/virtualNetworks/subnets/join/action"
        for id in references(body, "networkSecurityGroup"):
            yield id, "Microsoft.Network/networkSecurityGroups/join/action"
        for id in (body.get("identity") or {}).get("userAssignedIdentities") or ():
            yield id, "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"


def _check_system(properties: Body) -> None:
    """Refuse an operating system that nobody could log into, or custom data that is none. Raises ArmError."""
    storage, system = properties.get("storageProfile") or {}, properties.get("osProfile")
    disk: Body = storage.get("osDisk") or {}
    if disk.get("createOption") == "Attach":
        if system is not None:
            raise invalid("Parameter 'osProfile' is not allowed.", target="osProfile", code="PropertyChangeNotAllowed")
        return
    if system is None:
        raise invalid("Required parameter 'osProfile' is missing (null).", target="osProfile")
    for name in ("computerName", "adminUsername"):
        if not system.get(name):
            raise invalid(f"Required parameter 'osProfile.{name}' is missing (null).", target=f"osProfile.{name}")
    if (
        not 1 <= len(system["computerName"]) <= 64
        or not system["computerName"].replace("-", "").replace(".", "").isalnum()
    ):
        raise invalid("Linux host name cannot exceed 64 characters in length or contain special characters.",
                      target="computerName", code="InvalidParameter")  # fmt: skip
    if system["adminUsername"].lower() in ("root", "admin", "administrator", "user", "test", "guest"):
        raise invalid("The Admin Username specified is not allowed.", target="adminUsername")
    linux: dict[str, Any] = system.get("linuxConfiguration") or {}
    if linux.get("disablePasswordAuthentication"):
        if not ((linux.get("ssh") or {}).get("publicKeys")):
            raise invalid(
                "Authentication using either SSH or by user name and password must be enabled in Linux profile.",
                target="linuxConfiguration",
            )
    elif not system.get("adminPassword"):
        raise invalid("Required parameter 'adminPassword' is missing (null).", target="adminPassword")
    for name, text in (("customData", system.get("customData")), ("userData", properties.get("userData"))):
        try:
            size = len(base64.b64decode(text or "", validate=True))
        except (binascii.Error, ValueError):
            raise invalid(
                f"{name[0].upper()}{name[1:]} in the OS profile must be in Base64 encoded format.", target=name
            )
        if size > CUSTOM_DATA_MAX:
            raise invalid(f"The size of {name} must not exceed {CUSTOM_DATA_MAX} bytes.", target=name)


def _check_unchanged(request: Request, body: Body, old: Resource) -> None:
    properties, before = body["properties"], old.properties
    for path in UNCHANGING:
        now: Any = properties
        then: Any = before
        for word in path:
            now, then = (now or {}).get(word), (then or {}).get(word)
        if path[-1] == "customData":
            then = old.hidden.get("customData")
        if now is not None and now != then:
            raise ArmError(
                409, "PropertyChangeNotAllowed", f"Changing property '{'.'.join(path)}' is not allowed.",
                target=".".join(path),
            )  # fmt: skip
    if body.get("zones") and body["zones"] != old.body.get("zones"):
        raise ArmError(409, "PropertyChangeNotAllowed", "Changing property 'zones' is not allowed.", target="zones")
