"""The life of an instance: provisioning, staging, running, stopping, terminated, gone.

Each order that it gets starts a new turn; what an earlier order had planned for later then counts no more.
"""

import ipaddress
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from anyscale_conformance.simulators.gcp import operations
from anyscale_conformance.simulators.gcp.calls import Call
from anyscale_conformance.simulators.gcp.catalogue import ZONES, region_of
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.compute.networks import RESERVED
from anyscale_conformance.simulators.gcp.compute.usage import IDLE
from anyscale_conformance.simulators.gcp.errors import already_exists
from anyscale_conformance.simulators.gcp.operations import OperationError
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import LINK, Project, Resource, fingerprint, stamp, words_of

AUTOMATIC = ipaddress.IPv4Network("10.128.0.0/9")
"""What the subnetworks of automatic networks are cut from."""
PUBLIC = ipaddress.IPv4Network("203.0.113.0/24")
"""TEST-NET-3: public addresses of instances."""


def add(call: Call, zone: str, name: str, order: Json) -> Resource:
    """Let an instance be there, provisioning, with its disks. Raises 409 for a disk's name that is taken."""
    scope = f"zones/{zone}"
    for disk in order["disks"]:
        if "initializeParams" in disk and (there := call.project.find("disks", scope, _title(name, disk))) is not None:
            raise already_exists(there.path)
    disks = [_disk(call, scope, name, disk) for disk in order["disks"]]
    instance = call.project.add("instances", scope, name, {**order, "status": "PROVISIONING"}, turn=0)
    for shown, disk in zip(disks, order["disks"], strict=True):
        source = call.project.get("disks", scope, words_of(shown["source"])[-1])
        source.body["users"] = [instance.link]
        source.hidden["auto_delete"] = bool(disk.get("autoDelete"))
    more = {"disks": disks, "cpuPlatform": "Unknown CPU Platform", "fingerprint": fingerprint(name, call.project.now)}
    instance.body |= more
    return instance


def begin(
    call: Call, instance: Resource, *, kind: str = "insert", group: str = "", error: OperationError | None = None
) -> Resource:
    """Start an instance's operation: it runs at the end, or there is an error (no machine, no address) and it is gone again."""
    project, zone = call.project, instance.scope.partition("/")[2]
    machine = words_of(instance.body["machineType"])[-1]
    turn = _turn(instance)
    is_new = kind == "insert"
    instance.body["status"] = "PROVISIONING"

    def undo() -> None:
        if instance.hidden["turn"] == turn:
            _gone(call.cloud, project, instance) if is_new else instance.body.update(status="TERMINATED")

    if error is None and call.cloud.is_sold_out(project.id, zone, machine):
        error = stockout(project, zone, machine)
    if error is None and is_new:
        error = _address(call.cloud, project, instance)
    if error is not None:
        failing = partial(_fail, error, undo)
        return operations.start(call, kind, instance, after=project.timings.stockout, finish=failing, group=group)

    def run() -> None:
        if instance.hidden["turn"] == turn:
            instance.body |= {
                "status": "RUNNING",
                "lastStartTimestamp": stamp(project.now),
                "cpuPlatform": "Intel Broadwell",
            }
            _publish(project, instance)
            call.cloud.power.boot(project, instance)

    _then(project, instance, project.timings.insert / 3, lambda: instance.body.update(status="STAGING"))
    return operations.start(call, kind, instance, after=project.timings.insert, finish=run, undo=undo, group=group)


def _fail(error: OperationError, undo: Callable[[], None]) -> None:
    undo()
    raise error


def stockout(project: Project, zone: str, machine: str) -> OperationError:
    """Return the error of an operation for which there is no machine."""
    message = (
        f"The zone 'projects/{project.id}/zones/{zone}' does not have enough resources available to fulfill the request.  "
        "'(resource type:compute)'."
    )
    places = {"zone": zone, "vmType": machine, "attachment": "", "zonesAvailable": ""}
    info = {"reason": "resource_availability", "domain": "compute.googleapis.com", "metadatas": places}
    text = f"A {machine} VM instance is currently unavailable in the {zone} zone."
    details: list[Json] = [{"localizedMessage": {"locale": "en-US", "message": text}}, {"errorInfo": info}]
    return OperationError("ZONE_RESOURCE_POOL_EXHAUSTED", message, http=503, details=details)


def stop(call: Call, instance: Resource) -> Resource:
    """Stop an instance: at the end of the operation it is terminated."""
    _turn(instance)
    if instance.body["status"] in IDLE:
        return operations.start(call, "stop", instance, after=timedelta())
    return stopping(call, instance, "stop")


