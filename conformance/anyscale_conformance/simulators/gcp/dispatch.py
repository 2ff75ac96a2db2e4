"""From a request to its method, through every check that comes before the method itself, and back."""

import gzip
import hashlib
import json
import re
import uuid
import zlib
from collections.abc import Mapping
from datetime import timedelta

from anyscale_conformance.simulators.gcp import access, fields
from anyscale_conformance.simulators.gcp.calls import HANDLERS, Call, Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud, Journaled
from anyscale_conformance.simulators.gcp.errors import ApiError, info, invalid
from anyscale_conformance.simulators.gcp.gcs import objects
from anyscale_conformance.simulators.gcp.schema import Document, Json, Method
from anyscale_conformance.simulators.gcp.server import Answer, Request
from anyscale_conformance.simulators.gcp.world import Project, Remembered, words_of

APIS = (
    ("compute", "v1"), ("storage", "v1"), ("sts", "v1"), ("iamcredentials", "v1"), ("iam", "v1"),
    ("cloudresourcemanager", "v3"), ("cloudresourcemanager", "v1"), ("container", "v1"),
)  # fmt: skip
"""In the order in which a path that names no API is looked up."""
REMEMBERED = timedelta(minutes=60)
"""How long an operation is found again by its requestId."""
REQUEST_ID = "requestId"
UPLOAD, DOWNLOAD = "upload/", "download/"
"""What stands in front of the paths by which the data of objects travel."""


KEPT = 10_000
"""Routes and answers that are remembered."""
Route = tuple[Document, Method, dict[str, str]]


class ViolationError(AssertionError):
    """An answer of this simulator that its own API's schema does not allow: a fault of the simulator."""


