"""Whose a thing is and what it is called, within what Google Cloud takes: names by a rule, labels to filter by, and the
whole of the tags as a note in the description, for labels are narrower than tags (lower case, 63 characters)."""

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cluster import NAME
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.owner import RESERVED_TAGS, TAG_CLOUD, TAG_CLUSTER, TAG_NAME, TAG_PLANE, Owner

DESCRIPTION_MAX = 2048
"""Characters in a description of Compute Engine."""
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
"""cloud.google.com/compute/docs/labeling-resources; letters of other alphabets are allowed there and not used here."""
HASHED = "x--"
"""How a label's value begins that is the hash of a tag's."""
LABELS_MAX = 64
NAME_LABEL = "anyscale-core-name"
_SUFFIX = 10
_NAMESPACE = uuid.UUID("6e1f5a0e-3c0b-5d7c-9a5f-1d6b8f1c2a47")


@attrs.frozen(kw_only=True)
class Note:
    """What a description holds: the tags, the hash of the token that made the thing and of what it was asked to be.

    ``more``: what else a driver has to know again (a mode, a range, whom it adopts).
    """

    tags: Mapping[str, str]
    token: str = ""
    wanted: str = ""
    more: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """The name that the core gave."""
        return self.tags.get(TAG_NAME, "")

    def owner(self) -> Owner:
        """Return whose the thing is."""
        cluster = self.tags.get(TAG_CLUSTER)
        return Owner(
            plane=PlaneId(self.tags.get(TAG_PLANE, "")),
            cloud=CloudName(self.tags.get(TAG_CLOUD, "")),
            cluster=None if cluster is None else ClusterId(cluster),
        )


def note(
    owner: Owner,
    name: str,
    tags: Mapping[str, str],
    *,
    token: Token,
    wanted: str,
    reserved: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> Note:
    """Return the note of a thing that is to be made. Raises InvalidRequest for a tag of the user's that is reserved."""
    stolen = sorted(RESERVED_TAGS.intersection(tags))
    if stolen:
        raise InvalidRequest(
            f"the tags {', '.join(stolen)} are reserved", reason="FIELD", resource=name, hint="choose other keys"
        )
    whole = {**tags, **owner.tags(), TAG_NAME: name, **(reserved or {})}
    return Note(tags=whole, token=brief(token), wanted=wanted, more=more or {})


def render(note: Note) -> str:
    """Return a note as a description. Raises InvalidRequest for tags that are too long for it."""
    text = json.dumps({"anyscale-core": attrs.asdict(note)}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if len(text) > DESCRIPTION_MAX:
        raise InvalidRequest(
            f"the tags of {note.name} take {len(text)} characters of the {DESCRIPTION_MAX} that a description has",
            reason="FIELD", resource=note.name, hint="use fewer or shorter tags",
        )  # fmt: skip
    return text


def parse(description: str | None) -> Note | None:
    """Return the note that a description holds; None for one that is not ours."""
    if not description or not description.startswith('{"anyscale-core":'):
        return None
    try:
        return wire.structure(json.loads(description)["anyscale-core"], Note, subject="description")
    except (ValueError, KeyError, TypeError, SpecError):
        return None


def labels(note: Note) -> dict[str, str]:
    """Return the labels of a thing: its owner's and its name, and as many of the user's as labels can hold."""
    own = {key: note.tags[key] for key in sorted(RESERVED_TAGS - {TAG_NAME}) if key in note.tags}
    found = {key: label_value(value) for key, value in (own | {NAME_LABEL: note.name}).items()}
    theirs = {k: v for k, v in sorted(note.tags.items()) if k not in RESERVED_TAGS and LABEL_KEY.fullmatch(k)}
    for key, value in theirs.items():
        if len(found) < LABELS_MAX and LABEL_VALUE.fullmatch(value):
            found.setdefault(key, value)
    return found


def label_value(value: str) -> str:
    """Return a tag's value as a label has it: as it is when it can be, else its hash."""
    if LABEL_VALUE.fullmatch(value) and not value.startswith(HASHED):
        return value
    return f"{HASHED}{brief(value)}"


def label_filter(owner: Owner) -> str:
    """Return the filter of a list of Compute Engine for what an owner has."""
    return " AND ".join(f'(labels.{key} = "{label_value(value)}")' for key, value in sorted(owner.tags().items()))


def resource_name(owner: Owner, name: str, *, shown: str = "") -> str:
    """Return what the cloud calls a thing of that name: unique in the project, and the same in every process.

    A hash of plane, cloud and name ends it, for several planes may share a project; before it is what people read: ``shown``
    or the name, cut when it is long.
    """
    mark = brief(f"{owner.plane}\0{owner.cloud}\0{name}")[:_SUFFIX]
    return f"{(shown or name)[: 62 - _SUFFIX]}-{mark}"


def owner_mark(owner: Owner) -> str:
    """Return what the names of buckets and service accounts of a plane's cloud begin with, after their own prefix."""
    return brief(f"{owner.plane}\0{owner.cloud}")[:_SUFFIX]


def brief(text: str) -> str:
    """Return a hash of 20 letters and digits (100 bits)."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:20]


def fingerprint(*values: object) -> str:
    """Return a hash of what was asked for; equal for equal values in every process."""
    plain = [wire.unstructure_revealed(value) for value in values]
    return brief(json.dumps(plain, sort_keys=True, default=str))


def request_id(token: Token, *parts: str) -> str:
    """Return the UUID by which Compute Engine knows a request again, the same in every process, another for each part."""
    return str(uuid.uuid5(_NAMESPACE, "\0".join((token, *parts))))


def check_name(name: str, what: str) -> None:
    """Raise InvalidRequest(NAME) for a name that is none."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is not a name for {what}", reason="NAME",
            hint="up to 63 of a-z, 0-9 and '-', a letter first, no '-' at the end",
        )  # fmt: skip


def plain(value: Any) -> str:
    """Return the last part of a URL of Compute Engine: the name of what it is about."""
    return str(value or "").rstrip("/").rsplit("/", 1)[-1]