def stopping(call: Call, instance: Resource, kind: str) -> Resource:
    """Start the operation that ends with the machine off."""
    turn = _turn(instance)
    instance.body["status"] = "STOPPING"

    def off() -> None:
        if instance.hidden["turn"] == turn:
            switch_off(call.cloud, call.project, instance)

    return operations.start(call, kind, instance, after=call.project.timings.stop, finish=off)


def switch_off(cloud: Cloud, project: Project, instance: Resource) -> None:
    """Let a machine be off now."""
    cloud.power.cut(instance)
    instance.body |= {"status": "TERMINATED", "lastStopTimestamp": stamp(project.now)}
    for interface in instance.body["networkInterfaces"]:
        for access in interface.get("accessConfigs", []):
            access.pop("natIP", None)


def start(call: Call, instance: Resource) -> Resource:
    """Start an instance that does not run."""
    if instance.body["status"] != "TERMINATED":
        return operations.start(call, "start", instance, after=timedelta())
    return begin(call, instance, kind="start")


def reset(call: Call, instance: Resource) -> Resource:
    """Let a machine start anew from its disk."""
    if instance.body["status"] == "RUNNING":
        call.cloud.power.cut(instance)
        call.cloud.power.boot(call.project, instance)
    return operations.start(call, "reset", instance, after=call.project.timings.change)


def delete(call: Call, instance: Resource) -> Resource:
    """Delete an instance: it is stopping until it is gone. Asked twice, there are two operations and one end."""
    _turn(instance)
    before = instance.body["status"]
    instance.body["status"] = "STOPPING"

    def undo() -> None:
        instance.body["status"] = before

    finish = partial(_gone, call.cloud, call.project, instance)
    return operations.start(call, "delete", instance, after=call.project.timings.delete, finish=finish, undo=undo)


def preempt(cloud: Cloud, project: Project, instance: Resource) -> None:
    """Take a machine back: announced, stopping for a while, then terminated, or gone when it was to be deleted.

    A system operation ``compute.instances.preempted`` tells it. Raises ValueError for an instance that is not spot.
    """
    if not instance.body["scheduling"]["preemptible"]:
        raise ValueError(f"{instance.name} is not a spot instance")
    turn = _turn(instance)
    instance.body["status"] = "STOPPING"
    instance.hidden["preempted"] = True
    event = operations.begin(project, "compute.instances.preempted", instance, user="system")
    event.body["statusMessage"] = "Instance was preempted."
    operations.end(project, event)

    def end() -> None:
        if instance.hidden["turn"] != turn:
            return
        if instance.body["scheduling"].get("instanceTerminationAction") == "DELETE":
            _gone(cloud, project, instance)
        else:
            switch_off(cloud, project, instance)

    project.later(project.timings.preemption, end)


def vanish(cloud: Cloud, project: Project, instance: Resource) -> None:
    """Let an instance be gone without a word, and whatever was being done to it be over."""
    _turn(instance)
    for operation in project.all("operations", instance.scope):
        if operation.body["targetId"] == instance.body["id"]:
            operations.end(project, operation)
    _gone(cloud, project, instance)


def double(cloud: Cloud, project: Project, instance: Resource) -> Resource:
    """Let a twin of an instance run in another zone of its region, as a request that was answered to nobody leaves one."""
    zone = instance.scope.partition("/")[2]
    other = next(found for found in ZONES[region_of(zone)] if found != zone)
    body = json.loads(json.dumps(instance.body).replace(f"zones/{zone}", f"zones/{other}"))
    for kind in ("id", "kind", "name", "creationTimestamp", "selfLink", "zone"):
        del body[kind]
    twin = project.add("instances", f"zones/{other}", instance.name, {**body, "status": "RUNNING"}, turn=0)
    for interface in twin.body["networkInterfaces"]:
        interface.pop("networkIP", None)
    _address(cloud, project, twin)
    for shown in twin.body["disks"]:
        disk = {"sizeGb": shown["diskSizeGb"], "status": "READY", "users": [twin.link], "labels": {}}
        project.add("disks", twin.scope, words_of(shown["source"])[-1], disk, auto_delete=shown["autoDelete"])
    return twin


def _turn(instance: Resource) -> int:
    turn = int(instance.hidden["turn"]) + 1
    instance.hidden["turn"] = turn
    return turn


def _then(project: Project, instance: Resource, after: timedelta, happen: Callable[[], None]) -> None:
    turn = instance.hidden["turn"]
    project.later(after, lambda: happen() if instance.hidden["turn"] == turn else None)


