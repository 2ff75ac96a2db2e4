"""Objects and uploads of a bucket, whatever API they come by: generations, preconditions, pages, who may."""

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs

from anyscale_conformance.simulators.gcp import boundaries, policies
from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.tokens import Guard, unauthenticated
from anyscale_conformance.simulators.gcp.world import Blob, Bucket, Project, Upload

NAME_BYTES = 1024
PARTS = 10_000
LEAST = 5 * 1024 * 1024
"""The least size of a part that is not the last."""


@attrs.frozen(kw_only=True)
class Conditions:
    """Under which conditions a request holds: generations, where 0 means that there is no such object, and ETags."""

    generation: int | None = None
    generation_not: int | None = None
    metageneration: int | None = None
    matches: tuple[str, ...] = ()
    matches_not: tuple[str, ...] = ()

    def check(self, blob: Blob | None, *, reads: bool = False) -> None:
        """Raise 412 when they do not hold; 304 when only a reader's own copy is current."""
        now = 0 if blob is None else blob.generation
        tag = "" if blob is None else etag(blob)
        fails = (
            (self.generation is not None and self.generation != now)
            or (self.metageneration is not None and self.metageneration != (blob.metageneration if blob else 0))
            or (bool(self.matches) and tag not in self.matches and not ("*" in self.matches and blob is not None))
        )
        current = (self.generation_not is not None and self.generation_not == now) or (
            bool(self.matches_not) and blob is not None and ("*" in self.matches_not or tag in self.matches_not)
        )
        if current and reads and not fails:
            raise ApiError(304, "notModified", "Not Modified", code="NotModified")
        if fails or current:
            raise ApiError(
                412,
                "conditionNotMet",
                "At least one of the pre-conditions you specified did not hold.",
                code="PreconditionFailed",
            )


@attrs.frozen(kw_only=True)
class Access:
    """Who does something to a bucket. ``signer``: of a signed URL, whose rights count."""

    cloud: Cloud = attrs.field(repr=False)
    project: Project = attrs.field(repr=False)
    bucket: Bucket = attrs.field(repr=False)
    caller: Caller

    def must(self, permission: str, *, key: str | None = None, prefix: str = "", delimiter: str = "") -> None:
        """Raise 401 or 403 unless the caller may; anybody who is somebody may, while permissions are not enforced."""
        self.project.asked.add(permission)
        is_open = self.cloud.guard is Guard.OPEN or (self.cloud.guard is Guard.TOKENS and bool(self.caller.member))
        asked: dict[str, Any] = {"key": key, "prefix": prefix, "delimiter": delimiter}
        if _is_within(self.bucket, self.caller, permission, **asked) and (
            is_open or may(self.cloud, self.project, self.bucket, self.caller, permission, **asked)
        ):
            return
        if not self.caller.member:
            raise unauthenticated("storage")
        where = "objects" if key is not None else "buckets"
        message = (
            f"{self.caller.email} does not have {permission} access to the Google Cloud Storage {where.rstrip('s')}. Permission "
            f"'{permission}' denied on resource (or it may not exist)."
        )
        raise ApiError(403, "forbidden", message, code="AccessDenied")


def may(
    cloud: Cloud, project: Project, bucket: Bucket, caller: Caller, permission: str, *, key: str | None = None,
    prefix: str = "", delimiter: str = "",
) -> bool:  # fmt: skip
    """Return whether somebody may do something to an object, or to the bucket, by IAM alone."""
    attributes = _attributes(bucket, key=key, prefix=prefix, delimiter=delimiter)
    return policies.permitted(cloud, caller, permission, project, [policy_key(bucket.name)], attributes)


def _is_within(bucket: Bucket, caller: Caller, permission: str, **asked: Any) -> bool:
    return boundaries.within(caller, permission, bucket.name, _attributes(bucket, **asked))


def _attributes(bucket: Bucket, *, key: str | None, prefix: str, delimiter: str) -> Mapping[str, Mapping[str, str]]:
    """Return what conditions look at."""
    name = f"projects/_/buckets/{bucket.name}"
    kind = "Bucket"
    if key is not None:
        name, kind = f"{name}/objects/{key}", "Object"
    resource = {"name": name, "type": f"storage.googleapis.com/{kind}", "service": "storage.googleapis.com"}
    api = {"storage.googleapis.com/objectListPrefix": prefix, "storage.googleapis.com/objectListDelimiter": delimiter}
    return {"resource": resource, "api": api}


def policy_key(bucket: str) -> str:
    """Return what a bucket's policy is kept by."""
    return f"b/{bucket}"


def find(project: Project, bucket: Bucket, key: str) -> Blob | None:
    """Return an object that is there; one that the bucket's rules have expired is not."""
    blob = bucket.objects.get(key)
    if blob is not None and _is_expired(project, bucket, blob):
        del bucket.objects[key]
        return None
    return blob


def get(project: Project, bucket: Bucket, key: str, *, generation: str = "") -> Blob:
    """Return an object. Raises 404."""
    blob = find(project, bucket, key)
    if blob is None or (generation and generation != str(blob.generation)):
        raise ApiError(404, "notFound", f"No such object: {bucket.name}/{key}", code="NoSuchKey")
    return blob


