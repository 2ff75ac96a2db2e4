"""Requests and answers of the API, apart from how they travel."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import attrs
import msgspec
import yaml

from anyscale_conformance.simulators.kubernetes.kinds import Catalogue, Kind
from anyscale_conformance.simulators.kubernetes.problems import Plain, Problem, bad_request, no_page, no_such_path
from anyscale_conformance.simulators.kubernetes.rbac import Question
from anyscale_conformance.simulators.kubernetes.store import Entry

LIMIT = 3 * 1024 * 1024
JSON = "application/json"
PATCHES = {
    "application/json-patch+json": "json", "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic", "application/apply-patch+yaml": "apply",
}  # fmt: skip
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_TRUE = ("1", "true", "True", "t", "T", "TRUE")


@attrs.frozen(kw_only=True)
class Call:
    """One request. Headers are looked up by lower-case names."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    def flag(self, name: str) -> bool:
        """Tell whether a parameter says yes."""
        return self.query.get(name, "") in _TRUE

    def number(self, name: str) -> int:
        """Return a parameter as a number, 0 when it is not there. Raises Problem 400."""
        text = self.query.get(name, "") or "0"
        try:
            return int(text)
        except ValueError:
            raise bad_request(f'invalid value for {name}: strconv.ParseInt: parsing "{text}": invalid syntax') from None

    def object(self) -> Any:
        """Return the body as data, from JSON or YAML. Raises Problem 400, 413 or 415."""
        if len(self.body) > LIMIT:
            raise Problem(413, "RequestEntityTooLarge", f"Request entity too large: limit is {LIMIT}")
        sort = self.headers.get("content-type", JSON).partition(";")[0].strip()
        if sort in ("application/vnd.kubernetes.protobuf", "application/cbor", "application/apply-patch+cbor"):
            raise Problem(
                415, "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json, "
                    "application/yaml",
            )  # fmt: skip
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            if "yaml" not in sort:
                raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None
        try:
            return yaml.load(self.body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise bad_request(f"error decoding YAML: {error}") from None

    @property
    def agent(self) -> str:
        """The manager that a request without ``fieldManager`` writes as: its user agent up to the slash."""
        return self.headers.get("user-agent", "unknown").partition("/")[0][:128] or "unknown"


@attrs.frozen(kw_only=True)
class Answer:
    """One response: its status, its body as JSON, and what goes in headers besides."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()
    content_type: str = JSON


@attrs.frozen(kw_only=True)
class Watch:
    """A watch that was let in: what it wants to hear, from where on, until when (by the cluster's clock; None: for ever)."""

    kind: Kind
    namespace: str
    selects: Callable[[Entry], bool]
    revision: int
    initial: tuple[Entry, ...] = ()
    ends_initial: bool = False
    bookmarks: bool = False
    until: datetime | None = None
    render: Callable[[Entry], bytes] = attrs.field(default=lambda entry: entry.encoded)


@attrs.frozen(kw_only=True)
class Route:
    """What a path and a method mean, once it is known that there is such a kind."""

    kind: Kind
    question: Question

    @property
    def verb(self) -> str:
        """What is to be done."""
        return self.question.verb

    @property
    def namespace(self) -> str:
        """In which namespace, empty for none or all."""
        return self.question.namespace

    @property
    def name(self) -> str:
        """To which object, empty for all or a new one."""
        return self.question.name

    @property
    def subresource(self) -> str:
        """To which part of it, empty for the whole."""
        return self.question.subresource


def question(call: Call) -> Question:
    """Return what a call to a resource wants, whether or not there is such a resource: access is decided first."""
    words = [word for word in call.path.split("/") if word]
    group, rest = ("", words[2:]) if words[0] == "api" else (words[1], words[3:])
    namespace = ""
    # namespaces/NAME/RESOURCE is in a namespace; namespaces/NAME and its own subresources are about the namespace.
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    verb = _VERBS.get(call.method, call.method.lower())
    if verb == "get" and (call.flag("watch") or not name):
        verb = "watch" if call.flag("watch") else "list"
    elif verb == "delete" and not name:
        verb = "deletecollection"
    return Question(verb=verb, group=group, resource=resource, subresource=subresource, namespace=namespace, name=name)


def route(catalogue: Catalogue, call: Call, asked: Question) -> Route:
    """Return what a call is about. Raises Problem 404 for a path that nothing serves."""
    words = [word for word in call.path.split("/") if word]
    version = words[1] if words[0] == "api" else words[2]
    if version not in catalogue.groups.get(asked.group, ()):
        raise no_page()
    kind = catalogue.at(asked.group, version, asked.resource)
    if kind is None or (asked.subresource and asked.subresource not in kind.subresources):
        raise no_such_path()
    if bool(asked.namespace) is not kind.is_namespaced and (asked.namespace or asked.verb not in ("list", "watch")):
        raise no_such_path()
    return Route(kind=kind, question=asked)


def encode(body: Any) -> bytes:
    """Return data as JSON."""
    return msgspec.json.encode(body)


def refused(problem: Problem) -> Answer:
    """Return the answer that a problem is."""
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    if isinstance(problem, Plain):
        text = "text/plain; charset=utf-8"
        return Answer(status=problem.code, body=problem.message.encode(), headers=headers, content_type=text)
    return Answer(status=problem.code, body=encode(problem.body()), headers=headers)
