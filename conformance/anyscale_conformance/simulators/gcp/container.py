"""Google Kubernetes Engine: clusters and node pools as its API shows them. Nothing of Kubernetes runs behind them.

A cluster's endpoint and certificate can be set by hand (``ProjectHands.serve_cluster``), to name an API server that a test has.
"""

import base64
import re
from collections.abc import Callable

from anyscale_conformance.simulators.gcp.answers import zulu
from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.catalogue import ZONES, region_of
from anyscale_conformance.simulators.gcp.compute import common
from anyscale_conformance.simulators.gcp.errors import ApiError, info
from anyscale_conformance.simulators.gcp.schema import Json

CLUSTERS = "container.projects.locations.clusters"
OPERATIONS = "container.projects.locations.operations"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
VERSION = "1.34.1-gke.1829001"
CLUSTER_COUNT = 100
"""Clusters of a project, unless it asks for more."""


@handles(f"{CLUSTERS}.create")
def create(call: Call) -> Json:
    """Make a cluster: it is provisioning until its operation is done."""
    location = _location(call, call.params["parent"])
    wanted = call.body.get("cluster", {})
    name = _named(str(wanted.get("name", "")))
    key = f"{location}/{name}"
    if key in call.project.clusters:
        raise ApiError(
            409, "alreadyExists", f"Already exists: projects/{call.project.id}/locations/{location}/clusters/{name}."
        )
    if len(call.project.clusters) >= call.project.limits.get(("", "CLUSTERS"), CLUSTER_COUNT):
        details = [info("QUOTA_EXCEEDED", "container.googleapis.com")]
        raise ApiError(
            403, "quotaExceeded", "Quota limit 'Clusters' exceeded.", status="RESOURCE_EXHAUSTED", details=details
        )
    common.check_labels(wanted.get("resourceLabels", {}), "cluster.resource_labels")
    network = str(wanted.get("network", "default"))
    if network != "default":
        common.referred(
            call, network if "/" in network else f"global/networks/{network}", "networks", "cluster.network"
        )
    if not wanted.get("autopilot", {}).get("enabled") and not (
        wanted.get("nodePools") or wanted.get("initialNodeCount")
    ):
        raise ApiError(400, "badRequest", "Cluster.initial_node_count or node_pools must be given.")
    cluster: Json = {
        "network": network, **{key: value for key, value in wanted.items() if key != "initialNodeCount"}, "name": name,
        "location": location, "zone": location, "status": "PROVISIONING", "createTime": zulu(call.project.now),
        "selfLink": f"https://container.googleapis.com/v1/projects/{call.project.id}/locations/{location}/clusters/{name}",
        "currentMasterVersion": VERSION, "initialClusterVersion": VERSION, "etag": call.project.new_id(),
        "id": call.project.new_id(), "locations": list(ZONES.get(location, (location,)))[:3],
    }  # fmt: skip
    pools = wanted.get("nodePools") or [{"name": "default-pool", "initialNodeCount": wanted.get("initialNodeCount", 1)}]
    cluster["nodePools"] = [_pool(call, cluster, pool) for pool in pools]
    call.project.clusters[key] = cluster

    def done() -> None:
        number = int(call.project.new_id()) % 250 + 1
        cluster.setdefault("endpoint", f"203.0.113.{number}")
        certificate = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
        cluster.setdefault("masterAuth", {}).setdefault("clusterCaCertificate", certificate)
        cluster["status"] = "RUNNING"
        for pool in cluster["nodePools"]:
            pool["status"] = "RUNNING"

    return _operation(call, "CREATE_CLUSTER", location, cluster["selfLink"], done)


@handles(f"{CLUSTERS}.get")
def get(call: Call) -> Json:
    """Answer with a cluster."""
    return _cluster(call, call.params["name"])


@handles(f"{CLUSTERS}.list")
def list_clusters(call: Call) -> Json:
    """Answer with the clusters of a location, or of all (``-``)."""
    location = _location(call, call.params["parent"])
    found = [call.project.clusters[key] for key in sorted(call.project.clusters)]
    return {"clusters": [cluster for cluster in found if location in ("-", cluster["location"])]}


@handles(f"{CLUSTERS}.delete")
def delete(call: Call) -> Json:
    """Delete a cluster that nothing is being done to."""
    cluster = _cluster(call, call.params["name"])
    _must_be_idle(cluster)
    cluster["status"] = "STOPPING"
    key = f"{cluster['location']}/{cluster['name']}"
    return _operation(
        call, "DELETE_CLUSTER", cluster["location"], cluster["selfLink"], lambda: call.project.clusters.pop(key, None)
    )


@handles(f"{CLUSTERS}.setResourceLabels")
def set_labels(call: Call) -> Json:
    """Replace the labels; the fingerprint has to be the present one."""
    cluster = _cluster(call, call.params["name"])
    _must_be_idle(cluster)
    if call.body.get("labelFingerprint", "") != cluster.get("labelFingerprint", ""):
        raise ApiError(412, "conditionNotMet", "Labels could not be set due to fingerprint mismatch.")
    labels = call.body.get("resourceLabels", {})
    common.check_labels(labels, "resource_labels")
    cluster |= {"resourceLabels": labels, "labelFingerprint": call.project.new_id()[-8:]}
    return _operation(call, "UPDATE_CLUSTER", cluster["location"], cluster["selfLink"], lambda: None)


