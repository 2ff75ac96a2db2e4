"""Microsoft.ContainerService: AKS clusters and their pools, as ARM sees them. No API server runs behind one.

``hands.serve_cluster`` gives a cluster the kubeconfig of one that does run, and its issuer the keys that sign its tokens.
"""

import base64
import json
import uuid
from datetime import timedelta

from anyscale_conformance.simulators.azure import shapes
from anyscale_conformance.simulators.azure.catalogue import BY_NAME
from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, shown
from anyscale_conformance.simulators.azure.lifecycle import headers_of
from anyscale_conformance.simulators.azure.registry import KINDS, register
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

CLUSTERS = "Microsoft.ContainerService/managedClusters"
POOLS = f"{CLUSTERS}/agentPools"
VERSION = "1.34.1"


def user_credential(at: Subscription, cluster: Resource, request: Request) -> Reply:
    """Answer with a kubeconfig."""
    return _credential(cluster, "clusterUser")


def admin_credential(at: Subscription, cluster: Resource, request: Request) -> Reply:
    """Answer with an administrator's kubeconfig, unless the cluster has no local accounts."""
    if cluster.properties.get("disableLocalAccounts"):
        raise invalid("Getting static credential is not allowed because this cluster is set to disable local accounts.",
                      code="BadRequest")  # fmt: skip
    return _credential(cluster, "clusterAdmin")


def delete_machines(at: Subscription, pool: Resource, request: Request) -> Reply:
    """Delete some of a pool's machines."""
    wanted = shapes.checked("containers.AgentPoolDeleteMachinesParameter", request.body or {})["machineNames"]
    there = _machine_names(pool)
    if missing := [name for name in wanted if name not in there]:
        raise ArmError(404, "NotFound", f"Machine {missing[0]} is not in agent pool {pool.name}.")
    pool.hidden["gone"] = [*pool.hidden.get("gone", ()), *wanted]
    pool.properties["count"] = len(there) - len(wanted)
    operation = at.begin(pool, timedelta(seconds=60))
    at.on(operation.ends, lambda: at.end(operation))
    return Reply(status=202, headers=headers_of(at, request, operation.id, Flow.BOTH))


def machines(at: Subscription, pool: Resource, request: Request) -> Body:
    """Answer with a pool's machines."""
    return {"value": [{"id": f"{pool.id}/machines/{name}", "name": name, "type": f"{POOLS}/machines"}
                      for name in _machine_names(pool)]}  # fmt: skip


@register
class ManagedCluster(Kind):
    """An AKS cluster."""

    type = CLUSTERS
    shape = "containers.ManagedCluster"
    patch = "containers.TagsObject"
    takes = timedelta(minutes=4)
    goes = timedelta(minutes=3)
    name_pattern = r"[A-Za-z0-9]([A-Za-z0-9_\-]{0,61}[A-Za-z0-9])?"
    actions = {  # noqa: RUF012 - a table
        "listclusterusercredential": user_credential, "listclusteradmincredential": admin_credential,
    }  # fmt: skip

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        properties: Body = body.setdefault("properties", {})
        if old is not None:
            return
        pools = properties.get("agentPoolProfiles") or []
        if not any(pool.get("mode") == "System" for pool in pools):
            raise invalid("Must define at least one system pool.", target="agentPoolProfiles")
        if not properties.get("dnsPrefix") and not properties.get("fqdnSubdomain"):
            raise invalid("Required parameter dnsPrefix is missing (null).", target="dnsPrefix")
        if not body.get("identity") and not properties.get("servicePrincipalProfile"):
            raise invalid("The cluster needs an identity or a service principal.", target="identity")
        for pool in pools:
            if not pool.get("name"):
                raise invalid(
                    "Required parameter agentPoolProfile.name is missing (null).", target="agentPoolProfile.name"
                )
            _check_pool(at, pool["name"], pool)

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        properties, before = resource.properties, (old or {}).get("properties") or {}
        for name, value in before.items():
            properties.setdefault(name, value)
        resource.hidden.setdefault("id", uuid.uuid4().hex)
        properties.setdefault(
            "fqdn", f"{properties.get('dnsPrefix')}-{resource.hidden['id'][:8]}.hcp.{resource.location}.azmk8s.io"
        )
        properties.setdefault("kubernetesVersion", VERSION)
        properties.setdefault("currentKubernetesVersion", properties["kubernetesVersion"])
        properties.setdefault("nodeResourceGroup", f"MC_{resource.target.group}_{resource.name}_{resource.location}")
        properties["powerState"] = {"code": "Running"}
        if (properties.get("oidcIssuerProfile") or {}).get("enabled"):
            url = (
                f"https://{resource.location}.oic.prod-aks.azure.com/{at.tenant_id}/{uuid.UUID(resource.hidden['id'])}/"
            )
            properties["oidcIssuerProfile"]["issuerURL"] = url
        profiles = properties.pop("agentPoolProfiles", None)
        for profile in profiles or ():
            inner = {name: value for name, value in profile.items() if name != "name"}
            pool = at.find(f"{resource.id}/agentPools/{profile['name']}")
            if pool is None:
                pool = at.make(f"{resource.id}/agentPools/{profile['name']}", POOLS, {"properties": inner})
                KINDS[POOLS.lower()].put(at, pool, None)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = shown(resource)
        body["eTag"] = body.pop("etag")
        body["properties"]["agentPoolProfiles"] = [
            {"name": pool.name, **shown(pool)["properties"]} for pool in at.all(POOLS, below=f"{resource.id}/")
        ]
        return body


