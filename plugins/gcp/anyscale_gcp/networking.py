"""NetworkingDriver: VPC networks of ours, or checked ones of the customer's, and ways in to heads.

A way in is a firewall rule that lets the settings' ranges at the head's own address and port, and at nothing else: nothing
stands between a client and the head, so it is ready when the rule is. Threads: a driver has no state of its own.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, Scope
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import (
    Check,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Network,
    NetworkMode,
    NetworkSpec,
)
from anyscale_core.models.owner import Owner
from anyscale_gcp import networks, operations
from anyscale_gcp.checks import look_over
from anyscale_gcp.client import Client
from anyscale_gcp.config import read_settings
from anyscale_gcp.networks import Net
from anyscale_gcp.tags import Note, brief, check_name, fingerprint, parse, render, request_id, resource_name
from anyscale_gcp.tags import note as note_of

ANYBODY = ("0.0.0.0/0",)
ORDERS = 24
"""Orders of a way in that are remembered: as many as its description holds."""
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


@attrs.frozen(kw_only=True)
class Way:
    """A way in as its firewall rule has it."""

    note: Note
    rule: str
    network: str
    """The own name of the network that it is in."""

    @property
    def target(self) -> str:
        """The address that it leads to."""
        return self.note.more["address"]

    @property
    def reached_at(self) -> str:
        """The address that clients use: the target's public one, where it has one."""
        return self.note.more.get("public", self.target)

    @property
    def orders(self) -> tuple[str, ...]:
        """The orders that it has had, the newest last: each the hash of a token and of what it asked for."""
        return tuple(self.note.more.get("orders", "").split())

    @property
    def port(self) -> int:
        """The port that it leads to."""
        return int(self.note.more["port"])


