"""Buckets as Cloud Storage has them. Names are the world's, so ours are minted by a rule; labels say whose they are.

A bucket that was adopted is remembered by an empty bucket of ours whose labels name it; the customer's is not touched.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest, NotFound
from anyscale_core.models.owner import TAG_NAME, Owner
from anyscale_core.models.storage import BucketSpec
from anyscale_gcp.client import Client
from anyscale_gcp.tags import HASHED, LABEL_KEY, LABEL_VALUE, LABELS_MAX, NAME_LABEL, Note, brief, owner_mark
from anyscale_gcp.tags import note as note_of

PREFIX = "ac-"
PAGE = 1000
"""The most that Cloud Storage puts on a page."""
TOKEN_LABEL = "anyscale-core-token"
WANTED_LABEL = "anyscale-core-wanted"
ADOPTS_LABEL = "anyscale-core-adopts"
OURS = frozenset({NAME_LABEL, TOKEN_LABEL, WANTED_LABEL, ADOPTS_LABEL})
URL = re.compile(r"gs://(?P<name>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/?")
FIELDS = "name,location,labels,iamConfiguration,timeCreated"


@attrs.frozen(kw_only=True)
class Kept:
    """A bucket that is ours or that we adopted: our own name of it, whose it is, and where it really is."""

    note: Note
    bucket: str
    """Our own bucket; of an adopted one, what remembers it."""
    region: str
    adopts: str = ""

    @property
    def place(self) -> str:
        """The bucket that objects are in."""
        return self.adopts or self.bucket


def bucket_name(owner: Owner, name: str) -> str:
    """Return what a bucket of that name is called in the world: the same in every process, 63 characters at most."""
    return f"{PREFIX}{owner_mark(owner)}-{name[:38].rstrip('-')}-{brief(name)[:10]}"


def body_of(spec: BucketSpec, note: Note, *, bucket: str, region: str, adopts: str = "") -> dict[str, Any]:
    """Return the body of an insert: private, uniform, tagged, with nothing kept of what is deleted."""
    rules = []
    if spec.expire_days and not adopts:
        rules.append({"action": {"type": "Delete"}, "condition": {"age": spec.expire_days}})
    # Parts of uploads that nobody finished would be paid for and never be seen.
    rules.append({"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}})
    body: dict[str, Any] = {
        "name": bucket,
        "location": region.upper(),
        "storageClass": "STANDARD",
        "labels": labels_of(note, adopts=adopts),
        "iamConfiguration": {
            "uniformBucketLevelAccess": {"enabled": True},
            "publicAccessPrevention": "enforced",
        },
        "lifecycle": {"rule": rules},
        "softDeletePolicy": {"retentionDurationSeconds": "0"},
    }
    if spec.cors_origins:
        methods = ["GET", "HEAD", "PUT"]
        headers = ["Content-Type", "ETag", "Content-Length"]
        body["cors"] = [
            {"origin": list(spec.cors_origins), "method": methods, "responseHeader": headers, "maxAgeSeconds": 3600}
        ]
    return body


def note_for(spec: BucketSpec, owner: Owner, *, token: Any, wanted: str) -> Note:
    """Return the note of a bucket. Raises InvalidRequest for tags that are reserved or that no label can hold."""
    found = note_of(owner, spec.name, spec.tags, token=token, wanted=wanted)
    if len(spec.tags) > LABELS_MAX - len(OURS) - 3 or not all(LABEL_KEY.fullmatch(key) for key in spec.tags):
        raise InvalidRequest(
            "a bucket's labels cannot hold these tags", reason="FIELD", resource=spec.name,
            hint="use at most 57 keys of a-z, 0-9, '_' and '-', a letter first",
        )  # fmt: skip
    return found


def labels_of(note: Note, *, adopts: str = "") -> dict[str, str]:
    """Return a bucket's labels, which hold all there is to know of it. Raises InvalidRequest for a value that is too long."""
    tags = {key: value for key, value in note.tags.items() if key != TAG_NAME}
    found = {key: encode(value) for key, value in tags.items()}
    found |= {NAME_LABEL: encode(note.name), TOKEN_LABEL: note.token, WANTED_LABEL: note.wanted}
    if adopts:
        found |= {f"{ADOPTS_LABEL}-{number}": part for number, part in enumerate(_parts(adopts))}
    return found


