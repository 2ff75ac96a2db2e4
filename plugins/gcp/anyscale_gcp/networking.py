"""NetworkingDriver: VPC networks of ours, or checked ones of the customer's, and ways in to heads.

A way in is a firewall rule that lets the settings' ranges at the head's own address and port, and at nothing else: nothing
stands between a client and the head, so it is ready when the rule is. Threads: a driver has no state of its own.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
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
from anyscale_gcp import building, networks, operations, ways
from anyscale_gcp.checks import look_over
from anyscale_gcp.client import Client
from anyscale_gcp.compute import PAGE, Compute
from anyscale_gcp.config import read_settings
from anyscale_gcp.networks import Net
from anyscale_gcp.tags import Note, brief, check_name, fingerprint, parse, request_id, resource_name
from anyscale_gcp.tags import note as note_of
from anyscale_gcp.ways import Way


class GcpNetworking(NetworkingDriver):
    """Networks of a region of a project. ``config.settings`` as explained in ``plugin``."""

    provider = "gcp"

    def __init__(self, config: DriverConfig, client: Client | None = None) -> None:
        self._settings = read_settings(config)
        self._region = config.region
        self._client = client or Client(self._settings, config.clock, identity_token=config.identity_token)
        self._project = self._settings.project
        self._compute = Compute(client=self._client, project=self._project)

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        check_name(spec.name, "a network")
        wanted = fingerprint(spec, owner.tags())
        cidr = networks.checked_range(spec.cidr) if spec.cidr else ""
        every = tuple(networks.every(self._compute, owner, region=self._region, deadline=deadline))
        own_name = resource_name(owner, spec.name)
        found = _known(every, spec.name, own_name, token=token, wanted=wanted)
        if found is None:
            self._check_overlap(cidr, every)
        if spec.adopt is not None:
            net = found or self._adopt(spec, owner, token=token, wanted=wanted, deadline=deadline)
            return self._show(net, ())
        net = found or self._make(spec, owner, every, cidr, token=token, wanted=wanted, deadline=deadline)
        if not building.complete(self._compute, net, is_new=found is None, deadline=deadline) and found is not None:
            raise Conflict(
                f"{spec.name} was made with this token and has been deleted", reason="TOKEN_SPENT", resource=spec.name,
                hint="mint a new token",
            )  # fmt: skip
        # One that this call made, and that a delete took before it was whole, was made and deleted: in that order.
        return self._show(net, () if found is None else self._ways(deadline=deadline))

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        return self._show(self._owned(name, owner, deadline=deadline), self._ways(deadline=deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        every = networks.every(self._compute, owner, region=self._region, deadline=deadline)
        mine = [net for net in every if owner.owns(net.note.tags)]
        open_ways = tuple(self._ways(deadline=deadline)) if mine else ()
        return tuple(self._show(net, open_ways) for net in mine)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        net = networks.find(self._compute, name, owner=owner, region=self._region, deadline=deadline)
        if net is None or not owner.owns(net.note.tags):
            return Deletion.ALREADY_ABSENT
        inside = [way.note.name for way in self._ways(deadline=deadline) if way.network == net.own_name]
        if inside:
            raise Conflict(
                f"{name} has the endpoints {', '.join(inside)}", reason="IN_USE", resource=name,
                hint="withdraw them first",
            )  # fmt: skip
        if net.adopted:
            return self._compute.delete("healthChecks", net.own_name, about=name, deadline=deadline)
        return building.tear_down(self._compute, net, deadline=deadline)

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        check_name(spec.name, "an endpoint")
        ways.check_target(spec)
        net = self._reachable(spec, deadline=deadline)
        rule, order = ways.rule_name(spec.owner, spec.name), ways.order_of(token, spec)
        there_are = tuple(self._ways(deadline=deadline))
        orders = [known for way in there_are for known in way.orders]
        if any(known != order and known.partition(".")[0] == brief(token) for known in orders):
            raise _mismatch(spec.name)
        there = next((way for way in there_are if way.rule == rule), None)
        if there is not None and not spec.owner.owns(there.note.tags):
            raise building.taken(spec.name, "an endpoint")
        if there is not None and order in there.orders:
            return self._ordered(there, order)
        note = self._way_note(spec, net, there, order, token=token, deadline=deadline)
        body = ways.rule_body(rule, note, net, sources=self._sources(net))
        if there is None:
            self._open(body, token=token, about=spec.name, deadline=deadline)
        else:
            self._client.call(
                "compute.firewalls.patch", project=self._project, firewall=rule, about=spec.name, deadline=deadline,
                body=body, requestId=request_id(token, "firewalls.patch", rule),
            )  # fmt: skip
        return self._endpoint(Way(note=note, rule=rule, network=net.own_name))

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        rule = ways.rule_name(owner, name)
        item = self._compute.find("firewalls", rule, about=name, deadline=deadline)
        if item is None:
            return Deletion.ALREADY_ABSENT
        way = ways.way_of(item)
        if way is None or not owner.owns(way.note.tags):
            return Deletion.ALREADY_ABSENT
        id = request_id(Token(str(item.get("id", rule))), "firewalls.delete", rule)
        return self._compute.delete("firewalls", rule, about=name, deadline=deadline, requestId=id)

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
        building.claim(
            self._compute, "healthChecks", networks.keeper_body(name, note), about=spec.name, deadline=deadline
        )
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

    def _make(
        self, spec: NetworkSpec, owner: Owner, every: tuple[Net, ...], cidr: str, *, token: Token, wanted: str,
        deadline: datetime,
    ) -> Net:  # fmt: skip
        """Make a network without its parts; return it as it is there, for a call with this token may have been faster."""
        region, own_name = spec.region or self._region, resource_name(owner, spec.name)
        cidr = cidr or networks.free_range((each.cidr for each in every), start=f"{own_name}{token}")
        note = note_of(
            owner, spec.name, spec.tags, token=token, wanted=wanted,
            more={"kind": "network", "mode": spec.mode.value, "cidr": cidr, "region": region},
        )  # fmt: skip
        body = networks.network_body(own_name, note)
        item = building.claim(self._compute, "networks", body, about=spec.name, deadline=deadline)
        net = networks.made(item, project=self._project, region=region)
        if net is None or net.note.wanted != wanted:
            raise _mismatch(spec.name)
        return net

    def _check_overlap(self, cidr: str, every: tuple[Net, ...]) -> None:
        wanted = ipaddress.ip_network(cidr) if cidr else None
        for net in every:
            if wanted is not None and net.cidr and ipaddress.ip_network(net.cidr).overlaps(wanted):
                raise Conflict(
                    f"{cidr} overlaps {net.cidr} of the network {net.note.name}", reason="IN_USE", resource=net.note.name,
                    hint="choose another range",
                )  # fmt: skip

    def _owned(self, name: str, owner: Owner, *, deadline: datetime) -> Net:
        net = networks.find(self._compute, name, owner=owner, region=self._region, deadline=deadline)
        if net is None or not owner.owns(net.note.tags):
            raise NotFound(f"there is no network {name}", reason="RESOURCE", resource=name)
        return net

    def _show(self, net: Net, there_are: Iterable[Way]) -> Network:
        mine = tuple(self._endpoint(way) for way in there_are if way.network == net.own_name)
        return Network(
            name=net.note.name, owner=net.note.owner(), id=net.path, mode=net.mode, adopted=net.adopted, endpoints=mine
        )

    # Ways in -------------------------------------------------------------------------------------------------------

    def _ways(self, *, deadline: datetime) -> Iterator[Way]:
        """Yield every way in of the project that is ours, whoever of us has it."""
        for item in self._compute.every("firewalls", deadline=deadline):
            way = ways.way_of(item)
            if way is not None:
                yield way

    def _open(self, body: Mapping[str, Any], *, token: Token, about: str, deadline: datetime) -> None:
        """Make a rule. One of that name that is there with the same note was made by this call, whose answer was lost."""
        rule = str(body["name"])
        id = request_id(token, "firewalls.insert", rule)
        try:
            operation = self._compute.insert("firewalls", body, about=about, deadline=deadline, requestId=id)
        except AlreadyExists as error:
            item = self._compute.find("firewalls", rule, deadline=deadline)
            if item is None:
                raise Conflict(f"{about} is being withdrawn", reason="BEING_DELETED", resource=about) from error
            found, ours = parse(item.get("description")), parse(body["description"])
            if found is None or ours is None or found.token != ours.token:
                raise building.taken(about, "an endpoint", "FOREIGN" if found is None else "OWNED") from error
            return
        # An operation that has ended already may be an old one's, and what it made be gone by now.
        is_done = operations.done(operation, resource=about)
        if is_done and self._compute.find("firewalls", rule, deadline=deadline) is None:
            raise Conflict(
                f"{about} was made with this token and has been deleted", reason="TOKEN_SPENT", resource=about,
                hint="mint a new token",
            )  # fmt: skip

    def _reachable(self, spec: EndpointSpec, *, deadline: datetime) -> Net:
        net = networks.find(self._compute, spec.network, owner=spec.owner, region=self._region, deadline=deadline)
        if net is None:
            raise NotFound(f"there is no network {spec.network}", reason="REFERENCE", resource=spec.network)
        return net

    def _way_note(
        self, spec: EndpointSpec, net: Net, there: Way | None, order: str, *, token: Token, deadline: datetime
    ) -> Note:
        """Return the note of a way in: where it leads, and the orders that it has had, the newest last."""
        public = self._public_address(spec.target_address, deadline=deadline) if net.mode is NetworkMode.PUBLIC else ""
        orders = (*(there.orders if there is not None else ()), order)[-ways.ORDERS :]
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
            "compute.instances.aggregatedList", project=self._project, deadline=deadline, maxResults=PAGE,
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
        return self._settings.ingress_ranges or (ways.ANYBODY if net.mode is NetworkMode.PUBLIC else ways.PRIVATE)

    def _endpoint(self, way: Way) -> Endpoint:
        return Endpoint(
            name=way.note.name, owner=way.note.owner(), state=EndpointState.READY,
            url=f"https://{way.reached_at}:{way.port}",
        )  # fmt: skip


def _known(every: tuple[Net, ...], name: str, own_name: str, *, token: Token, wanted: str) -> Net | None:
    """Return what an earlier call with this token made. Raises Conflict and AlreadyExists."""
    for net in every:
        if net.note.token == brief(token) and net.note.wanted != wanted:
            raise _mismatch(name)
    found = next((net for net in every if net.own_name == own_name), None)
    if found is not None and found.note.token != brief(token):
        raise building.taken(name, "a network")
    return found


def _mismatch(name: str) -> Conflict:
    return Conflict(
        "the token stands for another request",
        reason="TOKEN_MISMATCH",
        resource=name,
        hint="mint a token for each request",
    )