class GcpNetworking(NetworkingDriver):
    """Networks of a region of a project. ``config.settings`` as explained in ``plugin``."""

    provider = "gcp"

    def __init__(self, config: DriverConfig, client: Client | None = None) -> None:
        self._settings = read_settings(config)
        self._region = config.region
        self._client = client or Client(self._settings, config.clock, identity_token=config.identity_token)
        self._project = self._settings.project

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        check_name(spec.name, "a network")
        wanted = fingerprint(spec, owner.tags())
        cidr = networks.checked_range(spec.cidr) if spec.cidr else ""
        every = tuple(networks.every(self._client, owner, region=self._region, deadline=deadline))
        found = _known(every, spec.name, resource_name(owner, spec.name), token=token, wanted=wanted)
        if found is None:
            self._check_overlap(cidr, every)
        if spec.adopt is not None:
            net = found or self._adopt(spec, owner, token=token, wanted=wanted, deadline=deadline)
            return self._show(net, ())
        region = spec.region or self._region
        if found is None:
            cidr = cidr or networks.free_range((each.cidr for each in every), start=resource_name(owner, spec.name))
            note = note_of(
                owner, spec.name, spec.tags, token=token, wanted=wanted,
                more={"kind": "network", "mode": spec.mode.value, "cidr": cidr, "region": region},
            )  # fmt: skip
            self._insert_network(note, token=token, deadline=deadline)
        else:
            note = found.note
        self._complete(note, token=token, is_new=found is None, deadline=deadline)
        name = resource_name(owner, spec.name)
        net = Net(
            note=note, own_name=name, path=networks.path_of(self._project, name),
            subnetwork=networks.subnet_path(self._project, region, name),
        )  # fmt: skip
        return self._show(net, () if found is None else self._ways(deadline=deadline))

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        return self._show(self._owned(name, owner, deadline=deadline), self._ways(deadline=deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        every = networks.every(self._client, owner, region=self._region, deadline=deadline)
        mine = [net for net in every if owner.owns(net.note.tags)]
        ways = tuple(self._ways(deadline=deadline)) if mine else ()
        return tuple(self._show(net, ways) for net in mine)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        net = networks.find(self._client, name, owner=owner, region=self._region, deadline=deadline)
        if net is None or not owner.owns(net.note.tags):
            return Deletion.ALREADY_ABSENT
        inside = [way.note.name for way in self._ways(deadline=deadline) if way.network == net.own_name]
        if inside:
            raise Conflict(
                f"{name} has the endpoints {', '.join(inside)}", reason="IN_USE", resource=name,
                hint="withdraw them first",
            )  # fmt: skip
        if net.adopted:
            return self._gone("healthChecks", net, healthCheck=net.own_name, deadline=deadline)
        region = net.note.more.get("region", self._region)
        # The subnetwork goes first: machines in it refuse that, and then all is as it was.
        steps: tuple[tuple[str, dict[str, str]], ...] = (
            ("subnetworks", {"region": region, "subnetwork": net.own_name}),
            ("routers", {"region": region, "router": net.own_name}),
            ("firewalls", {"firewall": net.own_name}),
        )
        is_done = [self._gone(kind, net, deadline=deadline, **where) is not Deletion.GOING for kind, where in steps]
        if not all(is_done):
            return Deletion.GOING
        return self._gone("networks", net, network=net.own_name, deadline=deadline)

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        check_name(spec.name, "an endpoint")
        _check_target(spec)
        net = self._reachable(spec, deadline=deadline)
        rule, order = _rule_name(spec.owner, spec.name), _order(token, spec)
        ways = tuple(self._ways(deadline=deadline))
        if any(known != order and known.partition(".")[0] == brief(token) for way in ways for known in way.orders):
            raise _mismatch(spec.name)
        there = next((way for way in ways if way.rule == rule), None)
        if there is not None and not spec.owner.owns(there.note.tags):
            raise _taken(spec.name, "an endpoint")
        if there is not None and order in there.orders:
            return self._ordered(there, order)
        note = self._way_note(spec, net, there, order, token=token, deadline=deadline)
        body = _rule_body(rule, note, net, sources=self._sources(net))
        if there is None:
            self._insert("firewalls", body, token=token, about=spec.name, deadline=deadline)
        else:
            self._client.call(
                "compute.firewalls.patch", project=self._project, firewall=rule, about=spec.name, deadline=deadline,
                body=body, requestId=request_id(token, "firewalls.patch", rule),
            )  # fmt: skip
        return self._endpoint(Way(note=note, rule=rule, network=net.own_name))

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        rule = _rule_name(owner, name)
        try:
            item = self._client.call(
                "compute.firewalls.get", project=self._project, firewall=rule, about=name, deadline=deadline
            )
        except NotFound:
            return Deletion.ALREADY_ABSENT
        way = _way(item)
        if way is None or not owner.owns(way.note.tags):
            return Deletion.ALREADY_ABSENT
        return self._delete("firewalls", str(item.get("id", rule)), about=name, firewall=rule, deadline=deadline)

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        net = self._owned(name, owner, deadline=deadline)
        return look_over(self._client, net, deadline=deadline)

    def close(self) -> None:
        self._client.close()

    # Networks ------------------------------------------------------------------------------------------------------

    def _adopt(self, spec: NetworkSpec, owner: Owner, *, token: Token, wanted: str, deadline: datetime) -> Net:
        """Check what the spec names, remember it, and return it."""
        found = networks.NETWORK_PATH.fullmatch(spec.adopt or "")
        if found is None:
            raise InvalidRequest(
                f"{spec.adopt!r} is not the path of a network", reason="FIELD", resource=spec.name,
                hint="write projects/PROJECT/global/networks/NAME",
            )  # fmt: skip
        path = networks.path_of(found["project"], found["name"])
        try:
            item = self._client.call(
                "compute.networks.get",
                project=found["project"],
                network=found["name"],
                about=spec.name,
                deadline=deadline,
            )
        except NotFound as error:
            raise NotFound(
                f"there is no {path}", reason="REFERENCE", resource=spec.name, vendor=error.vendor
            ) from error
        more = {
            "kind": "adopted", "mode": spec.mode.value, "network": path, "subnetwork": self._subnet_of(spec, item),
        }  # fmt: skip
        note = note_of(owner, spec.name, spec.tags, token=token, wanted=wanted, more=more)
        name = resource_name(owner, spec.name)
        self._insert("healthChecks", networks.keeper_body(name, note), token=token, about=spec.name, deadline=deadline)
        return Net(note=note, own_name=name, path=path, subnetwork=more["subnetwork"], adopted=True)

    def _subnet_of(self, spec: NetworkSpec, network: Mapping[str, Any]) -> str:
        """Return the subnetwork of an adopted network that machines go to. Raises InvalidRequest when none is in the region."""
        region = spec.region or self._region
        there = [found for each in network.get("subnetworks", ()) if (found := networks.SUBNET_PATH.fullmatch(each))]
        known = {networks.subnet_path(each["project"], each["region"], each["name"]): each["region"] for each in there}
        asked = [networks.SUBNET_PATH.fullmatch(each) for each in spec.subnets]
        wanted = [
            None if each is None else networks.subnet_path(*each.group("project", "region", "name")) for each in asked
        ]
        for given, path in zip(spec.subnets, wanted, strict=True):
            if path is None or known.get(path) != region:
                raise InvalidRequest(
                    f"{given!r} is not a subnetwork of that network in {region}", reason="FIELD", resource=spec.name,
                    hint=f"name one of {', '.join(sorted(p for p, r in known.items() if r == region)) or 'none'}",
                )  # fmt: skip
        chosen = [path for path in wanted if path is not None] or sorted(p for p, r in known.items() if r == region)
        if not chosen:
            raise InvalidRequest(
                f"the network has no subnetwork in {region}", reason="COMBINATION", resource=spec.name,
                hint="make one there, or use the cloud in another region",
            )  # fmt: skip
        return chosen[0]

    def _insert_network(self, note: Note, *, token: Token, deadline: datetime) -> None:
        name = resource_name(note.owner(), note.name)
        self._insert("networks", networks.network_body(name, note), token=token, about=note.name, deadline=deadline)

    def _complete(self, note: Note, *, token: Token, is_new: bool, deadline: datetime) -> None:
        """Make what belongs to a network and is not there yet. Raises Conflict(BUSY) while the network itself is being made."""
        name, region = resource_name(note.owner(), note.name), note.more["region"]
        path, cidr = networks.path_of(self._project, name), note.more["cidr"]
        parts: list[tuple[str, dict[str, str], dict[str, Any]]] = [
            ("subnetworks", {"region": region}, networks.subnet_body(name, note, network=path, cidr=cidr)),
            ("firewalls", {}, networks.inside_body(name, note, network=path, cidr=cidr)),
        ]
        if note.more["mode"] == NetworkMode.PRIVATE.value:
            parts.append(("routers", {"region": region}, networks.router_body(name, note, network=path)))
        for kind, where, body in parts:
            if is_new or not self._is_there(kind, name, deadline=deadline, **where):
                self._insert(kind, body, token=token, about=note.name, deadline=deadline, **where)

    def _is_there(self, kind: str, name: str, *, deadline: datetime, **where: str) -> bool:
        try:
            self._client.call(
                f"compute.{kind}.get", project=self._project, deadline=deadline, **{kind[:-1]: name}, **where
            )
        except NotFound:
            return False
        return True

    def _check_overlap(self, cidr: str, every: tuple[Net, ...]) -> None:
        wanted = ipaddress.ip_network(cidr) if cidr else None
        for net in every:
            if wanted is not None and net.cidr and ipaddress.ip_network(net.cidr).overlaps(wanted):
                raise Conflict(
                    f"{cidr} overlaps {net.cidr} of the network {net.note.name}", reason="IN_USE", resource=net.note.name,
                    hint="choose another range",
                )  # fmt: skip

    def _owned(self, name: str, owner: Owner, *, deadline: datetime) -> Net:
        net = networks.find(self._client, name, owner=owner, region=self._region, deadline=deadline)
        if net is None or not owner.owns(net.note.tags):
            raise NotFound(f"there is no network {name}", reason="RESOURCE", resource=name)
        return net

    def _show(self, net: Net, ways: "Iterator[Way] | tuple[Way, ...]") -> Network:
        mine = tuple(self._endpoint(way) for way in ways if way.network == net.own_name)
        return Network(
            name=net.note.name, owner=net.note.owner(), id=net.path, mode=net.mode, adopted=net.adopted, endpoints=mine
        )

    def _gone(self, kind: str, net: Net, *, deadline: datetime, **where: str) -> Deletion:
        """Begin to delete a part of a network. What still goes in it makes it GOING; a machine in it is Conflict(IN_USE)."""
        try:
            return self._delete(kind, net.note.token, about=net.note.name, deadline=deadline, **where)
        except Conflict as error:
            # Once the subnetwork has gone, what uses the network can only be something of ours that is going.
            if error.reason == "BUSY" or (error.reason == "IN_USE" and kind == "networks"):
                return Deletion.GOING
            raise

    # Ways in -------------------------------------------------------------------------------------------------------

    def _ways(self, *, deadline: datetime) -> Iterator[Way]:
        """Yield every way in of the project that is ours, whoever of us has it."""
        pages = self._client.pages(
            "compute.firewalls.list", project=self._project, maxResults=networks.PAGE, deadline=deadline
        )
        seen: set[str] = set()
        for page in pages:
            for item in page.get("items", ()):
                way = _way(item)
                if way is not None and way.rule not in seen:
                    seen.add(way.rule)
                    yield way

    def _reachable(self, spec: EndpointSpec, *, deadline: datetime) -> Net:
        net = networks.find(self._client, spec.network, owner=spec.owner, region=self._region, deadline=deadline)
        if net is None:
            raise NotFound(f"there is no network {spec.network}", reason="REFERENCE", resource=spec.network)
        return net

    def _way_note(
        self, spec: EndpointSpec, net: Net, there: Way | None, order: str, *, token: Token, deadline: datetime
    ) -> Note:
        """Return the note of a way in: where it leads, and the orders that it has had, the newest last."""
        public = self._public_address(spec.target_address, deadline=deadline) if net.mode is NetworkMode.PUBLIC else ""
        orders = (*(there.orders if there is not None else ()), order)[-ORDERS:]
        more = {
            "kind": "endpoint", "network": net.own_name, "address": spec.target_address, "port": str(spec.target_port),
            "orders": " ".join(orders), **({"public": public} if public else {}),
        }  # fmt: skip
        return note_of(spec.owner, spec.name, {}, token=token, wanted="", more=more)

    def _ordered(self, way: Way, order: str) -> Endpoint:
        """Return a way in whose order is known. Raises Conflict(TOKEN_SPENT) when a newer one has moved it since."""
        if way.orders[-1] != order:
            raise Conflict(
                f"a newer order has moved {way.note.name}", reason="TOKEN_SPENT", resource=way.note.name,
                hint="mint a new token",
            )  # fmt: skip
        return self._endpoint(way)

    def _public_address(self, address: str, *, deadline: datetime) -> str:
        """Return the public address of the machine at a private one; empty when it has none."""
        pages = self._client.pages(
            "compute.instances.aggregatedList", project=self._project, deadline=deadline, maxResults=networks.PAGE,
            filter=f'networkInterfaces.networkIP = "{address}"',
            fields="nextPageToken,unreachables,items/*/warning/code,items/*/instances(id,networkInterfaces)",
        )  # fmt: skip
        for page in pages:
            for scoped in operations.complete(page, "instances").get("items", {}).values():
                for each in scoped.get("instances", ()):
                    for interface in each.get("networkInterfaces", ()):
                        if interface.get("networkIP") == address:
                            return next(
                                (str(a["natIP"]) for a in interface.get("accessConfigs", ()) if "natIP" in a), ""
                            )
        return ""

    def _sources(self, net: Net) -> tuple[str, ...]:
        return self._settings.ingress_ranges or (ANYBODY if net.mode is NetworkMode.PUBLIC else PRIVATE)

    def _endpoint(self, way: Way) -> Endpoint:
        return Endpoint(
            name=way.note.name, owner=way.note.owner(), state=EndpointState.READY,
            url=f"https://{way.reached_at}:{way.port}",
        )  # fmt: skip

    # Writes --------------------------------------------------------------------------------------------------------

    def _insert(
        self, kind: str, body: Mapping[str, Any], *, token: Token, about: str, deadline: datetime, **where: str
    ) -> None:
        """Make one thing. One of that name that is there with the same note was made by this call, whose answer was lost."""
        name = str(body["name"])
        try:
            operation = self._client.call(
                f"compute.{kind}.insert", project=self._project, body=body, about=about, deadline=deadline,
                requestId=request_id(token, f"{kind}.insert", name), **where,
            )  # fmt: skip
        except AlreadyExists as error:
            item = self._client.call(
                f"compute.{kind}.get", project=self._project, deadline=deadline, **{kind[:-1]: name}, **where
            )
            found, ours = parse(item.get("description")), parse(body["description"])
            if found is None or ours is None or found.token != ours.token:
                raise _taken(about, kind, "FOREIGN" if found is None else "OWNED") from error
            return
        # An operation that has ended already may be an old one's, and what it made be gone by now.
        if operations.done(operation, resource=about) and not self._is_there(kind, name, deadline=deadline, **where):
            raise Conflict(
                f"{about} was made with this token and has been deleted", reason="TOKEN_SPENT", resource=about,
                hint="mint a new token",
            )  # fmt: skip

    def _delete(self, kind: str, incarnation: str, *, about: str, deadline: datetime, **where: str) -> Deletion:
        try:
            operation = self._client.call(
                f"compute.{kind}.delete", project=self._project, about=about, deadline=deadline, **where,
                requestId=request_id(Token(incarnation), f"{kind}.delete", about),
            )  # fmt: skip
        except NotFound:
            return Deletion.ALREADY_ABSENT
        return Deletion.GONE if operations.done(operation, resource=about) else Deletion.GOING


def _known(every: tuple[Net, ...], name: str, own_name: str, *, token: Token, wanted: str) -> Net | None:
    """Return what an earlier call with this token made. Raises Conflict and AlreadyExists."""
    for net in every:
        if net.note.token == brief(token) and net.note.wanted != wanted:
            raise _mismatch(name)
    found = next((net for net in every if net.own_name == own_name), None)
    if found is not None and found.note.token != brief(token):
        raise _taken(name, "a network")
    return found


def _order(token: Token, spec: EndpointSpec) -> str:
    return f"{brief(token)}.{fingerprint(spec)[:8]}"


def _rule_name(owner: Owner, name: str) -> str:
    return resource_name(owner, f"in-{name}")


def _rule_body(rule: str, note: Note, net: Net, *, sources: tuple[str, ...]) -> dict[str, Any]:
    address, port = note.more["address"], note.more["port"]
    return {
        "name": rule, "description": render(note), "network": net.path, "direction": "INGRESS", "priority": 900,
        "sourceRanges": list(sources), "destinationRanges": [f"{address}/32"],
        "allowed": [{"IPProtocol": "tcp", "ports": [port]}],
    }  # fmt: skip


def _way(item: Mapping[str, Any]) -> Way | None:
    note = parse(item.get("description"))
    if note is None or note.more.get("kind") != "endpoint":
        return None
    return Way(note=note, rule=str(item["name"]), network=note.more["network"])


def _check_target(spec: EndpointSpec) -> None:
    try:
        ipaddress.IPv4Address(spec.target_address)
    except ValueError as error:
        raise InvalidRequest(
            f"{spec.target_address!r} is not an IPv4 address",
            reason="FIELD",
            resource=spec.name,
            hint="give the head's",
        ) from error
    if not 0 < spec.target_port < 65536:
        raise InvalidRequest(f"{spec.target_port} is no port", reason="FIELD", resource=spec.name, hint="1 to 65535")


def _mismatch(name: str) -> Conflict:
    return Conflict(
        "the token stands for another request",
        reason="TOKEN_MISMATCH",
        resource=name,
        hint="mint a token for each request",
    )


def _taken(name: str, what: str, reason: str = "OWNED") -> AlreadyExists:
    return AlreadyExists(
        f"there is {what} {name} already",
        reason=reason,
        resource=name,
        scope=Scope.RESOURCE,
        hint="delete it, or use another name",
    )
