"""Addresses and passthrough load balancers: health checks, instance groups, target pools, backend services, forwarding rules."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from anyscale_conformance.simulators.gcp.calls import Call, handles, merged
from anyscale_conformance.simulators.gcp.compute import common
from anyscale_conformance.simulators.gcp.errors import ApiError, in_use, invalid
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project, Resource, fingerprint, must_be_current, path_of, words_of

PUBLIC = ipaddress.IPv4Network("198.51.100.0/24")
"""TEST-NET-2: public addresses that are reserved, or those of forwarding rules."""
CHECKS = {
    "TCP": "tcpHealthCheck", "SSL": "sslHealthCheck", "HTTP": "httpHealthCheck", "HTTPS": "httpsHealthCheck",
    "HTTP2": "http2HealthCheck", "GRPC": "grpcHealthCheck",
}  # fmt: skip
PASSTHROUGH = frozenset({"INTERNAL", "EXTERNAL"})


@handles("compute.addresses.insert")
def insert_address(call: Call) -> Json:
    """Reserve an address, public or of a subnetwork."""
    scope, name = common.scope_of(call), common.name_of(call.body)
    region = scope.partition("/")[2]
    common.must_be_free(call.project, "addresses", scope, name)
    common.check_labels(call.body.get("labels", {}))
    body = {"addressType": "EXTERNAL", "networkTier": "PREMIUM", "status": "RESERVED", **call.body}
    if body["addressType"] == "EXTERNAL":
        used = len([found for found in call.project.all("addresses", scope) if found.body["addressType"] == "EXTERNAL"])
        common.check_quota(call.project, "STATIC_ADDRESSES", used=used, region=region)
        body.setdefault("address", _public(call.project))
    else:
        subnetwork = common.referred(
            call, str(body.get("subnetwork", "")), "subnetworks", "resource.subnetwork", scope=scope
        )
        del body["networkTier"]
        body |= {"subnetwork": subnetwork.link, "purpose": body.get("purpose", "GCE_ENDPOINT")}
        body.setdefault("address", _free(call.project, subnetwork))
    body["labelFingerprint"] = fingerprint("labels", body.get("labels", {}))
    return common.making(call, call.project.add("addresses", scope, name, body), after=call.project.timings.network)


@handles("compute.addresses.setLabels", "compute.forwardingRules.setLabels")
def set_labels(call: Call) -> Json:
    """Replace the labels; the fingerprint has to be the present one."""
    collection = call.method.id.split(".")[1]
    thing = call.project.get(collection, common.scope_of(call), call.params["resource"])
    must_be_current(call.body.get("labelFingerprint"), thing.body["labelFingerprint"], "labels fingerprint")
    labels = call.body.get("labels", {})
    common.check_labels(labels)
    thing.body |= {"labels": labels, "labelFingerprint": fingerprint("labels", labels)}
    return common.making(call, thing, after=call.project.timings.change, kind="setLabels")


@handles("compute.healthChecks.insert", "compute.regionHealthChecks.insert")
def insert_check(call: Call) -> Json:
    """Make a health check: of one type, with that type's settings."""
    scope, name = common.scope_of(call), common.name_of(call.body)
    common.must_be_free(call.project, "healthChecks", scope, name)
    common.check_quota(call.project, "HEALTH_CHECKS", used=len(call.project.all("healthChecks")))
    kind, given = str(call.body.get("type", "")), [field for field in CHECKS.values() if field in call.body]
    if kind not in CHECKS:
        raise invalid("resource.type", kind, "Must be given.")
    if given not in ([], [CHECKS[kind]]):
        raise invalid(f"resource.{given[0]}", "", f"It does not belong to a health check of type {kind}.")
    defaults = {"checkIntervalSec": 5, "timeoutSec": 5, "healthyThreshold": 2, "unhealthyThreshold": 2}
    body = {**defaults, CHECKS[kind]: {"port": 80}, **call.body}
    if body["timeoutSec"] > body["checkIntervalSec"]:
        raise invalid("resource.timeoutSec", body["timeoutSec"], "It must not be above checkIntervalSec.")
    return common.making(call, call.project.add("healthChecks", scope, name, body), after=call.project.timings.network)


