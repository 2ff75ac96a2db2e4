"""Microsoft.Compute: disks, and the small types that only have to be there to be referred to."""

import uuid
from datetime import timedelta

from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource, instant
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request


@register
class Disk(Kind):
    """A managed disk."""

    type = "Microsoft.Compute/disks"
    shape = "compute.Disk"
    patch = "compute.DiskUpdate"
    takes = timedelta(seconds=3)
    put_flow = Flow.BOTH
    created_status = 202
    name_pattern = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        properties = body.get("properties") or {}
        data = properties.get("creationData") or {}
        if not data.get("createOption"):
            raise invalid("Required parameter 'creationData' is missing (null).", target="creationData")
        size = properties.get("diskSizeGB")
        if data["createOption"] == "Empty" and not size:
            raise invalid("Required parameter 'disk.diskSizeGB' is missing (null).", target="disk.diskSizeGB")
        if size is not None and not 1 <= size <= 32767:
            raise invalid(f"The disk size {size} GB has to be from 1 to 32767.", target="disk.diskSizeGB")
        if old is not None and size is not None and size < old.properties.get("diskSizeGB", 0):
            raise ArmError(409, "OperationNotAllowed", "Shrinking a disk is not allowed.", target="disk.diskSizeGB")

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        before = (old or {}).get("properties") or {}
        resource.properties.setdefault("timeCreated", before.get("timeCreated", instant(at.now())))
        resource.properties.setdefault("uniqueId", before.get("uniqueId", str(uuid.uuid4())))
        resource.properties["diskState"] = before.get("diskState", "Unattached")
        if old is not None and old.get("managedBy"):
            resource.body["managedBy"] = old["managedBy"]

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        if owner := resource.body.get("managedBy"):
            raise ArmError(
                409, "OperationNotAllowed", f"Disk {resource.name} is attached to VM {owner}.", target=resource.name
            )


class Placeholder(Kind):
    """A type that is put, shown and deleted, and checked in nothing but its fields."""

    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC


@register
class SshPublicKey(Placeholder):
    """A key that machines let in."""

    type = "Microsoft.Compute/sshPublicKeys"
    shape = "compute.SshPublicKeyResource"
    patch = "compute.SshPublicKeyUpdateResource"


@register
class ProximityPlacementGroup(Placeholder):
    """Machines that are to be near each other."""

    type = "Microsoft.Compute/proximityPlacementGroups"
    shape = "compute.ProximityPlacementGroup"
    patch = "compute.ProximityPlacementGroupUpdate"


@register
class CapacityReservationGroup(Placeholder):
    """Capacity that is kept."""

    type = "Microsoft.Compute/capacityReservationGroups"
    shape = "compute.CapacityReservationGroup"
    patch = "compute.CapacityReservationGroupUpdate"


@register
class Image(Kind):
    """An image of the customer's own."""

    type = "Microsoft.Compute/images"
    shape = "compute.Image"
    patch = "compute.ImageUpdate"