def _gone(cloud: Cloud, project: Project, instance: Resource) -> None:
    cloud.power.remove(instance)
    project.remove(instance)
    for disk in project.all("disks", instance.scope):
        if instance.link in disk.body.get("users", []):
            if disk.hidden.get("auto_delete"):
                project.remove(disk)
            else:
                del disk.body["users"]
    for pool in [*project.all("targetPools"), *project.all("instanceGroups")]:
        pool.hidden.get("instances", {}).pop(instance.link, None)


def _disk(call: Call, scope: str, name: str, wanted: Json) -> Json:
    """Return a disk as its instance shows it, made when it is not there yet."""
    params, at = wanted.get("initializeParams"), wanted["index"]
    shown: Json = {
        "kind": "compute#attachedDisk", "type": "PERSISTENT", "mode": "READ_WRITE", "interface": "SCSI", "index": at,
        "boot": bool(wanted.get("boot")), "autoDelete": bool(wanted.get("autoDelete")),
        "deviceName": wanted.get("deviceName", f"persistent-disk-{at}"),
    }  # fmt: skip
    if params is None:
        disk = call.project.get("disks", scope, words_of(wanted["source"])[-1])
        return {**shown, "source": disk.link, "diskSizeGb": disk.body["sizeGb"]}
    body: Json = {
        "sizeGb": params["diskSizeGb"], "status": "READY", "physicalBlockSizeBytes": "4096",
        "type": f"{LINK}projects/{call.project.id}/{scope}/diskTypes/{params['diskType']}",
        "labels": params.get("labels", {}), "labelFingerprint": fingerprint("labels", params.get("labels", {})),
    }  # fmt: skip
    if "sourceImage" in params:
        body["sourceImage"] = params["sourceImage"]
    disk = call.project.add("disks", scope, _title(name, wanted), body)
    return {**shown, "source": disk.link, "diskSizeGb": params["diskSizeGb"]}


def _title(name: str, disk: Json) -> str:
    """Return what a disk is called that is made with its instance."""
    at = disk["index"]
    return disk["initializeParams"].get("diskName") or (name if at == 0 else f"{name}-{at}")


def _address(cloud: Cloud, project: Project, instance: Resource) -> OperationError | None:
    """Give an instance its addresses; return the error when its subnetwork has none left."""
    for interface in instance.body["networkInterfaces"]:
        subnetwork = _subnetwork(cloud, interface)
        range_ = ipaddress.IPv4Network(subnetwork.body["ipCidrRange"]) if subnetwork else AUTOMATIC
        taken = _taken(cloud, interface)
        free = range_.num_addresses - RESERVED - len(taken)
        if free <= 0 or (subnetwork is not None and subnetwork.hidden.get("full")):
            where = subnetwork.path if subnetwork else interface["network"]
            message = f"Instance '{instance.name}' creation failed: IP space of '{where}' is exhausted."
            return OperationError("IP_SPACE_EXHAUSTED", message, http=400)
        wanted = interface.get("networkIP")
        interface["networkIP"] = cloud.power.address() or wanted or next(
            text for text in map(str, list_from(range_, 2)) if text not in taken
        )  # fmt: skip
        for access in interface.get("accessConfigs", []):
            access["kind"] = "compute#accessConfig"
            for field, value in (("name", "external-nat"), ("type", "ONE_TO_ONE_NAT"), ("networkTier", "PREMIUM")):
                access.setdefault(field, value)
    _publish(project, instance)
    return None


def _publish(project: Project, instance: Resource) -> None:
    """Give an instance the public addresses that it asks for and has not got."""
    for interface in instance.body["networkInterfaces"]:
        for access in interface.get("accessConfigs", []):
            access.setdefault("natIP", str(PUBLIC[int(project.new_id()) % (PUBLIC.num_addresses - 2) + 1]))


def list_from(range_: ipaddress.IPv4Network, first: int) -> "map[ipaddress.IPv4Address]":
    """Return the addresses of a range from its n-th on, lazily."""
    return map(range_.__getitem__, range(first, range_.num_addresses - 2))


def _subnetwork(cloud: Cloud, interface: Json) -> Resource | None:
    if "subnetwork" not in interface:
        return None
    words = words_of(interface["subnetwork"])
    project = cloud.project(words[1])
    return None if project is None else project.find("subnetworks", "/".join(words[2:4]), words[-1])


def _taken(cloud: Cloud, interface: Json) -> set[str]:
    """Return the addresses that are taken beside an interface: in its subnetwork, or its automatic network."""
    key = "subnetwork" if "subnetwork" in interface else "network"
    return {
        other["networkIP"]
        for project in cloud.projects.values()
        for instance in project.things.get("instances", {}).values()
        for other in instance.body["networkInterfaces"]
        if other.get(key) == interface[key] and "networkIP" in other
    }
