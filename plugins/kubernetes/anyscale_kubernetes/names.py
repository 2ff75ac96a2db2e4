"""Names of Kubernetes objects, minted from ours: the same in every process, and apart for every owner."""

import hashlib

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.cluster import NAME
from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner

PREFIX = "anyscale-core"
"""What the names of labels, annotations and field managers begin with."""

OURS = 10
"""Digits that tell the objects of two owners apart."""


def object_name(owner: Owner, name: str) -> str:
    """Return the name of the object that stands for ``name`` of an owner's cloud, whatever cluster it is of.

    A DNS subdomain of at most 74 characters; our name is its beginning (``instance_name`` reads it back).
    """
    return f"{name}-{digest(owner.plane, owner.cloud, name)[:OURS]}"


def instance_name(object_name: str) -> str:
    """Return the name of ours that an object's name was minted from."""
    return object_name[: -OURS - 1]


def short_name(owner: Owner, name: str, slot: str) -> str:
    """Return an object's name of at most 63 characters, where Kubernetes wants a DNS label (Services, ServiceAccounts).

    ``slot``: what it is the name of. A cloud's network, bucket and identity may have one name, and are ConfigMaps all.
    """
    return f"{name[: 63 - OURS - 1].rstrip('-')}-{digest(owner.plane, owner.cloud, slot, name)[:OURS]}"


def manager(*parts: str) -> str:
    """Return a field manager. One per request and object: a second request for the object meets a conflict of managers."""
    return f"{PREFIX}-{digest(*parts)}"


def token_digest(owner: Owner, token: Token) -> str:
    """Return what a token is on labels, where its characters may not be allowed."""
    return digest(owner.plane, owner.cloud, token)


def digest(*parts: str) -> str:
    """Return a short digest of a few words: good in a name, and the same in every process."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def check_name(name: str, kind: str) -> None:
    """Raise InvalidRequest(NAME) for what cannot be a name here."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be the name of {kind}", reason="NAME",
            hint="up to 63 of a-z, 0-9 and '-', a letter first, no '-' at the end",
        )  # fmt: skip
