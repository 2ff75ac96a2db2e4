"""Ways in to heads, as the firewall rules that they are."""

import ipaddress
from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.ids import Token
from anyscale_core.models.networking import EndpointSpec
from anyscale_core.models.owner import Owner
from anyscale_gcp.networks import Net
from anyscale_gcp.tags import Note, brief, fingerprint, parse, render, resource_name

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


def order_of(token: Token, spec: EndpointSpec) -> str:
    return f"{brief(token)}.{fingerprint(spec)[:8]}"


def rule_name(owner: Owner, name: str) -> str:
    return resource_name(owner, f"in-{name}")


def rule_body(rule: str, note: Note, net: Net, *, sources: tuple[str, ...]) -> dict[str, Any]:
    address, port = note.more["address"], note.more["port"]
    return {
        "name": rule, "description": render(note), "network": net.path, "direction": "INGRESS", "priority": 900,
        "sourceRanges": list(sources), "destinationRanges": [f"{address}/32"],
        "allowed": [{"IPProtocol": "tcp", "ports": [port]}],
    }  # fmt: skip


def way_of(item: Mapping[str, Any]) -> Way | None:
    note = parse(item.get("description"))
    if note is None or note.more.get("kind") != "endpoint":
        return None
    return Way(note=note, rule=str(item["name"]), network=note.more["network"])


def check_target(spec: EndpointSpec) -> None:
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