class Dispatcher:
    """Answers the requests of all JSON APIs."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._routes: dict[tuple[str, str, str], Route] = {}
        self._valid: set[bytes] = set()
        """Answers that were found to be good before."""
        self._documents = [Document.load(*api) for api in APIS]

    def answer(self, request: Request) -> Answer | None:
        """Return the answer, or None when no API has such a path."""
        found = self._route(request)
        if found is None:
            return None
        document, method, path = found
        params = dict(path)
        caller = Caller()
        project: Project | None = None
        try:
            is_upload = method.uploads and request.path.startswith(f"/{UPLOAD}")
            asked = {} if is_upload else self._parsed(document, method, request)
            params |= {name: values[-1] for name, values in request.query.items()}
            many = {name: values for name, values in request.query.items() if len(values) > 1}
            with self._cloud.lock:
                caller = access.caller_of(self._cloud, request, method.api)
                project = access.project_of(self._cloud, method, params, asked)
                project.settle()
                call = Call(
                    cloud=self._cloud, project=project, method=method, params=params, many=many, body=asked, caller=caller,
                    headers=request.headers,
                )  # fmt: skip
                body = self._called(call, request if is_upload else None)
                project.settle()  # what takes no time has happened when the answer goes out
                answer = objects.media(call) or self._rendered(document, call, body)
        except ApiError as error:
            self._note(request, method, project, caller, error.http, params, error.reason)
            return _json(error.http, _text(error.body(api=method.api)), error.headers)
        self._note(request, method, project, caller, answer.status, params)
        return answer

    def _route(self, request: Request) -> Route | None:
        key = (request.http, request.path, request.headers.get("host", ""))
        known = self._routes.get(key)
        if known is not None:
            return known
        if len(self._routes) > KEPT:
            self._routes.clear()
        found = self._looked_up(request)
        if found is not None:
            self._routes[key] = found
        return found

    def _looked_up(self, request: Request) -> Route | None:
        """Return the method: of the API that the path's first word or the host names, else of any that has the path."""
        path = request.path.lstrip("/")
        for media in (UPLOAD, DOWNLOAD):
            path = path.removeprefix(media)
        wanted = request.headers.get("host", "").partition(".googleapis.com")
        api = wanted[0] if wanted[1] else ""
        head, _, rest = path.partition("/")
        prefixed = {document.api for document in self._documents} & {head}
        if not api and prefixed:
            for document in self._documents:
                if document.api == head and (found := _routed(document, request.http, rest)):
                    return document, *found
        for document in self._documents:
            if api in ("", document.api) and (found := _routed(document, request.http, path)):
                return document, *found
        return None

    def _parsed(self, document: Document, method: Method, request: Request) -> Json:
        """Return the body. Raises 400 with every fault of the query and the body."""
        asked: object = {}
        if request.body:
            try:
                asked = _read(request)
            except (OSError, ValueError, EOFError, zlib.error):
                raise ApiError(400, "parseError", "Parse Error")
        faults = [*document.parameter_faults(method, request.query), *document.request_faults(method, asked)]
        if faults:
            violations = [{"field": _field(fault), "description": fault} for fault in faults]
            details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}]
            raise ApiError(400, "invalid", "\n".join(faults), details=details)
        assert isinstance(asked, dict)
        return asked if method.http == "PATCH" else _without_null(asked)  # in a patch, null takes away

    def _called(self, call: Call, upload: Request | None) -> Json | None:
        service = f"{call.method.api}.googleapis.com"
        if service not in call.project.services:
            message = (
                f"{service} API has not been used in project {call.project.number} before or it is disabled. Enable it by "
                "visiting the console, then retry."
            )
            details = [info("SERVICE_DISABLED", service, consumer=f"projects/{call.project.number}")]
            raise ApiError(403, "accessNotConfigured", message, details=details)
        if planned := self._cloud.refused(call.project.id, call.method.id):
            raise planned
        access.check(call)
        if upload is not None:
            return objects.upload(call, upload)
        handler = HANDLERS.get(call.method.id)
        if handler is None:
            raise ApiError(501, "notImplemented", f"this simulator has no {call.method.id}")
        token = call.params.get(REQUEST_ID, "")
        if not token:
            return handler(call)
        return self._once(call, token)

    def _once(self, call: Call, token: str) -> Json | None:
        """Answer a request with an id: the operation that it led to already, or that it leads to now."""
        try:
            if uuid.UUID(token).int == 0:
                raise ValueError
        except ValueError:
            raise invalid(REQUEST_ID, token, "The request ID must be a valid UUID; the zero UUID is not supported.")
        params = sorted((name, value) for name, value in call.params.items() if name != REQUEST_ID)
        asked = hashlib.sha256(json.dumps([call.method.id, params, call.body], sort_keys=True).encode()).hexdigest()
        before = call.project.requests.get(token)
        if before is not None and call.project.now - before.at < REMEMBERED:
            if before.asked != asked:
                raise invalid(REQUEST_ID, token, "The request ID was already used for a different request.")
            return before.operation.body
        body = HANDLERS[call.method.id](call)
        words = words_of(str((body or {}).get("selfLink", "")))
        operation = call.project.find("operations", "/".join(words[2:-2]), words[-1]) if words else None
        if operation is not None:
            operation.body["clientOperationId"] = token
            call.project.requests[token] = Remembered(asked=asked, operation=operation, at=call.project.now)
        return body

    def _rendered(self, document: Document, call: Call, body: Json | None) -> Answer:
        text = _text(body)
        key = hashlib.sha256(f"{call.method.id} ".encode() + text).digest()
        if key not in self._valid:
            if faults := list(document.response_faults(call.method, body)):
                raise ViolationError(f"{call.method.id}: {'; '.join(faults)}")
            if len(self._valid) > KEPT:
                self._valid.clear()
            self._valid.add(key)
        if body is None:
            return Answer(status=204)
        headers = {"ETag": f'"{body["etag"]}"'} if isinstance(body.get("etag"), str) else {}
        if mask := call.params.get("fields", ""):
            text = _text(fields.cut(body, mask))
        return _json(200, text, headers)

    def _note(
        self, request: Request, method: Method, project: Project | None, caller: Caller, status: int,
        params: Mapping[str, str], reason: str = "",
    ) -> None:  # fmt: skip
        clock = self._cloud.clock if project is None else project.clock
        entry = Journaled(
            at=clock.now(), project="" if project is None else project.id, method=method.id, http=request.http,
            path=request.path, request_id=params.get(REQUEST_ID, ""), status=status, caller=caller.member, reason=reason,
        )  # fmt: skip
        self._cloud.note(entry)


def _routed(document: Document, http: str, path: str) -> tuple[Method, dict[str, str]] | None:
    return document.route(http, path.removeprefix(document.base)) if path.startswith(document.base) else None


def _read(request: Request) -> object:
    """Return what a body says: JSON, also compressed, or a form. Raises what reading raises."""
    text = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return access.form(text)
    found: object = json.loads(text)
    return found


def _text(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _json(status: int, text: bytes, headers: Mapping[str, str]) -> Answer:
    return Answer(status=status, body=text, headers={"Content-Type": "application/json; charset=UTF-8", **headers})


def _field(fault: str) -> str:
    found = re.search(r"'([^']*)'", fault)
    return found.group(1) if found else ""


def _without_null(value: Json) -> Json:
    return {
        key: _without_null(item) if isinstance(item, dict) else item for key, item in value.items() if item is not None
    }
