"""How a network of ours comes and goes, part by part. It is there while its VPC network is, which carries the note.

The parts hang on the VPC network, so it is made first and deleted last; in between, other calls may make and delete it too.
Two rules keep that in order: whether the network was made is told by its note alone, and its parts have names that no other
network's parts have, also not those of one that has its name later.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from anyscale_core.errors import AlreadyExists, CloudError, Conflict, InvalidRequest, NotFound, Scope
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import NetworkMode
from anyscale_gcp import networks, operations
from anyscale_gcp.compute import Compute
from anyscale_gcp.networks import Net
from anyscale_gcp.tags import Note, parse, request_id

Part = tuple[str, dict[str, str], dict[str, Any]]
"""A collection, where in it, and the body."""


def claim(compute: Compute, kind: str, body: Mapping[str, Any], *, about: str, deadline: datetime) -> Mapping[str, Any]:
    """Make what carries a note; return it as it is there. Raises AlreadyExists for a name that is taken.

    The request has no ``requestId``: the answer to one that is known again does not tell whether it made something now or
    before. An insert that is accepted did so now; a name that is taken by the same note did so in a call whose answer was lost.
    """
    try:
        operation = compute.insert(kind, body, about=about, deadline=deadline)
    except AlreadyExists as error:
        item = compute.find(kind, str(body["name"]), deadline=deadline)
        if item is None:
            raise Conflict(f"{about} is being deleted", reason="BEING_DELETED", resource=about) from error
        found, ours = parse(item.get("description")), parse(body["description"])
        if found is None or ours is None or found.token != ours.token:
            raise taken(about, kind, "FOREIGN" if found is None else "OWNED") from error
        return item
    operations.done(operation, resource=about)
    return {**body, "id": operation.get("targetId", "")}


def complete(compute: Compute, net: Net, *, is_new: bool, deadline: datetime) -> bool:
    """Make the parts that are not there; return False when the network, or a part of it, was deleted meanwhile.

    ``is_new``: whether none can be there. Raises Conflict(BUSY) while the network itself is being made.
    """
    return all(
        (not is_new and compute.find(kind, net.part_name, deadline=deadline, **where) is not None)
        or _add(compute, net, kind, body, deadline=deadline, **where)
        for kind, where, body in _parts(net)
    )


def tear_down(compute: Compute, net: Net, *, deadline: datetime) -> Deletion:
    """Begin to delete a network and its parts. Raises Conflict: IN_USE while machines are in it, BUSY while it is being made."""
    # The subnetwork goes first: machines in it refuse that, and then all is as it was.
    gone = [_remove(compute, net, kind, net.part_name, deadline=deadline, **where) for kind, where, _ in _parts(net)]
    if Deletion.GOING in gone:
        return Deletion.GOING
    try:
        return _remove(compute, net, "networks", net.own_name, deadline=deadline)
    except Conflict as error:
        if error.reason != "IN_USE" or not _clear(compute, net, deadline=deadline):
            raise
        raise Conflict(
            f"{net.note.name} is being made or used by another call", reason="BUSY", resource=net.note.name,
            vendor=error.vendor,
        ) from error  # fmt: skip


def taken(name: str, what: str, reason: str = "OWNED") -> AlreadyExists:
    """Return the error of a name that something else has."""
    return AlreadyExists(
        f"there is {what} {name} already", reason=reason, resource=name, scope=Scope.RESOURCE,
        hint="delete it, or use another name",
    )  # fmt: skip


def _parts(net: Net) -> Iterator[Part]:
    name, note, place = net.part_name, net.note, {"region": net.region}
    yield "subnetworks", place, networks.subnet_body(name, note, network=net.path, cidr=net.cidr)
    if net.mode is NetworkMode.PRIVATE:
        yield "routers", place, networks.router_body(name, note, network=net.path)
    yield "firewalls", {}, networks.inside_body(name, note, network=net.path, cidr=net.cidr)


def _add(compute: Compute, net: Net, kind: str, body: Mapping[str, Any], *, deadline: datetime, **where: str) -> bool:
    """Make one part; return False when the network or the part was deleted meanwhile."""
    about, id = net.note.name, _request(net, f"{kind}.insert")
    try:
        operation = compute.insert(kind, body, about=about, deadline=deadline, requestId=id, **where)
    except AlreadyExists:
        item = compute.find(kind, net.part_name, deadline=deadline, **where)
        if item is not None and _token(item) != net.note.token:
            raise
        return item is not None
    except (NotFound, InvalidRequest) as error:
        _raise_unless_gone(compute, net, error, deadline=deadline)
        return False
    # An operation that has ended already may be an earlier call's, and what it made be gone by now.
    is_done = operations.done(operation, resource=about)
    return not is_done or compute.find(kind, net.part_name, deadline=deadline, **where) is not None


def _raise_unless_gone(compute: Compute, net: Net, error: CloudError, *, deadline: datetime) -> None:
    item = compute.find("networks", net.own_name, deadline=deadline)
    if item is not None and _token(item) == net.note.token:
        raise error


def _remove(compute: Compute, net: Net, kind: str, name: str, *, deadline: datetime, **where: str) -> Deletion:
    id = _request(net, f"{kind}.delete")
    return compute.delete(kind, name, about=net.note.name, deadline=deadline, requestId=id, **where)


def _clear(compute: Compute, net: Net, *, deadline: datetime) -> bool:
    """Delete what calls left in a network that had its name before; return whether anything of ours is in it."""
    is_used = False
    for kind, where in (
        ("subnetworks", {"region": net.region}),
        ("routers", {"region": net.region}),
        ("firewalls", {}),
    ):
        for item in compute.every(kind, deadline=deadline, **where):
            note = parse(item.get("description"))
            if note is None or not str(item.get("network", "")).endswith(f"/{net.path}"):
                continue
            is_used = True
            if note.more.get("kind") == "network" and note.token != net.note.token:
                compute.delete(kind, str(item["name"]), about=net.note.name, deadline=deadline, **where)
    return is_used


def _request(net: Net, what: str) -> str:
    return request_id(Token(net.number or net.note.token), what, net.note.name)


def _token(item: Mapping[str, Any]) -> str:
    note: Note | None = parse(item.get("description"))
    return "" if note is None else note.token
