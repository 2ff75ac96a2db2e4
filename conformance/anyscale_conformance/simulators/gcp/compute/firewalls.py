"""Firewall rules of networks."""

import ipaddress

from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.compute import common
from anyscale_conformance.simulators.gcp.errors import ApiError, invalid
from anyscale_conformance.simulators.gcp.schema import Json

PROTOCOLS = frozenset({"tcp", "udp", "icmp", "esp", "ah", "ipip", "sctp", "all"})
DEFAULTS = {"direction": "INGRESS", "priority": 1000, "disabled": False, "logConfig": {"enable": False}}
FIXED = ("kind", "id", "name", "creationTimestamp", "selfLink", "network")


@handles("compute.firewalls.insert")
def insert(call: Call) -> Json:
    """Make a rule; from anywhere when it names no source."""
    name = common.name_of(call.body)
    network = common.referred(
        call, str(call.body.get("network", "global/networks/default")), "networks", "resource.network"
    )
    common.must_be_free(call.project, "firewalls", "global", name)
    common.check_quota(call.project, "FIREWALLS", used=len(call.project.all("firewalls")))
    body = _checked({**DEFAULTS, **call.body})
    rule = call.project.add("firewalls", "global", name, {**body, "network": network.link})
    return common.making(call, rule, after=call.project.timings.change)


@handles("compute.firewalls.patch", "compute.firewalls.update")
def patch(call: Call) -> Json:
    """Change a rule: a patch what it names, an update everything."""
    rule = call.project.get("firewalls", "global", call.params["firewall"])
    common.must_be_ready(rule)
    new = {key: value for key, value in call.body.items() if key not in FIXED}
    if call.method.http == "PATCH":  # lists of ranges and tags are replaced as a whole
        new = {**{key: value for key, value in rule.body.items() if key not in FIXED}, **new}
    fixed = {key: rule.body[key] for key in FIXED}
    rule.body = fixed | _checked({**DEFAULTS, **{key: value for key, value in new.items() if value is not None}})
    return common.making(call, rule, after=call.project.timings.change, kind=call.method.id.rpartition(".")[2])


def _checked(body: Json) -> Json:
    if ("allowed" in body) == ("denied" in body):
        raise ApiError(400, "invalid", "Exactly one of 'allowed' and 'denied' must be given for a firewall rule.")
    for rule in [*body.get("allowed", []), *body.get("denied", [])]:
        protocol = str(rule.get("IPProtocol", ""))
        if protocol not in PROTOCOLS and not protocol.isdigit():
            raise invalid("resource.allowed[0].IPProtocol", protocol, "Unknown protocol.")
        for ports in rule.get("ports", []):
            first, _, last = str(ports).partition("-")
            if not (first.isdigit() and (last or first).isdigit() and int(first) <= int(last or first) <= 65535):
                raise invalid("resource.allowed[0].ports[0]", ports, "Must be a port or a range of ports.")
    sources = [key for key in ("sourceRanges", "sourceTags", "sourceServiceAccounts") if body.get(key)]
    for text in [*body.get("sourceRanges", []), *body.get("destinationRanges", [])]:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise invalid("resource.sourceRanges[0]", text, "Must be a CIDR address range.")
    if body["direction"] == "EGRESS":
        if sources:
            raise ApiError(400, "invalid", "Source fields cannot be given for EGRESS firewall rules.")
        return {"destinationRanges": ["0.0.0.0/0"], **body}
    if (body.get("sourceServiceAccounts") or body.get("targetServiceAccounts")) and (
        body.get("sourceTags") or body.get("targetTags")
    ):
        raise ApiError(400, "invalid", "Tags and service accounts cannot be given in one firewall rule.")
    return body if sources else {"sourceRanges": ["0.0.0.0/0"], **body}


common.plain("firewalls", "firewall", after=lambda call: call.project.timings.change)