@handles("compute.healthChecks.patch", "compute.regionHealthChecks.patch")
def patch_check(call: Call) -> Json:
    """Change a health check."""
    thing = call.project.get("healthChecks", common.scope_of(call), call.params["healthCheck"])
    common.must_be_ready(thing)
    thing.body = merged(thing.body, call.body)
    return common.making(call, thing, after=call.project.timings.change, kind="patch")


@handles("compute.instanceGroups.insert", "compute.targetPools.insert")
def insert_group(call: Call) -> Json:
    """Make a group of instances, empty: of a zone, or the pool of a region."""
    collection = call.method.id.split(".")[1]
    scope, name = common.scope_of(call), common.name_of(call.body)
    common.must_be_free(call.project, collection, scope, name)
    body = dict(call.body)
    if collection == "instanceGroups":
        body |= {"size": 0, "fingerprint": fingerprint(name)}
        if "network" in body:
            body["network"] = common.referred(call, str(body["network"]), "networks", "resource.network").link
    instances = [_instance(call, link).link for link in body.pop("instances", [])]
    thing = call.project.add(collection, scope, name, body, instances=dict.fromkeys(instances, call.project.now))
    _show_members(thing)
    return common.making(call, thing, after=call.project.timings.network)


@handles(
    "compute.instanceGroups.addInstances", "compute.instanceGroups.removeInstances", "compute.targetPools.addInstance",
    "compute.targetPools.removeInstance",
)  # fmt: skip
def change_members(call: Call) -> Json:
    """Put instances into a group, or take them out."""
    collection, verb = call.method.id.split(".")[1:]
    parameter = "instanceGroup" if collection == "instanceGroups" else "targetPool"
    thing = call.project.get(collection, common.scope_of(call), call.params[parameter])
    common.must_be_ready(thing)
    members = thing.hidden["instances"]
    for item in call.body.get("instances", []):
        link = _instance(call, str(item.get("instance", ""))).link
        if verb.startswith("add"):
            if link in members and collection == "instanceGroups":
                raise ApiError(400, "memberAlreadyExists", f"Instance '{link}' is already a member of '{thing.path}'.")
            members.setdefault(link, call.project.now)
        elif members.pop(link, None) is None and collection == "instanceGroups":
            raise ApiError(400, "memberNotFound", f"Instance '{link}' is not a member of '{thing.path}'.")
    _show_members(thing)
    return common.making(call, thing, after=call.project.timings.change, kind=verb)


@handles("compute.instanceGroups.listInstances")
def list_members(call: Call) -> Json:
    """Answer with the instances of a group."""
    thing = call.project.get("instanceGroups", common.scope_of(call), call.params["instanceGroup"])
    wanted = call.body.get("instanceState", "ALL")
    items = [
        {"instance": link, "status": instance.body["status"]}
        for link in thing.hidden["instances"]
        if (instance := _there(call, link)) is not None and (wanted == "ALL" or instance.body["status"] == wanted)
    ]
    answer: Json = {
        "kind": "compute#instanceGroupsListInstances",
        "id": thing.path,
        "selfLink": f"{thing.link}/listInstances",
    }
    return answer | ({"items": items} if items else {})


@handles("compute.backendServices.insert", "compute.regionBackendServices.insert")
def insert_service(call: Call) -> Json:
    """Make a backend service: groups of instances, and the health check that says which of them answer."""
    scope, name = common.scope_of(call), common.name_of(call.body)
    common.must_be_free(call.project, "backendServices", scope, name)
    common.check_quota(call.project, "BACKEND_SERVICES", used=len(call.project.all("backendServices")))
    defaults = {"loadBalancingScheme": "EXTERNAL", "protocol": "TCP", "timeoutSec": 30, "sessionAffinity": "NONE"}
    body = _service(call, {**defaults, **call.body}, scope)
    service = call.project.add("backendServices", scope, name, body, since=call.project.now)
    service.body["fingerprint"] = fingerprint(service.body)
    return common.making(call, service, after=call.project.timings.network)


@handles("compute.backendServices.patch", "compute.regionBackendServices.patch")
def patch_service(call: Call) -> Json:
    """Change a backend service; a fingerprint has to be the present one."""
    service = call.project.get("backendServices", common.scope_of(call), call.params["backendService"])
    common.must_be_ready(service)
    if "fingerprint" in call.body:
        must_be_current(call.body["fingerprint"], service.body["fingerprint"])
    service.body = _service(call, merged(service.body, call.body), service.scope)
    service.body["fingerprint"] = fingerprint(service.body, call.project.new_id())
    service.hidden["since"] = call.project.now
    return common.making(call, service, after=call.project.timings.change, kind="patch")