def read(item: Mapping[str, Any]) -> Kept | None:
    """Return a bucket as Cloud Storage shows it; None for one that is not ours."""
    labels = dict(item.get("labels") or {})
    if NAME_LABEL not in labels or TOKEN_LABEL not in labels:
        return None
    parts = sorted(key for key in labels if key.startswith(f"{ADOPTS_LABEL}-"))
    adopts = "".join(labels[key] for key in parts)
    own = OURS.union(parts)
    tags = {key: decode(value) for key, value in labels.items() if key not in own}
    tags[TAG_NAME] = decode(labels[NAME_LABEL])
    note = Note(tags=tags, token=labels[TOKEN_LABEL], wanted=labels.get(WANTED_LABEL, ""))
    return Kept(
        note=note, bucket=str(item["name"]), region=str(item.get("location", "")).lower(),
        adopts=decode(adopts) if adopts else "",
    )  # fmt: skip


def encode(value: str) -> str:
    """Return a value as a label can have it, from which it can be had back. Raises InvalidRequest when it is too long."""
    if LABEL_VALUE.fullmatch(value) and not value.startswith(HASHED):
        return value
    found = f"{HASHED}{base64.b32encode(value.encode()).decode().lower().rstrip('=')}"
    if len(found) > 63:
        raise InvalidRequest(
            f"{value!r} is too long for a label",
            reason="FIELD",
            hint="use up to 63 of a-z, 0-9, '_' and '-', or 37 others",
        )
    return found


def decode(label: str) -> str:
    """Return what ``encode`` was given."""
    if not label.startswith(HASHED):
        return label
    text = label.removeprefix(HASHED).upper()
    try:
        return base64.b32decode(text + "=" * (-len(text) % 8)).decode()
    except ValueError:
        return label


def find(client: Client, name: str, *, owner: Owner, deadline: datetime) -> Kept | None:
    """Return a bucket of the owner's; None when there is none, or somebody else has it."""
    kept = _get(client, bucket_name(owner, name), deadline=deadline)
    return kept if kept is not None and owner.owns(kept.note.tags) else None


def every(client: Client, owner: Owner, *, deadline: datetime) -> Iterator[Kept]:
    """Yield every bucket of the owner's plane and cloud, each once, whichever cluster has it."""
    whole = attrs.evolve(owner, cluster=None)
    seen: set[str] = set()
    pages = client.pages(
        "storage.buckets.list", project=client.settings.project, prefix=f"{PREFIX}{owner_mark(owner)}-", maxResults=PAGE,
        fields=f"nextPageToken,items({FIELDS})", deadline=deadline,
    )  # fmt: skip
    for page in pages:
        for item in page.get("items", ()):
            kept = read(item)
            if kept is not None and kept.bucket not in seen and whole.owns(kept.note.tags):
                seen.add(kept.bucket)
                yield kept


def is_public(item: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    """Tell whether anybody can read a bucket: by its policy, unless public access is prevented."""
    if item.get("iamConfiguration", {}).get("publicAccessPrevention") == "enforced":
        return False
    everybody = {"allUsers", "allAuthenticatedUsers"}
    return any(everybody.intersection(each.get("members", ())) for each in policy.get("bindings", ()))


def _get(client: Client, bucket: str, *, deadline: datetime) -> Kept | None:
    try:
        return read(client.call("storage.buckets.get", bucket=bucket, fields=FIELDS, about=bucket, deadline=deadline))
    except NotFound:
        return None


def _parts(text: str) -> list[str]:
    """Return a text of any length as values of labels."""
    coded = f"{HASHED}{base64.b32encode(text.encode()).decode().lower().rstrip('=')}"
    return [coded[start : start + 63] for start in range(0, len(coded), 63)]
