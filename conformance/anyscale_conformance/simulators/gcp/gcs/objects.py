"""Objects, by the JSON API."""

import json
import re
from urllib.parse import quote

from anyscale_conformance.simulators.gcp import filters
from anyscale_conformance.simulators.gcp.answers import zulu
from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.gcs import store
from anyscale_conformance.simulators.gcp.gcs.store import Access, Conditions
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.server import Answer, Request
from anyscale_conformance.simulators.gcp.world import Blob, Bucket

HEADERS = {
    "contentType": "content-type", "contentEncoding": "content-encoding", "contentLanguage": "content-language",
    "contentDisposition": "content-disposition", "cacheControl": "cache-control",
}  # fmt: skip
"""What an object's fields are called in headers."""


@handles("storage.objects.get")
def get(call: Call) -> Json:
    """Answer with what an object is."""
    bucket = _bucket(call)
    access(call, bucket).must("storage.objects.get", key=call.params["object"])
    blob = store.get(call.project, bucket, call.params["object"], generation=call.params.get("generation", ""))
    conditions(call).check(blob, reads=True)
    return shown(bucket, blob)


@handles("storage.objects.list")
def list_objects(call: Call) -> Json:
    """Answer with a page of the objects."""
    bucket, prefix, delimiter = _bucket(call), call.params.get("prefix", ""), call.params.get("delimiter", "")
    access(call, bucket).must("storage.objects.list", prefix=prefix, delimiter=delimiter)
    after = filters.token_text(call.params.get("pageToken", ""), scope=f"{prefix}\n{delimiter}")
    blobs, prefixes, more = store.listed(
        call.project, bucket, prefix=prefix, delimiter=delimiter, after=after, before=call.params.get("endOffset", ""),
        size=min(call.number("maxResults", 1000) or 1000, 1000),
    )  # fmt: skip
    answer: Json = {"kind": "storage#objects"}
    answer |= {"items": [shown(bucket, blob) for blob in blobs]} if blobs else {}
    answer |= {"prefixes": list(prefixes)} if prefixes else {}
    return answer | ({"nextPageToken": filters.text_token(more, scope=f"{prefix}\n{delimiter}")} if more else {})


@handles("storage.objects.delete")
def delete(call: Call) -> None:
    """Delete an object."""
    bucket, key = _bucket(call), call.params["object"]
    access(call, bucket).must("storage.objects.delete", key=key)
    store.delete(call.project, bucket, key, conditions=conditions(call), generation=call.params.get("generation", ""))


@handles("storage.objects.rewrite", "storage.objects.copy")
def rewrite(call: Call) -> Json:
    """Copy an object, also to another bucket, in one go."""
    source = call.cloud.bucket(call.params["sourceBucket"])
    target = call.cloud.bucket(call.params["destinationBucket"])
    key = call.params["destinationObject"]
    access(call, source).must("storage.objects.get", key=call.params["sourceObject"])
    blob = store.get(call.project, source, call.params["sourceObject"])
    access(call, target).must("storage.objects.create", key=key)
    headers = {HEADERS[name]: str(value) for name, value in call.body.items() if name in HEADERS} or blob.headers
    made = store.put(
        call.project, target, key, blob.data, conditions=conditions(call), headers=headers,
        metadata=call.body.get("metadata", blob.metadata),
    )  # fmt: skip
    if call.method.id.endswith("copy"):
        return shown(target, made)
    size = str(len(made.data))
    return {
        "kind": "storage#rewriteResponse", "done": True, "objectSize": size, "totalBytesRewritten": size,
        "resource": shown(target, made),
    }  # fmt: skip


