"""Objects, by the XML API: what obstore's GCSStore speaks.

Source: cloud.google.com/storage/docs/xml-api/reference-methods. A request comes with a token or by a signed URL.
"""

import re
from collections.abc import Callable, Mapping
from email.utils import format_datetime
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import attrs

from anyscale_conformance.simulators.gcp import access, filters
from anyscale_conformance.simulators.gcp.answers import zulu
from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud, Journaled
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.gcs import signing, store
from anyscale_conformance.simulators.gcp.gcs.store import Access, Conditions
from anyscale_conformance.simulators.gcp.server import Answer, Request
from anyscale_conformance.simulators.gcp.world import Blob, Bucket, Project

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
KEPT = ("content-type", "content-encoding", "content-language", "content-disposition", "cache-control")
METADATA = "x-goog-meta-"
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
ANY = "*"


@attrs.frozen(kw_only=True)
class XmlCall:
    """One request for a bucket or an object. ``key`` is empty for the bucket itself."""

    request: Request
    project: Project = attrs.field(repr=False)
    bucket: Bucket = attrs.field(repr=False)
    key: str
    access: Access

    def word(self, name: str, default: str = "") -> str:
        """Return a parameter of the query."""
        return self.request.query.get(name, [default])[-1]

    @property
    def conditions(self) -> Conditions:
        """Return the conditions in the headers."""
        headers = self.request.headers

        def number(name: str) -> int | None:
            return _number(headers[name]) if name in headers else None

        def tags(name: str) -> tuple[str, ...]:
            return tuple(tag.strip().strip('"') for tag in headers[name].split(",")) if name in headers else ()

        return Conditions(
            generation=number("x-goog-if-generation-match"), metageneration=number("x-goog-if-metageneration-match"),
            matches=tags("if-match"), matches_not=tags("if-none-match"),
        )  # fmt: skip


def answer(cloud: Cloud, request: Request) -> Answer:
    """Answer a request of the XML API; refusals are XML too."""
    name, _, raw = request.path.lstrip("/").partition("/")
    name = unquote(name)
    key = unquote(raw)
    method = "list" if not key else request.http.lower()
    method += "".join(f".{word}" for word in ("uploads", "uploadId") if word in request.query)
    caller, project = Caller(), None
    with cloud.lock:
        try:
            project = cloud.project(cloud.home_of(name))
            if project is None:
                raise ApiError(404, "notFound", "The specified bucket does not exist.", code="NoSuchBucket")
            project.settle()
            bucket = project.buckets[name]
            if request.http == "OPTIONS":
                return Answer(headers=_cors(bucket, request, request.headers.get("access-control-request-method", "")))
            caller = _caller(cloud, request, project)
            if planned := cloud.refused(project.id, f"storage.xml.{method}"):
                raise planned
            way = Access(cloud=cloud, project=project, bucket=bucket, caller=caller)
            found = _handler(request, key)(
                XmlCall(request=request, project=project, bucket=bucket, key=key, access=way)
            )
            result = attrs.evolve(found, headers={**found.headers, **_cors(bucket, request, request.http)})
        except ApiError as error:
            body = b"" if error.http == 304 else error.xml().encode()
            headers = {"Content-Type": "application/xml; charset=UTF-8", **error.headers}
            result = Answer(status=error.http, body=body, headers=headers)
        cloud.note(
            Journaled(
                at=cloud.clock.now() if project is None else project.now, project="" if project is None else project.id,
                method=f"storage.xml.{method}", http=request.http, path=request.path, request_id="", status=result.status,
                caller=caller.member,
            )
        )  # fmt: skip
    return result


def _caller(cloud: Cloud, request: Request, project: Project) -> Caller:
    if signing.is_signed(request):
        return signing.signer_of(cloud, request, project.clock.now())
    return access.caller_of(cloud, request, "storage")


def _handler(request: Request, key: str) -> Callable[[XmlCall], Answer]:
    table = {
        ("GET", "list"): _list, ("GET", "object"): _get, ("HEAD", "object"): _get, ("PUT", "object"): _put,
        ("DELETE", "object"): _delete, ("POST", "uploads"): _begin, ("PUT", "uploadId"): _part, ("POST", "uploadId"): _finish,
        ("DELETE", "uploadId"): _abort, ("GET", "list-uploads"): _uploads,
    }  # fmt: skip
    what = next((word for word in ("uploads", "uploadId") if word in request.query), "object" if key else "list")
    if not key and what == "uploads":
        what = "list-uploads"
    handler = table.get((request.http, what))
    if handler is None:
        message = "The specified method is not allowed against this resource."
        raise ApiError(405, "methodNotAllowed", message, code="MethodNotAllowed")
    return handler