@register
class AgentPool(Kind):
    """A pool of a cluster's nodes."""

    type = POOLS
    shape = "containers.AgentPool"
    takes = timedelta(minutes=2)
    goes = timedelta(minutes=1)
    has_location = False
    name_pattern = r"[a-z][a-z0-9]{0,11}"
    actions = {"deletemachines": delete_machines}  # noqa: RUF012 - a table
    views = {"machines": machines}  # noqa: RUF012 - a table

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        cluster = at.find(request.target.path.rsplit("/", 2)[0])
        if cluster is not None and cluster.state not in ("Succeeded", "Failed"):
            raise ArmError(
                409, "OperationNotAllowed",
                f"Operation is not allowed: Another operation (Creating) is in progress on the managed cluster {cluster.name}.",
            )  # fmt: skip
        _check_pool(at, request.target.name, body.get("properties") or {})

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        for name, value in (((old or {}).get("properties")) or {}).items():
            resource.properties.setdefault(name, value)
        for name, value in {"count": 1, "mode": "User", "osType": "Linux", "type": "VirtualMachineScaleSets"}.items():
            resource.properties.setdefault(name, value)
        resource.properties["powerState"] = {"code": "Running"}

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        cluster = f"{resource.id.rsplit('/', 2)[0]}/"
        systems = [pool for pool in at.all(POOLS, below=cluster) if pool.properties["mode"] == "System"]
        if systems == [resource]:
            raise invalid("There has to be at least one system agent pool.", code="OperationNotAllowed")


def _check_pool(at: Subscription, name: str, pool: Body) -> None:
    count, size = pool.get("count", 1), str(pool.get("vmSize", ""))
    if not 0 <= count <= 1000 or (pool.get("mode") == "System" and count < 1):
        raise invalid(f"The count of agent pool {name} has to be from 1 to 1000.", target="count")
    if size and size.lower() not in BY_NAME:
        raise invalid(f"The VM size of {size} is not allowed in your subscription in this location.", code="BadRequest")
    if pool.get("scaleSetPriority") == "Spot" and pool.get("mode") == "System":
        raise invalid("A system pool cannot be of Spot machines.", target="scaleSetPriority")


def _machine_names(pool: Resource) -> list[str]:
    gone = set(pool.hidden.get("gone", ()))
    wanted = int(pool.properties["count"])
    names = (f"aks-{pool.name}-{number:08d}-vmss000000" for number in range(wanted + len(gone)))
    return [name for name in names if name not in gone][:wanted]


def _credential(cluster: Resource, user: str) -> Reply:
    served = cluster.hidden.get("kubeconfig")
    text = served or json.dumps(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": cluster.name, "users": [{"name": user, "user": {}}],
            "clusters": [{"name": cluster.name, "cluster": {"server": f"https://{cluster.properties['fqdn']}:443"}}],
            "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": user}}],
        }
    )  # fmt: skip
    return Reply(status=200, body={"kubeconfigs": [{"name": user, "value": base64.b64encode(text.encode()).decode()}]})