@handles("compute.backendServices.getHealth", "compute.regionBackendServices.getHealth")
def service_health(call: Call) -> Json:
    """Answer with which instances of a backend's group are healthy: those that run, a while after they were put there."""
    service = call.project.get("backendServices", common.scope_of(call), call.params["backendService"])
    group = common.referred(call, str(call.body.get("group", "")), "instanceGroups", "resource.group")
    if group.link not in [backend["group"] for backend in service.body.get("backends", [])]:
        raise invalid("resource.group", group.link, "The group is not one of the backend service's.")
    states = list(_health(call, group, since=service.hidden["since"]))
    return {"kind": "compute#backendServiceGroupHealth"} | ({"healthStatus": states} if states else {})


@handles("compute.targetPools.getHealth")
def pool_health(call: Call) -> Json:
    """Answer with whether an instance of a target pool is healthy."""
    pool = call.project.get("targetPools", common.scope_of(call), call.params["targetPool"])
    link = _instance(call, str(call.body.get("instance", ""))).link
    states = [state for state in _health(call, pool, since=pool.created_at) if state["instance"] == link]
    return {"kind": "compute#targetPoolInstanceHealth"} | ({"healthStatus": states} if states else {})


@handles("compute.forwardingRules.insert")
def insert_rule(call: Call) -> Json:
    """Make a forwarding rule: an address and ports, to a backend service or a target pool of its region."""
    scope, name = common.scope_of(call), common.name_of(call.body)
    common.must_be_free(call.project, "forwardingRules", scope, name)
    common.check_quota(call.project, "FORWARDING_RULES", used=len(call.project.all("forwardingRules")))
    common.check_labels(call.body.get("labels", {}))
    body = {"loadBalancingScheme": "EXTERNAL", "IPProtocol": "TCP", **call.body}
    if body["loadBalancingScheme"] not in PASSTHROUGH:
        raise ApiError(501, "notImplemented", f"this simulator has no load balancers {body['loadBalancingScheme']}")
    target = "backendService" if "backendService" in body else "target"
    collection = "backendServices" if target == "backendService" else "targetPools"
    body[target] = common.referred(call, str(body.get(target, "")), collection, f"resource.{target}", scope=scope).link
    if not body.get("allPorts") and not body.get("ports") and not body.get("portRange"):
        raise invalid("resource.ports", "", "One of ports, portRange and allPorts must be given.")
    if len(body.get("ports", [])) > 5:
        raise invalid("resource.ports", "", "At most five ports can be given.")
    reserved = _reserved(call, str(body.get("IPAddress", "")), scope)
    if reserved is not None and reserved.body.get("users"):
        raise in_use(reserved.path, path_of(reserved.body["users"][0]))
    body["IPAddress"] = reserved.body["address"] if reserved else body.get("IPAddress") or _public(call.project)
    body["labelFingerprint"] = fingerprint("labels", body.get("labels", {}))
    rule = call.project.add("forwardingRules", scope, name, body)
    if reserved is not None:
        reserved.body |= {"users": [rule.link], "status": "IN_USE"}
    return common.making(call, rule, after=call.project.timings.network)


@handles("compute.forwardingRules.delete")
def delete_rule(call: Call) -> Json:
    """Delete a forwarding rule; its address is free again."""
    rule = call.project.get("forwardingRules", common.scope_of(call), call.params["forwardingRule"])
    body = common.deleting(call, rule, after=call.project.timings.network)
    for address in call.project.all("addresses"):
        if address.body.get("users") == [rule.link]:
            del address.body["users"]
            address.body["status"] = "RESERVED"
    return body


def _service(call: Call, body: Mapping[str, Any], scope: str) -> Json:
    checks = [
        common.referred(call, str(check), "healthChecks", "resource.healthChecks[0]", scope=scope).link
        for check in body.get("healthChecks", [])
    ]
    backends = [
        {
            "balancingMode": "CONNECTION", **backend,
            "group": common.referred(call, str(backend.get("group", "")), "instanceGroups", "resource.backends[0].group").link,
        }
        for backend in body.get("backends", [])
    ]  # fmt: skip
    if not checks:
        raise invalid("resource.healthChecks", "", "A backend service of this scheme needs a health check.")
    return {**body, "healthChecks": checks} | ({"backends": backends} if backends else {})