def _list(call: XmlCall) -> Answer:
    prefix, delimiter = call.word("prefix"), call.word("delimiter")
    call.access.must("storage.objects.list", prefix=prefix, delimiter=delimiter)
    scope = f"{prefix}\n{delimiter}"
    after = filters.token_text(call.word("continuation-token"), scope=scope) or call.word("start-after")
    size = max(1, min(_number(call.word("max-keys", "1000")), 1000))
    blobs, prefixes, more = store.listed(
        call.project, call.bucket, prefix=prefix, delimiter=delimiter, after=after, size=size
    )
    parts = [
        f"<Name>{call.bucket.name}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(blobs) + len(prefixes)}</KeyCount>"
    ]
    parts += [f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"]
    parts += [
        f"<Contents><Key>{escape(blob.name)}</Key><Generation>{blob.generation}</Generation><MetaGeneration>1</MetaGeneration>"
        f"<LastModified>{zulu(blob.created_at)}</LastModified><ETag>&quot;{store.etag(blob)}&quot;</ETag>"
        f"<Size>{len(blob.data)}</Size></Contents>"
        for blob in blobs
    ]
    parts += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in prefixes]
    if more:
        parts += [f"<NextContinuationToken>{filters.text_token(more, scope=scope)}</NextContinuationToken>"]
    return _xml("ListBucketResult", "".join(parts))


def _get(call: XmlCall) -> Answer:
    call.access.must("storage.objects.get", key=call.key)
    blob = store.get(call.project, call.bucket, call.key, generation=call.word("generation"))
    call.conditions.check(blob, reads=True)
    data, headers = blob.data, _headers(blob)
    if call.request.http == "GET":
        data = call.bucket.carried(data)
    found = RANGE.fullmatch(call.request.headers.get("range", ""))
    if found is None or found[0] == "bytes=-":
        return Answer(body=data, headers=headers)
    first, last = _range(found, len(data))
    if first > last:
        raise ApiError(416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied.", code="InvalidRange",
                       headers={"Content-Range": f"bytes */{len(data)}"})  # fmt: skip
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Answer(status=206, body=data[first : last + 1], headers=headers)


def _put(call: XmlCall) -> Answer:
    headers, metadata = _given(call.request)
    call.access.must("storage.objects.create", key=call.key)
    if store.find(call.project, call.bucket, call.key) is not None and call.conditions.generation != 0:
        call.access.must("storage.objects.delete", key=call.key)
    data, source = call.bucket.carried(call.request.body), call.request.headers.get("x-goog-copy-source", "")
    if source:
        data, headers, metadata = _copied(call, source)
    blob = store.put(
        call.project, call.bucket, call.key, data, conditions=call.conditions, headers=headers, metadata=metadata,
        md5=_digest(call.request),
    )  # fmt: skip
    if not source:
        return Answer(headers=_written(blob))
    text = f"<LastModified>{zulu(blob.created_at)}</LastModified><ETag>&quot;{store.etag(blob)}&quot;</ETag>"
    result = _xml("CopyObjectResult", text)
    return attrs.evolve(result, headers={**result.headers, **_written(blob)})


def _copied(call: XmlCall, source: str) -> tuple[bytes, dict[str, str], dict[str, str]]:
    name, _, key = unquote(source).lstrip("/").partition("/")
    bucket = call.access.cloud.bucket(name)
    home = call.access.cloud.projects[call.access.cloud.home_of(name)]
    attrs.evolve(call.access, bucket=bucket, project=home).must("storage.objects.get", key=key)
    blob = store.get(home, bucket, key)
    return blob.data, blob.headers, blob.metadata


def _delete(call: XmlCall) -> Answer:
    call.access.must("storage.objects.delete", key=call.key)
    store.delete(call.project, call.bucket, call.key, conditions=call.conditions, generation=call.word("generation"))
    return Answer(status=204)


def _begin(call: XmlCall) -> Answer:
    call.access.must("storage.objects.create", key=call.key)
    headers, metadata = _given(call.request)
    upload = store.begin(call.project, call.bucket, call.key, headers, metadata)
    text = f"<Bucket>{call.bucket.name}</Bucket><Key>{escape(call.key)}</Key><UploadId>{upload.id}</UploadId>"
    return _xml("InitiateMultipartUploadResult", text)


def _part(call: XmlCall) -> Answer:
    call.access.must("storage.objects.create", key=call.key)
    upload = store.upload_of(call.bucket, call.key, call.word("uploadId"))
    number = _number(call.word("partNumber"))
    if not 1 <= number <= store.PARTS:
        raise ApiError(400, "invalid", f"The part number must be between 1 and {store.PARTS}.")
    upload.parts[number] = call.request.body
    return Answer(headers={"ETag": f'"{store.part_tag(call.request.body)}"'})


