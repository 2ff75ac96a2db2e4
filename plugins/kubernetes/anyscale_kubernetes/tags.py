"""Tags as labels and annotations. Labels are narrow (63 characters, few of them allowed), so they only select.

What a tag says is in one annotation, word for word. A label carries the value itself where Kubernetes allows it, and a digest
where it does not; whoever selects by a label compares the annotation afterwards.
Source: kubernetes.io/docs/concepts/overview/working-with-objects/labels.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.models import wire
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.owner import RESERVED_TAGS, TAG_CLOUD, TAG_CLUSTER, TAG_NAME, TAG_NODE, TAG_PLANE, Owner
from anyscale_kubernetes.names import PREFIX, token_digest

LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
DIGEST_MARK = "sha256."

SLOT_LABEL = f"{PREFIX}-slot"
"""Which driver made it, and as what: ``cluster``, ``identity``, ``network``, ``endpoint``, ``bucket``."""
TOKEN_LABEL = f"{PREFIX}-token"
KIND_LABEL = f"{PREFIX}-kind"
"""``head`` or ``worker``."""
NETWORK_LABEL = f"{PREFIX}-network"

PAST = f"token.{PREFIX}"
"""The prefix of the labels that every token which made or changed a thing leaves on it."""

TAGS = f"{PREFIX}/tags"
TOKEN = f"{PREFIX}/token"
FINGERPRINT = f"{PREFIX}/fingerprint"
"""A digest of what was asked for with the token: all of a batch, secrets too."""

Body = Mapping[str, Any]
"""A Kubernetes object as plain JSON."""


def label(value: str) -> str:
    """Return the label value of a tag's value: itself where that is allowed, else a digest of it."""
    if LABEL_VALUE.fullmatch(value) and not value.startswith(DIGEST_MARK):
        return value
    return DIGEST_MARK + hashlib.sha256(value.encode()).hexdigest()[:40]


@attrs.frozen(kw_only=True)
class Marks:
    """What tells whose an object is and which request made it."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def marks(
    owner: Owner, name: str, *, slot: str, token: Token, fingerprint: str, tags: Mapping[str, str], node: str = ""
) -> Marks:
    """Return the labels and annotations of a new object; the user's tags cannot take the place of ours."""
    told = {key: value for key, value in tags.items() if key not in RESERVED_TAGS} | owner.tags() | {TAG_NAME: name}
    told |= {TAG_NODE: node} if node else {}
    digest = token_digest(owner, token)
    return Marks(
        labels={
            **{key: label(value) for key, value in owner.tags().items()},
            SLOT_LABEL: slot,
            TOKEN_LABEL: digest,
        },
        annotations={TAGS: json.dumps(told, sort_keys=True), TOKEN: digest, FINGERPRINT: fingerprint},
    )


def selector(owner: Owner, slot: str, **labels: str) -> str:
    """Return the label selector of all that an owner has of a slot."""
    wanted = {key: label(value) for key, value in owner.tags().items()} | {SLOT_LABEL: slot}
    return ",".join(f"{key}={value}" for key, value in (wanted | labels).items())


def annotation(body: Body, key: str) -> str:
    """Return an annotation of an object; empty when it has none."""
    return str((body.get("metadata", {}).get("annotations") or {}).get(key, ""))


def tags_of(body: Body) -> dict[str, str]:
    """Return the tags of an object; none for one that is not ours, or whose annotation somebody has broken."""
    try:
        found = json.loads(annotation(body, TAGS) or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def owner_of(tags: Mapping[str, str]) -> Owner:
    """Return whose a thing with these tags is."""
    cluster = tags.get(TAG_CLUSTER)
    return Owner(
        plane=PlaneId(tags[TAG_PLANE]), cloud=CloudName(tags[TAG_CLOUD]),
        cluster=None if cluster is None else ClusterId(cluster),
    )  # fmt: skip


def whole_cloud(owner: Owner) -> Owner:
    """Return the owner of everything in the owner's cloud: names and tokens are unique there."""
    return attrs.evolve(owner, cluster=None)


def fingerprint(*values: object) -> str:
    """Return a digest of what was asked for; secrets are in it and cannot be read from it."""
    plain = [wire.unstructure_revealed(value) for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