def upload(call: Call, request: Request) -> Json:
    """Put an object whose data came with its description (``uploadType=multipart``) or alone (``media``).

    Raises 501 for a resumable one: the clients of this project have the XML API for what is large.
    """
    bucket, kind = _bucket(call), call.params.get("uploadType", "media")
    described: Json = {"contentType": request.headers.get("content-type", "application/octet-stream")}
    data = request.body
    if kind == "multipart":
        first, data, kind = _parts(request)
        described = {"contentType": kind, **first}
    elif kind != "media":
        raise ApiError(501, "notImplemented", f"this simulator has no uploads of type {kind}")
    key = call.params.get("name") or str(described.get("name", ""))
    access(call, bucket).must("storage.objects.create", key=key)
    headers = {HEADERS[name]: str(value) for name, value in described.items() if name in HEADERS}
    blob = store.put(
        call.project, bucket, key, data, conditions=conditions(call), headers=headers,
        metadata=described.get("metadata", {}), md5=str(described.get("md5Hash", "")),
    )  # fmt: skip
    return shown(bucket, blob)


def _parts(request: Request) -> tuple[Json, bytes, str]:
    """Return the description, the data and their type of a multipart/related body."""
    boundary = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    pieces = request.body.split(f"--{boundary[1]}".encode()) if boundary else []
    if len(pieces) != 4:
        raise ApiError(400, "invalid", "A multipart upload has two parts.")
    described, (head, data) = pieces[1].replace(b"\r\n", b"\n"), _halves(pieces[2])
    found = re.search(rb"content-type:\s*(\S+)", head, re.IGNORECASE)
    kind = found[1].decode() if found else "application/octet-stream"
    return json.loads(described.partition(b"\n\n")[2]), data, kind


def _halves(piece: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body of a part; its last line break belongs to the boundary."""
    line = b"\r\n" if piece.startswith(b"\r\n") else b"\n"
    head, _, body = piece.removeprefix(line).partition(line * 2)
    return head, body.removesuffix(line)


def media(call: Call) -> Answer | None:
    """Answer with an object's data, when that is what is asked for (``alt=media``); ``get`` has looked at all else."""
    if call.method.id != "storage.objects.get" or call.params.get("alt") != "media":
        return None
    bucket = _bucket(call)
    blob = store.get(call.project, bucket, call.params["object"])
    kind = blob.headers.get("content-type", "application/octet-stream")
    return Answer(
        body=bucket.carried(blob.data), headers={"Content-Type": kind, "x-goog-generation": str(blob.generation)}
    )


def shown(bucket: Bucket, blob: Blob) -> Json:
    """Return an object as the API describes it."""
    link = f"b/{bucket.name}/o/{quote(blob.name, safe='')}"
    body: Json = {
        "kind": "storage#object", "id": f"{bucket.name}/{blob.name}/{blob.generation}", "name": blob.name,
        "bucket": bucket.name, "generation": str(blob.generation), "metageneration": str(blob.metageneration),
        "size": str(len(blob.data)), "md5Hash": blob.md5, "storageClass": bucket.body["storageClass"],
        "etag": f"C{blob.generation:x}=", "timeCreated": zulu(blob.created_at), "updated": zulu(blob.created_at),
        "selfLink": f"https://www.googleapis.com/storage/v1/{link}",
        "mediaLink": f"https://storage.googleapis.com/download/storage/v1/{link}?generation={blob.generation}&alt=media",
    }  # fmt: skip
    body |= {name: blob.headers[header] for name, header in HEADERS.items() if header in blob.headers}
    return body | ({"metadata": dict(blob.metadata)} if blob.metadata else {})


def access(call: Call, bucket: Bucket) -> Access:
    """Return the caller's way to a bucket."""
    project = call.cloud.projects[call.cloud.home_of(bucket.name)]
    return Access(cloud=call.cloud, project=project, bucket=bucket, caller=call.caller)


def conditions(call: Call) -> Conditions:
    """Return the conditions of a call."""

    def number(name: str) -> int | None:
        return int(call.params[name]) if name in call.params else None

    return Conditions(
        generation=number("ifGenerationMatch"), generation_not=number("ifGenerationNotMatch"),
        metageneration=number("ifMetagenerationMatch"),
    )  # fmt: skip


def _bucket(call: Call) -> Bucket:
    return call.project.buckets[call.params["bucket"]]
