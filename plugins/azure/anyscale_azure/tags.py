"""Owner tags on Azure: whose a resource is, which token made it and what for, and names that cannot collide.

Azure has no idempotency tokens. A name that is derived from the core's own, a create that never overwrites (If-None-Match),
and the tags of the creating call do their work: whoever finds the name taken reads there whether it was this very call.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.errors import AlreadyExists, CloudError, Conflict, InvalidRequest
from anyscale_core.models import wire
from anyscale_core.models.cluster import NAME
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId, Token
from anyscale_core.models.owner import RESERVED_TAGS, TAG_CLOUD, TAG_CLUSTER, TAG_NAME, TAG_NODE, TAG_PLANE, Owner

TAG_TOKEN = "anyscale-core-token"
TAG_REQUEST = "anyscale-core-request"
TAG_LIFE = "anyscale-core-life"
"""A word of chance for each machine that is made: a name that is used anew is another machine, with another disk."""
OURS = RESERVED_TAGS | {TAG_TOKEN, TAG_REQUEST, TAG_LIFE}
PREFIX = "anyscale-core-"
NAME_MAX = 58
"""A virtual machine's name may have 64 characters; six of them keep the clouds of a resource group apart."""
TAGS_MAX = 50
VALUE_MAX = 256
_FORBIDDEN = re.compile(r"[<>%&\\?/]")


@attrs.frozen(kw_only=True)
class Stamp:
    """What the creating call writes beside the owner: a digest of its token, and one of all that it asked for."""

    token: str
    request: str


