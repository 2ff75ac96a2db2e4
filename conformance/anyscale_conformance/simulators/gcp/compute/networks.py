"""VPC networks, their subnetworks, routes and routers."""

import ipaddress
from collections.abc import Iterator

from anyscale_conformance.simulators.gcp.calls import Call, handles, merged
from anyscale_conformance.simulators.gcp.compute import common
from anyscale_conformance.simulators.gcp.errors import ApiError, invalid
from anyscale_conformance.simulators.gcp.lists import listed
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project, Resource, fingerprint, must_be_current

RESERVED = 4
"""Addresses of a range that no machine gets: network, gateway, the second to last, broadcast."""
ROUTABLE = [ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]


@handles("compute.networks.insert")
def insert_network(call: Call) -> Json:
    """Make a network; with automatic subnetworks unless asked otherwise, and its route to the internet."""
    name = common.name_of(call.body)
    common.must_be_free(call.project, "networks", "global", name)
    common.check_quota(call.project, "NETWORKS", used=len(call.project.all("networks")))
    body = {"autoCreateSubnetworks": True, "mtu": 1460, "routingConfig": {"routingMode": "REGIONAL"}, **call.body}
    network = call.project.add("networks", "global", name, body)
    network.body["selfLinkWithId"] = network.link.replace(f"/{name}", f"/{network.body['id']}")
    route = {
        "network": network.link, "destRange": "0.0.0.0/0", "priority": 1000, "description": "Default route to the Internet.",
        "nextHopGateway": f"{network.link.rpartition('/networks/')[0]}/gateways/default-internet-gateway",
    }  # fmt: skip
    call.project.add("routes", "global", f"default-route-{network.body['id']}", route)
    return common.making(call, network, after=call.project.timings.network)


@handles("compute.networks.patch")
def patch_network(call: Call) -> Json:
    """Change a network."""
    network = call.project.get("networks", "global", call.params["network"])
    common.must_be_ready(network)
    network.body = merged(network.body, call.body)
    return common.making(call, network, after=call.project.timings.change, kind="patch")


@handles("compute.networks.get")
def get_network(call: Call) -> Json:
    """Answer with a network."""
    network = call.project.get("networks", "global", call.params["network"])
    _with_subnetworks(call.project, network)
    return network.body


@handles("compute.networks.list")
def list_networks(call: Call) -> Json:
    """Answer with all networks."""
    for network in call.project.all("networks"):
        _with_subnetworks(call.project, network)
    return listed(call, "networks", "global", kind="compute#networkList")


@handles("compute.networks.delete")
def delete_network(call: Call) -> Json:
    """Delete a network that nothing needs; its own route to the internet goes with it."""
    network = call.project.get("networks", "global", call.params["network"])
    body = common.deleting(
        call, network, after=call.project.timings.network, users=_users_of_network(call.project, network)
    )
    for route in _routes(call.project, network):
        call.project.remove(route)
    return body


@handles("compute.subnetworks.insert")
def insert_subnetwork(call: Call) -> Json:
    """Make a subnetwork: a range of its own in a network that is ready."""
    scope, name = common.scope_of(call), common.name_of(call.body)
    network = common.referred(call, str(call.body.get("network", "")), "networks", "resource.network")
    common.must_be_free(call.project, "subnetworks", scope, name)
    common.check_quota(call.project, "SUBNETWORKS", used=len(call.project.all("subnetworks")))
    range_ = _range(str(call.body.get("ipCidrRange", "")), "resource.ipCidrRange")
    secondary = [
        _range(item.get("ipCidrRange", ""), "resource.secondaryIpRanges")
        for item in call.body.get("secondaryIpRanges", [])
    ]
    for other in _subnetworks(call.project, network):
        for wanted in [range_, *secondary]:
            if any(wanted.overlaps(taken) for taken in ranges_of(other)):
                region = scope.partition("/")[2]
                why = f"{wanted} conflicts with existing subnetwork '{other.name}' in region '{region}'."
                raise invalid("resource.ipCidrRange", wanted, f"Invalid IPCidrRange: {why}")
    body = {
        "privateIpGoogleAccess": False, "purpose": "PRIVATE", "stackType": "IPV4_ONLY", **call.body,
        "network": network.link, "gatewayAddress": str(range_[1]), "ipCidrRange": str(range_),
    }  # fmt: skip
    subnetwork = call.project.add("subnetworks", scope, name, body)
    subnetwork.body["fingerprint"] = fingerprint(subnetwork.body)
    return common.making(call, subnetwork, after=call.project.timings.network)


@handles("compute.subnetworks.patch")
def patch_subnetwork(call: Call) -> Json:
    """Change a subnetwork; the fingerprint has to be the present one."""
    subnetwork = call.project.get("subnetworks", common.scope_of(call), call.params["subnetwork"])
    common.must_be_ready(subnetwork)
    must_be_current(call.body.get("fingerprint"), subnetwork.body["fingerprint"])
    subnetwork.body = merged(subnetwork.body, call.body)
    subnetwork.body["fingerprint"] = fingerprint(subnetwork.body)
    return common.making(call, subnetwork, after=call.project.timings.change, kind="patch")