def _finish(call: XmlCall) -> Answer:
    call.access.must("storage.objects.create", key=call.key)
    upload = store.upload_of(call.bucket, call.key, call.word("uploadId"))
    try:
        root = ElementTree.fromstring(call.request.body)
    except ElementTree.ParseError:
        raise ApiError(400, "invalid", "The XML you provided was not well-formed.", code="MalformedXML")
    parts = [
        (_number(part.findtext(f"{{{ANY}}}PartNumber") or ""), (part.findtext(f"{{{ANY}}}ETag") or "").strip())
        for part in root.iter()
        if part.tag.rpartition("}")[2] == "Part"
    ]
    blob = store.finish(call.project, call.bucket, upload, parts, call.conditions)
    text = (
        f"<Bucket>{call.bucket.name}</Bucket><Key>{escape(call.key)}</Key><ETag>&quot;{store.etag(blob)}&quot;</ETag>"
    )
    result = _xml("CompleteMultipartUploadResult", text)
    return attrs.evolve(result, headers={**result.headers, **_written(blob)})


def _abort(call: XmlCall) -> Answer:
    call.access.must("storage.multipartUploads.abort", key=call.key)
    upload = store.upload_of(call.bucket, call.key, call.word("uploadId"))
    del call.bucket.uploads[upload.id]
    return Answer(status=204)


def _uploads(call: XmlCall) -> Answer:
    call.access.must("storage.multipartUploads.list")
    prefix = call.word("prefix")
    text = "".join(
        f"<Upload><Key>{escape(upload.name)}</Key><UploadId>{upload.id}</UploadId><Initiated>{zulu(upload.started_at)}"
        "</Initiated></Upload>"
        for upload in sorted(call.bucket.uploads.values(), key=lambda upload: (upload.name, upload.id))
        if upload.name.startswith(prefix)
    )
    return _xml(
        "ListMultipartUploadsResult", f"<Bucket>{call.bucket.name}</Bucket><IsTruncated>false</IsTruncated>{text}"
    )


def _given(request: Request) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers of a content and the metadata that come with a request."""
    headers = {name: request.headers[name] for name in KEPT if name in request.headers}
    metadata = {
        name.removeprefix(METADATA): value for name, value in request.headers.items() if name.startswith(METADATA)
    }
    return headers, metadata


def _digest(request: Request) -> str:
    """Return the MD5 that came along; empty when none did."""
    found = re.search(r"md5=([^,\s]+)", request.headers.get("x-goog-hash", ""))
    return found[1] if found else request.headers.get("content-md5", "")


def _written(blob: Blob) -> dict[str, str]:
    return {
        "ETag": f'"{store.etag(blob)}"', "x-goog-generation": str(blob.generation), "x-goog-metageneration": "1",
        "x-goog-hash": f"md5={blob.md5}",
    }  # fmt: skip


def _headers(blob: Blob) -> dict[str, str]:
    headers = {name.title(): value for name, value in blob.headers.items()}
    headers |= {f"{METADATA}{name}": value for name, value in blob.metadata.items()}
    headers.setdefault("Content-Type", "application/octet-stream")
    return {
        **headers, **_written(blob), "Last-Modified": format_datetime(blob.created_at, usegmt=True), "Accept-Ranges": "bytes",
        "x-goog-stored-content-length": str(len(blob.data)),
    }  # fmt: skip


def _number(text: str) -> int:
    """Return a number. Raises 400 for a text that is none."""
    if not text.strip().isdigit():
        raise ApiError(400, "invalid", f"Invalid argument: '{text}' is not a number.")
    return int(text)


def _range(found: re.Match[str], size: int) -> tuple[int, int]:
    first, last = found[1], found[2]
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def _cors(bucket: Bucket, request: Request, method: str) -> Mapping[str, str]:
    """Return the headers by which a browser lets a page of another origin see the answer."""
    origin = request.headers.get("origin", "")
    for rule in bucket.body.get("cors", []) if origin else []:
        if {origin, ANY} & set(rule.get("origin", [])) and {method, ANY} & set(rule.get("method", [])):
            return {
                "Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": ",".join(rule.get("method", [])),
                "Access-Control-Allow-Headers": ",".join(rule.get("responseHeader", [])), "Vary": "Origin",
            }  # fmt: skip
    return {}


def _xml(word: str, inner: str) -> Answer:
    text = f"<?xml version='1.0' encoding='UTF-8'?><{word} xmlns='{NAMESPACE}'>{inner}</{word}>"
    return Answer(body=text.encode(), headers={"Content-Type": "application/xml; charset=UTF-8"})