def stamp(token: Token, wanted: Any) -> Stamp:
    """Return the stamp of a request: ``wanted`` is any value of the contract, or a sequence of such."""
    parts = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    plain = json.dumps([wire.unstructure_revealed(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return Stamp(token=digest(token, length=16), request=digest(plain, length=16))


def digest(*parts: str, length: int = 8) -> str:
    """Return hex digits that are the same on every machine."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def check_owner(owner: Owner) -> None:
    """Raise InvalidRequest for an owner who is nobody: a sweep without an owner would take everything."""
    if not owner.plane or not owner.cloud:
        raise InvalidRequest("the owner names no plane or no cloud", reason="FIELD", hint="give the cloud's owner")


def check_name(name: str) -> None:
    """Raise InvalidRequest(NAME) for what is no name of the contract, or too long for Azure."""
    if not is_name(name):
        hint = f"use small letters, digits and '-', beginning with a letter, at most {NAME_MAX} characters"
        raise InvalidRequest(f"{name!r} is not a name", reason="NAME", resource=name, hint=hint)


def is_name(name: str) -> bool:
    """Tell whether something may be a name of ours: what is none has no path, and is nowhere."""
    return bool(NAME.fullmatch(name)) and len(name) <= NAME_MAX


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise InvalidRequest(FIELD) with every tag of the user's that Azure would not take."""
    bad = [key for key, value in tags.items() if _FORBIDDEN.search(key) or len(key) > 512 or len(value) > VALUE_MAX]
    if bad or len(tags) > TAGS_MAX - len(OURS):
        what = f"tags {', '.join(sorted(bad))}" if bad else f"{len(tags)} tags"
        hint = (
            f"at most {TAGS_MAX - len(OURS)} tags, values of at most {VALUE_MAX} characters, none of <>%&\\?/ in a name"
        )
        raise InvalidRequest(f"Azure does not take the {what}", reason="FIELD", hint=hint)


def named(name: str, owner: Owner) -> str:
    """Return the name in Azure of what the core calls ``name``: one for each cloud of each plane in a resource group."""
    return f"{name}-{suffix(owner)}"


def suffix(owner: Owner) -> str:
    """Return what keeps the names of this plane and cloud apart from those of others."""
    return digest(owner.plane, owner.cloud, length=5)


def written(name: str, owner: Owner, stamp: Stamp, tags: Mapping[str, str], *, node_id: str = "") -> dict[str, str]:
    """Return the tags of a creating call: the user's, and over them ours."""
    check_tags(tags)
    ours = {**owner.tags(), TAG_NAME: name, TAG_TOKEN: stamp.token, TAG_REQUEST: stamp.request}
    if node_id:
        ours[TAG_NODE] = node_id
    # Azure compares the names of tags without their case: a user's "name" would be our "Name".
    taken = {key.lower() for key in ours} | {key.lower() for key in OURS}
    return {**{key: value for key, value in tags.items() if key.lower() not in taken}, **ours}


def shown(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return tags as the core knows them: Azure may change the case of names, and our book-keeping is not shown."""
    ours = {key.lower(): key for key in OURS}
    found = {ours.get(key.lower(), key): value for key, value in (tags or {}).items()}
    return {key: value for key, value in found.items() if key not in (TAG_TOKEN, TAG_REQUEST, TAG_LIFE)}


def stamped(tags: Mapping[str, str] | None) -> Stamp:
    """Return the stamp on a resource; empty where there is none."""
    found = {key.lower(): value for key, value in (tags or {}).items()}
    return Stamp(token=found.get(TAG_TOKEN, ""), request=found.get(TAG_REQUEST, ""))


def life_of(tags: Mapping[str, str] | None) -> str:
    """Return the word of chance on a machine and on what came along with it; empty where there is none."""
    return {key.lower(): value for key, value in (tags or {}).items()}.get(TAG_LIFE, "")


def owner_of(tags: Mapping[str, str]) -> Owner:
    """Return whose a resource is, by its tags as ``shown``."""
    cluster = tags.get(TAG_CLUSTER)
    return Owner(
        plane=PlaneId(tags.get(TAG_PLANE, "")),
        cloud=CloudName(tags.get(TAG_CLOUD, "")),
        cluster=ClusterId(cluster) if cluster else None,
    )


def node_of(tags: Mapping[str, str]) -> NodeId | None:
    """Return the node that a resource was made for."""
    node = tags.get(TAG_NODE)
    return NodeId(node) if node else None


def is_same_cloud(one: Owner, other: Owner) -> bool:
    """Tell whether both are of one cloud of one plane, whatever their clusters."""
    return (one.plane, one.cloud) == (other.plane, other.cloud)


def taken(kind: str, name: str, tags: Mapping[str, str], owner: Owner, wanted: Stamp) -> CloudError | None:
    """Return why a name that is taken is none of ours to return; None when this very request made what has it."""
    theirs, found = owner_of(shown(tags)), stamped(tags)
    if not is_same_cloud(theirs, owner):
        return AlreadyExists(
            f"the {kind} {name} is somebody else's", reason="FOREIGN", resource=name, hint="use another name"
        )
    if found.token != wanted.token or theirs != owner:
        return AlreadyExists(
            f"there is a {kind} {name} already", reason="OWNED", resource=name, hint="use another name"
        )
    if found.request != wanted.request:
        return mismatch(kind, name)
    return None


def mismatch(kind: str, name: str) -> Conflict:
    """Return the error for a token that stood for another request."""
    return Conflict(
        f"the token stands for another request, which made the {kind} {name}", reason="TOKEN_MISMATCH", resource=name,
        hint="mint a new token",
    )  # fmt: skip


def spent(kind: str, name: str) -> Conflict:
    """Return the error for a token whose thing is on its way out."""
    return Conflict(
        f"the {kind} {name} that the token made is being deleted", reason="TOKEN_SPENT", resource=name,
        hint="mint a new token",
    )  # fmt: skip


def superseded(kind: str, name: str) -> Conflict:
    """Return the error for a token whose order a newer one has taken the place of."""
    return Conflict(
        f"a newer order has moved the {kind} {name}", reason="TOKEN_SPENT", resource=name, hint="mint a new token"
    )