@handles(f"{CLUSTERS}.nodePools.create")
def create_pool(call: Call) -> Json:
    """Make a node pool."""
    cluster = _cluster(call, call.params["parent"])
    _must_be_idle(cluster)
    wanted = call.body.get("nodePool", {})
    name = _named(str(wanted.get("name", "")))
    if any(pool["name"] == name for pool in cluster["nodePools"]):
        raise ApiError(409, "alreadyExists", f"Already exists: node pool {name}.")
    pool = _pool(call, cluster, wanted)
    cluster["nodePools"].append(pool)
    return _changing(call, cluster, "CREATE_NODE_POOL", pool["selfLink"], lambda: pool.update(status="RUNNING"))


@handles(f"{CLUSTERS}.nodePools.get")
def get_pool(call: Call) -> Json:
    """Answer with a node pool."""
    return _pool_of(call)[1]


@handles(f"{CLUSTERS}.nodePools.list")
def list_pools(call: Call) -> Json:
    """Answer with the node pools of a cluster."""
    return {"nodePools": _cluster(call, call.params["parent"])["nodePools"]}


@handles(f"{CLUSTERS}.nodePools.setSize")
def set_size(call: Call) -> Json:
    """Change how many nodes a pool has in each zone."""
    cluster, pool = _pool_of(call)
    _must_be_idle(cluster)
    count = int(call.body.get("nodeCount", 0))
    return _changing(
        call,
        cluster,
        "SET_NODE_POOL_SIZE",
        pool["selfLink"],
        lambda: pool.update(initialNodeCount=count, status="RUNNING"),
    )


@handles(f"{CLUSTERS}.nodePools.delete")
def delete_pool(call: Call) -> Json:
    """Delete a node pool."""
    cluster, pool = _pool_of(call)
    _must_be_idle(cluster)
    pool["status"] = "STOPPING"
    return _changing(call, cluster, "DELETE_NODE_POOL", pool["selfLink"], lambda: cluster["nodePools"].remove(pool))


@handles(f"{OPERATIONS}.get")
def get_operation(call: Call) -> Json:
    """Answer with an operation as it stands."""
    found = call.project.longrunning.get(f"container/{call.params['name'].rpartition('/')[2]}")
    if found is None:
        raise ApiError(404, "notFound", f"Not found: {call.params['name']}.")
    return found


@handles(f"{OPERATIONS}.list")
def list_operations(call: Call) -> Json:
    """Answer with the operations of a location, or of all."""
    location = _location(call, call.params["parent"])
    found = [item for name, item in call.project.longrunning.items() if name.startswith("container/")]
    return {"operations": [item for item in found if location in ("-", item["location"])]}


@handles("container.projects.locations.getServerConfig")
def server_config(call: Call) -> Json:
    """Answer with the versions that there are, in every location the same."""
    _location(call, f"{call.params['name']}")
    return {"defaultClusterVersion": VERSION, "validMasterVersions": [VERSION], "validNodeVersions": [VERSION]}


def _operation(call: Call, kind: str, location: str, target: str, finish: Callable[[], object]) -> Json:
    name = f"operation-{int(call.project.now.timestamp() * 1000)}-{call.project.new_id()[-8:]}"
    body: Json = {
        "name": name, "operationType": kind, "status": "RUNNING", "startTime": zulu(call.project.now), "location": location,
        "zone": location, "targetLink": target,
        "selfLink": f"https://container.googleapis.com/v1/projects/{call.project.number}/locations/{location}/operations/{name}",
    }  # fmt: skip
    call.project.longrunning[f"container/{name}"] = body

    def done() -> None:
        finish()
        body.update(status="DONE", endTime=zulu(call.project.now))

    call.project.later(call.project.timings.cluster, done)
    return body


def _changing(call: Call, cluster: Json, kind: str, target: str, finish: Callable[[], object]) -> Json:
    """Start an operation during which nothing else can be done to the cluster."""
    cluster["status"] = "RECONCILING"

    def done() -> None:
        finish()
        cluster["status"] = "RUNNING"

    return _operation(call, kind, cluster["location"], target, done)


def _pool(call: Call, cluster: Json, wanted: Json) -> Json:
    name = _named(str(wanted.get("name", "")))
    return {
        "initialNodeCount": 1, **wanted, "name": name, "status": "PROVISIONING", "version": VERSION,
        "selfLink": f"{cluster['selfLink']}/nodePools/{name}", "etag": call.project.new_id(),
    }  # fmt: skip


def _pool_of(call: Call) -> tuple[Json, Json]:
    cluster = _cluster(call, call.params["name"])
    name = call.params["name"].rpartition("/")[2]
    pool = next((pool for pool in cluster["nodePools"] if pool["name"] == name), None)
    if pool is None:
        raise ApiError(404, "notFound", f"Not found: {call.params['name']}.")
    return cluster, pool


def _cluster(call: Call, name: str) -> Json:
    words = name.split("/")
    found = call.project.clusters.get(f"{words[3]}/{words[5]}")
    if found is None:
        raise ApiError(404, "notFound", f"Not found: {'/'.join(words[:6])}.")
    return found


def _must_be_idle(cluster: Json) -> None:
    if cluster["status"] != "RUNNING":
        message = f"Cluster is running incompatible operation; its status is {cluster['status']}."
        raise ApiError(400, "failedPrecondition", message, status="FAILED_PRECONDITION",
                       details=[info("CLUSTER_ALREADY_HAS_OPERATION", "container.googleapis.com")])  # fmt: skip


def _location(call: Call, parent: str) -> str:
    location = parent.split("/")[3]
    if location != "-" and location not in ZONES and region_of(location) not in ZONES:
        raise ApiError(400, "badRequest", f'Location "{location}" does not exist.')
    if location == "-" and call.method.http != "GET":
        raise ApiError(400, "badRequest", "A location is required.")
    return location


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ApiError(400, "badRequest", f'Invalid name "{name}": it must match {NAME.pattern}.')
    return name
