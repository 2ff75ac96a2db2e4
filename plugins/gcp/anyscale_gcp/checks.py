"""What is looked at of a network, and what to do when it is not as it should be. Reads only."""

import ipaddress
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from anyscale_core.errors import NotFound
from anyscale_core.models.networking import Check, CheckStatus, NetworkMode
from anyscale_gcp.client import Client
from anyscale_gcp.compute import PAGE
from anyscale_gcp.networks import NETWORK_PATH, SUBNET_PATH, Net

SMALL = 24
"""A range narrower than this has room for fewer than 252 machines."""
OPEN_PORTS = frozenset({22, 3389, 6379, 8265, 10001})
"""What nobody on the internet may reach: shells, and Ray's own ports."""


def look_over(client: Client, net: Net, *, deadline: datetime) -> tuple[Check, ...]:
    """Return each thing looked at with its outcome and remedy."""
    where, there = NETWORK_PATH.fullmatch(net.path), SUBNET_PATH.fullmatch(net.subnetwork)
    if where is None or there is None:  # both were checked when the network was made or adopted
        return ()
    subnet = _get(
        client, "subnetworks", deadline, project=there["project"], region=there["region"], subnetwork=there["name"]
    )
    found = [_network(_get(client, "networks", deadline, project=where["project"], network=where["name"]), net)]
    found += _subnet(subnet, net)
    rules = [
        rule
        for page in client.pages("compute.firewalls.list", project=where["project"], maxResults=PAGE, deadline=deadline)
        for rule in page.get("items", ())
        if str(rule.get("network", "")).endswith(net.path) and not rule.get("disabled")
    ]
    found.append(_inside(rules, subnet))
    found.append(_open(rules))
    if net.mode is NetworkMode.PRIVATE:
        routers = [
            router
            for page in client.pages(
                "compute.routers.list",
                project=where["project"],
                region=there["region"],
                maxResults=PAGE,
                deadline=deadline,
            )
            for router in page.get("items", ())
            if str(router.get("network", "")).endswith(net.path)
        ]
        found.append(_way_out(routers))
    return tuple(found)


def _network(item: Mapping[str, Any] | None, net: Net) -> Check:
    if item is None:
        return _bad("network.exists", f"{net.path} is not there", "create the network, or adopt another one")
    return _good("network.exists", f"{net.path} is there")


def _subnet(item: Mapping[str, Any] | None, net: Net) -> Iterator[Check]:
    if item is None:
        yield _bad("subnetwork.exists", f"{net.subnetwork} is not there", "create the network anew with its token")
        return
    yield _good("subnetwork.exists", f"{net.subnetwork} is there")
    cidr = str(item.get("ipCidrRange", ""))
    if cidr and ipaddress.ip_network(cidr).prefixlen > SMALL:
        yield _warning(
            "subnetwork.size",
            f"{cidr} has room for few machines",
            "widen it: gcloud compute networks subnets expand-ip-range",
        )
    else:
        yield _good("subnetwork.size", f"{cidr} has room")
    if item.get("privateIpGoogleAccess"):
        yield _good("subnetwork.google_access", "machines without public addresses reach Google's APIs")
    else:
        yield _warning(
            "subnetwork.google_access", "machines without public addresses do not reach Google's APIs",
            "gcloud compute networks subnets update --enable-private-ip-google-access",
        )  # fmt: skip


def _inside(rules: list[Mapping[str, Any]], subnet: Mapping[str, Any] | None) -> Check:
    cidr = str((subnet or {}).get("ipCidrRange", "")) or "0.0.0.0/32"
    wanted = ipaddress.ip_network(cidr)
    for rule in rules:
        allows_all = any(each.get("IPProtocol") == "all" or not each.get("ports") for each in rule.get("allowed", ()))
        ranges = [ipaddress.ip_network(each) for each in rule.get("sourceRanges", ()) if ":" not in each]
        if rule.get("direction") == "INGRESS" and allows_all and any(_holds(each, wanted) for each in ranges):
            return _good("rules.inside", f"machines in {cidr} reach each other")
    return _bad(
        "rules.inside", f"no rule lets the machines in {cidr} at each other, as Ray needs",
        f"allow all protocols from {cidr} into the network",
    )  # fmt: skip


def _open(rules: list[Mapping[str, Any]]) -> Check:
    wide = [
        str(rule["name"])
        for rule in rules
        if rule.get("direction") == "INGRESS"
        and {"0.0.0.0/0", "::/0"}.intersection(rule.get("sourceRanges", ()))
        and any(_lets_in(each) for each in rule.get("allowed", ()))
    ]
    if not wide:
        return _good("rules.open", "nobody on the internet reaches shells or Ray's ports")
    return _warning(
        "rules.open", f"{', '.join(sorted(wide))} let anybody at shells or Ray's ports",
        "narrow their source ranges, or delete them",
    )  # fmt: skip


def _way_out(routers: list[Mapping[str, Any]]) -> Check:
    if any(router.get("nats") for router in routers):
        return _good("network.way_out", "machines without public addresses reach the internet through a NAT")
    return _warning(
        "network.way_out", "machines without public addresses reach nothing outside",
        "give the network a Cloud NAT, or let the control plane be reached from inside",
    )  # fmt: skip


def _lets_in(allowed: Mapping[str, Any]) -> bool:
    if allowed.get("IPProtocol") not in ("tcp", "all", "6"):
        return False
    ports = allowed.get("ports")
    if not ports:
        return True
    for each in ports:
        low, _, high = str(each).partition("-")
        if any(int(low) <= port <= int(high or low) for port in OPEN_PORTS):
            return True
    return False


def _holds(outer: Any, inner: Any) -> bool:
    return bool(inner.subnet_of(outer))


def _get(client: Client, kind: str, deadline: datetime, **where: str) -> Mapping[str, Any] | None:
    try:
        return client.call(f"compute.{kind}.get", deadline=deadline, **where)
    except NotFound:
        return None


def _good(id: str, detail: str) -> Check:
    return Check(id=id, status=CheckStatus.PASSED, detail=detail)


def _warning(id: str, detail: str, remedy: str) -> Check:
    return Check(id=id, status=CheckStatus.WARNING, detail=detail, remedy=remedy)


def _bad(id: str, detail: str, remedy: str) -> Check:
    return Check(id=id, status=CheckStatus.FAILED, detail=detail, remedy=remedy)