@handles("compute.subnetworks.setPrivateIpGoogleAccess")
def set_private_access(call: Call) -> Json:
    """Let machines without public addresses reach Google's APIs, or not."""
    subnetwork = call.project.get("subnetworks", common.scope_of(call), call.params["subnetwork"])
    common.must_be_ready(subnetwork)
    subnetwork.body["privateIpGoogleAccess"] = bool(call.body.get("privateIpGoogleAccess"))
    subnetwork.body["fingerprint"] = fingerprint(subnetwork.body)
    return common.making(call, subnetwork, after=call.project.timings.change, kind="setPrivateIpGoogleAccess")


@handles("compute.subnetworks.listUsable")
def list_usable(call: Call) -> Json:
    """Answer with the subnetworks that machines can be put into."""
    items = [
        {
            "subnetwork": subnetwork.link, "network": subnetwork.body["network"],
            "ipCidrRange": subnetwork.body["ipCidrRange"], "purpose": "PRIVATE", "stackType": "IPV4_ONLY",
        }
        for subnetwork in call.project.all("subnetworks")
    ]  # fmt: skip
    return {
        "kind": "compute#usableSubnetworksAggregatedList",
        "id": f"projects/{call.project.id}/aggregated",
        "items": items,
    }


def ranges_of(subnetwork: Resource) -> list[ipaddress.IPv4Network]:
    """Return the ranges that a subnetwork has taken."""
    texts = [
        subnetwork.body["ipCidrRange"],
        *(item["ipCidrRange"] for item in subnetwork.body.get("secondaryIpRanges", [])),
    ]
    return [ipaddress.IPv4Network(text) for text in texts]


def _range(text: str, field: str) -> ipaddress.IPv4Network:
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError:
        raise invalid(
            field, text, "Must be a CIDR address range that is contained in the RFC1918 private address ranges."
        )
    if not 8 <= found.prefixlen <= 29:
        raise invalid(field, text, "The prefix length must be between 8 and 29.")
    if not any(found.subnet_of(range_) for range_ in ROUTABLE):
        raise invalid(
            field, text, "Must be a CIDR address range that is contained in the RFC1918 private address ranges."
        )
    return found


def _subnetworks(project: Project, network: Resource) -> list[Resource]:
    return [found for found in project.all("subnetworks") if found.body["network"] == network.link]


def _routes(project: Project, network: Resource) -> list[Resource]:
    return [found for found in project.all("routes") if found.body["network"] == network.link]


def _with_subnetworks(project: Project, network: Resource) -> None:
    network.body.pop("subnetworks", None)
    if found := [subnetwork.link for subnetwork in _subnetworks(project, network)]:
        network.body["subnetworks"] = found


def _users_of_network(project: Project, network: Resource) -> Iterator[str]:
    for collection in ("subnetworks", "firewalls", "routers", "backendServices"):
        yield from (found.path for found in project.all(collection) if found.body.get("network") == network.link)
    yield from (route.path for route in _routes(project, network) if not route.name.startswith("default-route-"))
    for instance in project.all("instances"):
        if any(interface["network"] == network.link for interface in instance.body["networkInterfaces"]):
            yield instance.path


def _users_of_subnetwork(project: Project, subnetwork: Resource) -> Iterator[str]:
    for instance in project.all("instances"):
        if any(interface.get("subnetwork") == subnetwork.link for interface in instance.body["networkInterfaces"]):
            yield instance.path
    for collection in ("addresses", "forwardingRules"):
        yield from (found.path for found in project.all(collection) if found.body.get("subnetwork") == subnetwork.link)


common.plain(
    "subnetworks", "subnetwork", users=_users_of_subnetwork,
    aggregates="compute#subnetworkAggregatedList",
)  # fmt: skip
common.plain("routes", "route")
common.plain("routers", "router", aggregates="compute#routerAggregatedList")


@handles("compute.routers.insert")
def insert_router(call: Call) -> Json:
    """Make a router, with its address translation when that is asked for."""
    scope, name = common.scope_of(call), common.name_of(call.body)
    network = common.referred(call, str(call.body.get("network", "")), "networks", "resource.network")
    common.must_be_free(call.project, "routers", scope, name)
    common.check_quota(call.project, "ROUTERS", used=len(call.project.all("routers")))
    for nat in call.body.get("nats", []):
        if not nat.get("name") or "sourceSubnetworkIpRangesToNat" not in nat:
            raise ApiError(
                400, "required", "Required field 'resource.nats[0].sourceSubnetworkIpRangesToNat' not specified"
            )
    router = call.project.add("routers", scope, name, {**call.body, "network": network.link})
    return common.making(call, router, after=call.project.timings.network)