def _health(call: Call, group: Resource, *, since: Any) -> Iterator[Json]:
    for link, joined in group.hidden["instances"].items():
        instance = _there(call, link)
        if instance is None:
            continue
        settled = call.project.now - max(joined, since) >= call.project.timings.healthy
        healthy = settled and instance.body["status"] == "RUNNING" and not instance.hidden.get("unhealthy")
        yield {
            "instance": link, "ipAddress": instance.body["networkInterfaces"][0].get("networkIP", ""),
            "healthState": "HEALTHY" if healthy else "UNHEALTHY",
        }  # fmt: skip


def _instance(call: Call, link: str) -> Resource:
    words = words_of(link)
    found = _there(call, link) if len(words) >= 4 else None
    if found is None:
        raise invalid("resource.instances[0]", link, "The referenced instance resource cannot be found.")
    return found


def _there(call: Call, link: str) -> Resource | None:
    words = words_of(link)
    return call.project.find("instances", "/".join(words[-4:-2]), words[-1])


def _show_members(thing: Resource) -> None:
    if thing.collection == "targetPools":
        thing.body["instances"] = list(thing.hidden["instances"])
    else:
        thing.body["size"] = len(thing.hidden["instances"])


def _reserved(call: Call, reference: str, scope: str) -> Resource | None:
    if "/" in reference:
        return common.referred(call, reference, "addresses", "resource.IPAddress", scope=scope)
    found = [address for address in call.project.all("addresses", scope) if address.body["address"] == reference]
    return found[0] if found else None


def _public(project: Project) -> str:
    taken = {found.body["address"] for found in project.all("addresses")}
    taken |= {found.body["IPAddress"] for found in project.all("forwardingRules")}
    free = next((str(address) for address in PUBLIC.hosts() if str(address) not in taken), "")
    if not free:
        raise common.quota_exceeded("STATIC_ADDRESSES", PUBLIC.num_addresses - 2, "")
    return free


def _free(project: Project, subnetwork: Resource) -> str:
    range_ = ipaddress.IPv4Network(subnetwork.body["ipCidrRange"])
    taken = {found.body["address"] for found in project.all("addresses")}
    taken |= {
        interface.get("networkIP", "")
        for instance in project.all("instances")
        for interface in instance.body["networkInterfaces"]
    }
    return next(str(range_[at]) for at in range(2, range_.num_addresses - 2) if str(range_[at]) not in taken)


def _users(field: str, *collections: str) -> common.Users:
    """Return what finds the things whose field names another."""

    def users(project: Project, thing: Resource) -> Iterator[str]:
        for collection in collections:
            for found in project.all(collection):
                value = found.body.get(field, [])
                items = value if isinstance(value, list) else [value]
                links = [item.get("group") if isinstance(item, dict) else item for item in items]
                if thing.link in links:
                    yield found.path

    return users


for _api in ("healthChecks", "regionHealthChecks"):
    common.plain(
        "healthChecks", "healthCheck", prefix=_api,
        users=_users("healthChecks", "backendServices", "targetPools"),
        aggregates="compute#healthChecksAggregatedList" if _api == "healthChecks" else "",
    )  # fmt: skip
for _api in ("backendServices", "regionBackendServices"):
    common.plain(
        "backendServices", "backendService", prefix=_api,
        users=_users("backendService", "forwardingRules"),
        aggregates="compute#backendServiceAggregatedList" if _api == "backendServices" else "",
    )  # fmt: skip
common.plain(
    "addresses", "address",
    users=lambda _, thing: map(path_of, thing.body.get("users", ())), aggregates="compute#addressAggregatedList",
)  # fmt: skip
common.plain(
    "instanceGroups", "instanceGroup",
    users=_users("backends", "backendServices"), aggregates="compute#instanceGroupAggregatedList",
)  # fmt: skip
common.plain(
    "targetPools", "targetPool",
    users=_users("target", "forwardingRules"), aggregates="compute#targetPoolAggregatedList",
)  # fmt: skip
common.plain(
    "forwardingRules", "forwardingRule",
    aggregates="compute#forwardingRuleAggregatedList",
)  # fmt: skip
common.plain(
    "disks", "disk", after=lambda call: call.project.timings.change,
    users=lambda _, thing: map(path_of, thing.body.get("users", ())), aggregates="compute#diskAggregatedList",
)  # fmt: skip
