"""What is for sale and what a project may have: zones, regions, machine types, accelerators, images, quotas."""

from datetime import datetime

from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.catalogue import (
    ACCELERATORS,
    GPU_ZONES,
    MACHINES,
    ZONES,
    Machine,
    sold_in,
)
from anyscale_conformance.simulators.gcp.compute import common, usage
from anyscale_conformance.simulators.gcp.errors import not_found, singular
from anyscale_conformance.simulators.gcp.lists import aggregated, listed
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import LINK, PACIFIC, Project, Resource, fingerprint, stamp

SINCE = datetime(2020, 1, 1, tzinfo=PACIFIC)
GOODS = ("acceleratorTypes", "machineTypes", "regions", "zones")


@handles("compute.zones.get", "compute.regions.get", "compute.machineTypes.get", "compute.acceleratorTypes.get")
def get(call: Call) -> Json:
    """Answer with one of the goods."""
    _stock(call.project)
    collection = call.method.id.split(".")[1]
    parameter = singular(collection)
    scope = "global" if collection in ("zones", "regions") else common.scope_of(call)
    thing = call.project.things[collection].get(f"{scope}/{call.params[parameter]}")
    if thing is None:
        path = f"projects/{call.project.id}/{collection}/{call.params[parameter]}"
        raise not_found(path if scope == "global" else path.replace(collection, f"{scope}/{collection}"))
    return _seen(call.project, thing)


@handles("compute.zones.list", "compute.regions.list", "compute.machineTypes.list", "compute.acceleratorTypes.list")
def list_goods(call: Call) -> Json:
    """Answer with the goods of a kind."""
    _stock(call.project)
    collection = call.method.id.split(".")[1]
    scope = "global" if collection in ("zones", "regions") else common.scope_of(call)
    kind = f"compute#{singular(collection)}List"
    return listed(call, collection, scope, kind=kind, view=lambda thing: _seen(call.project, thing))


@handles("compute.machineTypes.aggregatedList", "compute.acceleratorTypes.aggregatedList")
def aggregate_goods(call: Call) -> Json:
    """Answer with the goods of a kind, by zone."""
    _stock(call.project)
    collection = call.method.id.split(".")[1]
    return aggregated(call, collection, kind=f"compute#{singular(collection)}AggregatedList")


@handles("compute.projects.get")
def get_project(call: Call) -> Json:
    """Answer with the project, its quotas and its default service account."""
    metadata = {"kind": "compute#metadata", "fingerprint": fingerprint("metadata"), "items": []}
    return {
        "kind": "compute#project", "id": str(call.project.number), "name": call.project.id,
        "creationTimestamp": stamp(SINCE), "selfLink": f"{LINK}projects/{call.project.id}",
        "commonInstanceMetadata": metadata, "defaultNetworkTier": "PREMIUM",
        "defaultServiceAccount": f"{call.project.number}-compute@developer.gserviceaccount.com",
        "quotas": usage.quotas(call.project, ""), "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
    }  # fmt: skip


@handles("compute.projects.getXpnHost")
def get_host(call: Call) -> Json:
    """Answer with the host project of the shared VPC; with nothing when there is none."""
    host = call.cloud.project(call.project.xpn_host)
    return (
        {"kind": "compute#project"}
        if host is None
        else {"kind": "compute#project", "name": host.id, "id": str(host.number)}
    )


def _seen(project: Project, thing: Resource) -> Json:
    return thing.body | {"quotas": usage.quotas(project, thing.name)} if thing.collection == "regions" else thing.body


def _stock(project: Project) -> None:
    """Put the goods on a project's shelves, once."""
    if "zones" in project.things:
        return
    project.things |= {collection: {} for collection in GOODS}
    for region, zones in ZONES.items():
        links = [f"{LINK}projects/{project.id}/zones/{zone}" for zone in zones]
        _add(project, "regions", "global", region, {"status": "UP", "zones": links, "description": region})
        for zone in zones:
            link = f"{LINK}projects/{project.id}/regions/{region}"
            _add(project, "zones", "global", zone, {"status": "UP", "region": link, "description": zone})
            for machine in MACHINES.values():
                if sold_in(machine, zone):
                    _add(project, "machineTypes", f"zones/{zone}", machine.name, machine_body(machine))
            if zone in GPU_ZONES:
                for name, (cards, description) in ACCELERATORS.items():
                    body = {"description": description, "maximumCardsPerInstance": cards}
                    _add(project, "acceleratorTypes", f"zones/{zone}", name, body)


def _add(project: Project, collection: str, scope: str, name: str, body: Json) -> None:
    link = f"{LINK}projects/{project.id}/{'' if scope == 'global' else f'{scope}/'}{collection}/{name}"
    more = {"kind": f"compute#{singular(collection)}", "name": name, "id": project.new_id(), "selfLink": link}
    where = {"zone": scope.partition("/")[2]} if collection == "machineTypes" else {}
    if collection == "acceleratorTypes":
        where = {"zone": f"{LINK}projects/{project.id}/{scope}"}
    thing = Resource(
        project=project.id, scope=scope, collection=collection, name=name, created_at=SINCE,
        body={**body, **more, **where, "creationTimestamp": stamp(SINCE)},
    )  # fmt: skip
    project.things[collection][thing.key] = thing


def machine_body(machine: Machine) -> Json:
    """Return a machine type as the API shows it."""
    body: Json = {
        "guestCpus": machine.cpus, "memoryMb": machine.memory_mb, "isSharedCpu": machine.shared,
        "architecture": machine.architecture, "maximumPersistentDisks": 128, "maximumPersistentDisksSizeGb": "263168",
        "imageSpaceGb": 0, "description": f"{machine.cpus} vCPU, {machine.memory_mb / 1024:g} GB RAM",
    }  # fmt: skip
    if machine.built_in is not None:
        name, count = machine.built_in
        body["accelerators"] = [{"guestAcceleratorType": name, "guestAcceleratorCount": count}]
    return body
