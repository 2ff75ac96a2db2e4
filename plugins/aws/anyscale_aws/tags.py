"""Tags: whose a thing is, what it is called, and which call made it. Render and parse are twins.

A batch of instances is one call, and EC2 gives all of a call the same tags. So the tags of a batch hold its names and node ids
in order, compressed and cut into pieces, and each instance finds its own by its launch index.
"""

import base64
import functools
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest
from anyscale_core.models import wire
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId
from anyscale_core.models.owner import (
    RESERVED_TAGS,
    TAG_CLOUD,
    TAG_CLUSTER,
    TAG_NAME,
    TAG_NODE,
    TAG_PLANE,
    Owner,
)

TAG_TOKEN = "anyscale-core-token"
"""A digest of the idempotency token of the call that made the thing."""
TAG_SPEC = "anyscale-core-spec"
"""A digest of what was asked for."""
TAG_KIND = "anyscale-core-kind"
TAG_BATCH = "anyscale-core-batch-"
"""The names of a batch, in pieces: ...-0, ...-1."""
OWN = "anyscale-core-"
VALUE_MAX = 256
TAGS_MAX = 50
"""Of one thing (EC2 User Guide, "Tag restrictions")."""
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def check_name(name: str, what: str) -> None:
    """Raise InvalidRequest(NAME) for a name that is not a label of DNS."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is no name for {what}", reason="NAME", resource=name[:80],
            hint="1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last",
        )  # fmt: skip


def digest(*parts: object) -> str:
    """Return 20 hex digits that stand for these parts, the same in every process."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]


def fingerprint(spec: Any) -> str:
    """Return a digest of a spec; equal specs have equal ones."""
    return digest(json.dumps(wire.unstructure_revealed(spec), sort_keys=True))


def tagged(user: Mapping[str, str], owner: Owner, name: str, **own: str) -> dict[str, str]:
    """Return the tags of a thing: the user's, beneath the owner's and its name. ``own`` are ours without their prefix."""
    kept = {key: value for key, value in user.items() if key not in RESERVED_TAGS and not key.startswith(OWN)}
    ours = {f"{OWN}{key.replace('_', '-')}": value for key, value in own.items() if value}
    return {**kept, **owner.tags(), TAG_NAME: name, **ours}


def owner_of(tags: Mapping[str, str]) -> Owner:
    """Return whose a thing is by its tags."""
    cluster = tags.get(TAG_CLUSTER)
    return Owner(
        plane=PlaneId(tags.get(TAG_PLANE, "")), cloud=CloudName(tags.get(TAG_CLOUD, "")),
        cluster=ClusterId(cluster) if cluster else None,
    )  # fmt: skip


def shown(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are the user's or the contract's; those that only this plugin reads are left out."""
    return {key: value for key, value in tags.items() if not key.startswith(OWN) or key in RESERVED_TAGS}


def pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def mapping(found: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    """Return tags as AWS shows them."""
    return {each["Key"]: each.get("Value", "") for each in found or ()}


def filters(owner: Owner) -> list[dict[str, Any]]:
    """Return EC2's filters for what is an owner's."""
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in owner.tags().items()]


@attrs.frozen(kw_only=True)
class Member:
    """One instance of a batch: its name and its node."""

    name: str
    node_id: NodeId


def batch_tags(members: Sequence[Member]) -> dict[str, str]:
    """Return the tags that hold the members of a batch, in the order of their launch indices."""
    text = "\n".join(f"{member.name} {member.node_id}" for member in members)
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    pieces = [packed[start : start + VALUE_MAX] for start in range(0, len(packed), VALUE_MAX)]
    return {f"{TAG_BATCH}{number}": piece for number, piece in enumerate(pieces)}


def member_of(tags: Mapping[str, str], index: int) -> Member | None:
    """Return who an instance is by its tags and its launch index; None for one that says nothing of it."""
    pieces: list[str] = []
    while (piece := tags.get(f"{TAG_BATCH}{len(pieces)}")) is not None:
        pieces.append(piece)
    if pieces:
        return members("".join(pieces))[index]
    if TAG_NODE not in tags:
        return None
    return Member(name=tags.get(TAG_NAME, ""), node_id=NodeId(tags[TAG_NODE]))


@functools.lru_cache(maxsize=256)
def members(packed: str) -> tuple[Member, ...]:
    """Return the members of a batch from what its tags hold together; every instance of it asks for the same."""
    lines = zlib.decompress(base64.b64decode(packed)).decode().split("\n")
    return tuple(Member(name=name, node_id=NodeId(node)) for name, _, node in (line.partition(" ") for line in lines))


__all__ = ["TAG_NAME", "TAG_NODE", "Member", "batch_tags", "check_name", "digest", "fingerprint", "member_of", "tagged"]