def put(
    project: Project, bucket: Bucket, key: str, data: bytes, *, conditions: Conditions, headers: Mapping[str, str],
    metadata: Mapping[str, str], md5: str = "",
) -> Blob:  # fmt: skip
    """Put an object. Raises 400 for a name that is none, or a digest that is not the data's; 412 by its conditions."""
    if not key or len(key.encode()) > NAME_BYTES or "\n" in key or "\r" in key or key in (".", ".."):
        raise ApiError(400, "invalid", "The specified object name is not valid.", code="InvalidObjectName")
    conditions.check(find(project, bucket, key))
    digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    if md5 and md5 != digest:
        message = f'Provided MD5 hash "{md5}" doesn\'t match calculated MD5 hash "{digest}".'
        raise ApiError(400, "invalid", message, code="BadDigest")
    blob = Blob(
        name=key, data=data, generation=_generation(project), md5=digest, created_at=project.now, headers=dict(headers),
        metadata=dict(metadata),
    )  # fmt: skip
    bucket.objects[key] = blob
    return blob


def delete(project: Project, bucket: Bucket, key: str, *, conditions: Conditions, generation: str = "") -> None:
    """Delete an object. Raises 404, and 412 by its conditions."""
    blob = get(project, bucket, key, generation=generation)
    conditions.check(blob)
    del bucket.objects[key]


def listed(
    project: Project, bucket: Bucket, *, prefix: str, delimiter: str, after: str, before: str = "", size: int
) -> tuple[Sequence[Blob], Sequence[str], str]:
    """Return a page: objects, common prefixes (both in the order of names), and what the next page comes after."""
    blobs: list[Blob] = []
    prefixes: list[str] = []
    last = ""
    for key in sorted(bucket.objects, key=str.encode):
        if (
            not key.startswith(prefix)
            or key <= after
            or (before and key >= before)
            or find(project, bucket, key) is None
        ):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: end + len(delimiter)] if end >= 0 else ""
        if common and (common in prefixes or (after.startswith(common) and after.endswith(delimiter))):
            continue
        if len(blobs) + len(prefixes) == size:
            return blobs, prefixes, last
        last = common or key
        if common:
            prefixes.append(common)
        else:
            blobs.append(bucket.objects[key])
    return blobs, prefixes, ""


def begin(
    project: Project, bucket: Bucket, key: str, headers: Mapping[str, str], metadata: Mapping[str, str]
) -> Upload:
    """Begin an upload in parts."""
    upload = Upload(
        id=secrets.token_urlsafe(30), name=key, started_at=project.now, headers=dict(headers), metadata=dict(metadata)
    )
    bucket.uploads[upload.id] = upload
    return upload


def upload_of(bucket: Bucket, key: str, id: str) -> Upload:
    """Return an upload in parts. Raises 404."""
    upload = bucket.uploads.get(id)
    if upload is None or upload.name != key:
        raise ApiError(404, "notFound", "The specified multipart upload does not exist.", code="NoSuchUpload")
    return upload


def finish(
    project: Project, bucket: Bucket, upload: Upload, parts: Sequence[tuple[int, str]], conditions: Conditions
) -> Blob:
    """Make one object of the parts that are named, in their order. Raises 400 for parts that are not there or too small."""
    numbers = [number for number, _ in parts]
    if not parts or numbers != sorted(set(numbers)):
        raise ApiError(400, "invalid", "The list of parts was not in ascending order.", code="InvalidPartOrder")
    for number, tag in parts:
        if number not in upload.parts or part_tag(upload.parts[number]) != tag.strip('"'):
            raise ApiError(400, "invalid", "One or more of the specified parts could not be found.", code="InvalidPart")
        if number != numbers[-1] and len(upload.parts[number]) < LEAST:
            raise ApiError(
                400, "invalid", "Your proposed upload is smaller than the minimum size.", code="EntityTooSmall"
            )
    data = b"".join(upload.parts[number] for number in numbers)
    blob = put(
        project, bucket, upload.name, data, conditions=conditions, headers=upload.headers, metadata=upload.metadata
    )
    del bucket.uploads[upload.id]
    return blob


def etag(blob: Blob) -> str:
    """Return an object's ETag as the XML API has it: the MD5 of its data."""
    return base64.b64decode(blob.md5).hex()


def part_tag(data: bytes) -> str:
    """Return a part's ETag."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _generation(project: Project) -> int:
    """Return a new generation: microseconds, and never the same twice."""
    project.generation = max(int(project.now.timestamp() * 1_000_000), project.generation + 1)
    return project.generation


def _is_expired(project: Project, bucket: Bucket, blob: Blob) -> bool:
    for rule in bucket.body.get("lifecycle", {}).get("rule", []):
        condition = rule.get("condition", {})
        if rule.get("action", {}).get("type") != "Delete" or "age" not in condition:
            continue
        prefixes = condition.get("matchesPrefix", [""])
        if any(blob.name.startswith(prefix) for prefix in prefixes) and project.now - blob.created_at >= timedelta(
            days=condition["age"]
        ):
            return True
    return False
