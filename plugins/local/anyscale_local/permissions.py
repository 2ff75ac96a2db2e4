"""The least that this machine must allow: pure, and without a wildcard."""

from collections.abc import Iterable
from pathlib import Path

from anyscale_core.models.identity import Permission

# feature -> (action, where below the state folder, why). Files are the user's own, so no right beyond them is asked for.
NEEDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "cluster.create": (
        ("file:write", "instances", "the record, the bootstrap and the files of each instance"),
        ("file:write", "tokens", "what each idempotency token made"),
        ("process:start", "instances", "the node agent runs as this user"),
    ),
    "cluster.get": (("file:read", "instances", "the record of the instance"),),
    "cluster.list": (("file:read", "instances", "the records of the instances"),),
    "cluster.delete": (
        ("file:write", "instances", "what an instance left is removed"),
        ("process:kill", "instances", "processes of this user that an instance started, found by session and marker"),
    ),
    "cluster.quotas": (("file:read", "instances", "they are counted"),),
    "identity.create": (("file:write", "identities", "the record of the identity"),),
    "identity.get": (("file:read", "identities", "the record of the identity"),),
    "identity.list": (("file:read", "identities", "the records of the identities"),),
    "identity.delete": (("file:write", "identities", "the record of the identity is removed"),),
    "identity.credentials": (("file:read", "machine.pem", "the key that signs"),),
    "identity.prove": (("file:read", "machine.pem", "the key that signs"),),
    "identity.verify": (("file:read", "machine.pem", "the key that signed"),),
    "storage.create": (("file:write", "buckets", "a bucket is a folder"),),
    "storage.get": (("file:read", "bucket-records", "the record of the bucket"),),
    "storage.list": (("file:read", "bucket-records", "the records of the buckets"),),
    "storage.delete": (("file:write", "buckets", "an empty folder is removed"),),
    "storage.grant": (("file:write", "buckets", "a prefix is a folder"),),
    "storage.objects": (("file:write", "buckets", "objects are files"),),
    "networking.create": (("file:write", "networks", "the record of the network"),),
    "networking.get": (("file:read", "networks", "the record of the network"),),
    "networking.list": (("file:read", "networks", "the records of the networks"),),
    "networking.delete": (("file:write", "networks", "the record of the network is removed"),),
    "networking.expose": (("file:write", "endpoints", "the record of the endpoint"),),
    "networking.withdraw": (("file:write", "endpoints", "the record of the endpoint is removed"),),
}


def permissions_for(features: Iterable[str], state: Path) -> tuple[Permission, ...]:
    """Return what these features need of this machine, each once; a feature that it has not got needs nothing."""
    return tuple(
        Permission(action=action, resource=str(state / where), feature=feature, reason=reason)
        for feature in dict.fromkeys(features)
        for action, where, reason in NEEDS.get(feature, ())
    )
