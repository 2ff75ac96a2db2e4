"""The API itself: a call comes in, is proven, allowed, and carried out; an answer, or a watch, goes out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import discovery, patches, reviews, selectors, subresources
from anyscale_conformance.simulators.kubernetes.calls import (
    PATCHES,
    Answer,
    Call,
    Route,
    Watch,
    encode,
    question,
    route,
)
from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.objects import (
    Clashes,
    Objects,
    Target,
    check_options,
    unsupported_media,
)
from anyscale_conformance.simulators.kubernetes.problems import (
    Problem,
    bad_request,
    expired,
    no_page,
    not_allowed,
    unauthorized,
)
from anyscale_conformance.simulators.kubernetes.rbac import Authorizer, Question
from anyscale_conformance.simulators.kubernetes.store import Entry, next_page, page
from anyscale_conformance.simulators.kubernetes.tokens import Rejected, Tokens
from anyscale_conformance.simulators.kubernetes.users import ANONYMOUS, Caller, User
from anyscale_conformance.simulators.kubernetes.world import World

_FIELDS = ("metadata.name", "metadata.namespace")
# Source: the field labels that each kind's conversion declares.
FIELD_LABELS: Mapping[str, tuple[str, ...]] = {
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
             "status.phase", "status.podIP", "status.nominatedNodeName"),
    "nodes": ("spec.unschedulable",), "namespaces": ("status.phase",), "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"), "replicasets": ("status.replicas",),
    "events": ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
               "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
               "reportingComponent", "source", "type"),
}  # fmt: skip


class Api:
    """Answers calls on one world. Whoever asks holds the world's lock."""

    def __init__(self, world: World, authorizer: Authorizer, tokens: Tokens) -> None:
        self._world, self._authorizer, self._tokens = world, authorizer, tokens
        self._objects = Objects(world)

    def answer(self, call: Call, user: User) -> Answer | Watch:
        """Answer a call. Raises Problem."""
        first = call.path.lstrip("/").partition("/")[0]
        words = [word for word in call.path.split("/") if word]
        is_resource = (first == "api" and len(words) > 2) or (first == "apis" and len(words) > 3)
        if not is_resource:
            self._authorizer.check(user, Question(verb=call.method.lower(), path=call.path))
            return self._other(call)
        wanted = question(call)
        self._authorizer.check(user, wanted)
        asked = route(self._world.catalogue, call, wanted)
        if asked.kind.is_review:
            return self._review(asked, call, user)
        if asked.subresource and asked.subresource != "status":
            return subresources.answer(self._world, self._objects, self._tokens, asked, call, self._caller(call, user))
        return self._verb(asked, call, user)

    def user(self, call: Call) -> User:
        """Return who asks. Raises Problem 401 for credentials that prove nothing."""
        if "impersonate-user" in call.headers:
            raise Problem(501, "NotImplemented", "this simulation does not impersonate")
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if not token:
            return ANONYMOUS
        if scheme.lower() != "bearer":
            raise unauthorized()
        try:
            return self._tokens.prove(token.strip()).user
        except Rejected:
            raise unauthorized() from None

    def _verb(self, asked: Route, call: Call, user: User) -> Answer | Watch:
        target = Target(kind=asked.kind, namespace=asked.namespace, name=asked.name, subresource=asked.subresource)
        match asked.verb:
            case "get":
                return Answer(body=_rendering(call)(self._objects.get(target)))
            case "list":
                return self._list(asked, call)
            case "watch":
                return self._watch(asked, call)
            case "create" if not asked.subresource and not asked.name:
                caller = self._caller(call, user)
                self._may_grant(asked, call, user)
                made = self._objects.create(target, call.object(), caller)
                return _written(made, call, caller, status=201)
            case "update" if asked.name:
                caller = self._caller(call, user)
                self._may_grant(asked, call, user)
                self._may_create(asked, user, target)
                entry, is_new = self._objects.replace(target, call.object(), caller)
                return _written(entry, call, caller, status=201 if is_new else 200)
            case "patch" if asked.name:
                return self._patch(asked, target, call, user)
            case "delete" if not asked.subresource:
                return self._delete(target, call, user)
            case "deletecollection":
                return self._delete_all(asked, call, user)
        raise not_allowed(asked.kind.plural, asked.kind.group)

    def _patch(self, asked: Route, target: Target, call: Call, user: User) -> Answer:
        sort = PATCHES.get(call.headers.get("content-type", "").partition(";")[0].strip())
        if sort is None:
            raise unsupported_media()
        caller = self._caller(call, user)
        check_options(caller, has_force="force" in call.query, is_apply=sort == "apply")
        body = call.object()
        status = 200
        match sort:
            case "apply":
                self._may_create(asked, user, target)
                self._may_grant(asked, call, user)
                clashes = Clashes.TAKEN if call.flag("force") else Clashes.REFUSED
                entry, is_new = self._objects.apply(target, body, caller, clashes=clashes)
                status = 201 if is_new else 200
            case "json":
                entry = self._objects.patch(target, lambda obj: patches.json_patch(obj, body), caller)
            case "merge":
                entry = self._objects.patch(target, lambda obj: patches.merge_patch(obj, body), caller)
            case _:
                entry = self._objects.strategic(target, body, caller)
        return _written(entry, call, caller, status=status)

    def _delete(self, target: Target, call: Call, user: User) -> Answer:
        options = _delete_options(call)
        caller = self._caller(call, user, options)
        deleted = self._objects.delete(target, options, caller)
        return Answer(status=200, body=_deleted(deleted.entry, deleted.is_gone))

    def _delete_all(self, asked: Route, call: Call, user: User) -> Answer:
        options = _delete_options(call)
        caller = self._caller(call, user, options)
        found = [
            entry
            for entry in self._world.store.entries(asked.kind, asked.namespace)
            if _selects(asked.kind, call)(entry)
        ]
        for entry in found:
            target = Target(kind=asked.kind, namespace=entry.namespace, name=entry.name)
            self._objects.delete(target, options, caller)
        return Answer(body=_list_body(asked.kind, {"resourceVersion": str(self._world.store.revision)}, found, call))

    def _list(self, asked: Route, call: Call) -> Answer:
        store, kind = self._world.store, asked.kind
        selects = _selects(kind, call, asked.name)
        limit, token = call.number("limit"), call.query.get("continue", "")
        wanted = call.query.get("resourceVersion", "")
        if token and wanted not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        if wanted == "0":
            limit = 0  # such a list is served from the watch cache, which does not page
        start: tuple[str, str] | None = None
        revision = store.revision
        if token:
            revision, start = page(token)
            revision = store.revision if revision < 0 else revision
        elif wanted not in ("", "0"):
            revision = self._version(wanted, call.query.get("resourceVersionMatch", ""))
        try:
            found = store.at(kind, asked.namespace, revision)
        except Problem:
            raise _too_old(start) from None
        found = [entry for entry in found if selects(entry) and (start is None or entry.key > start)]
        meta: dict[str, Any] = {"resourceVersion": str(revision)}
        if limit and len(found) > limit:
            meta["continue"] = next_page(revision, found[limit - 1].key)
            if not call.query.get("labelSelector") and not call.query.get("fieldSelector"):
                meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        return Answer(body=_list_body(kind, meta, found, call))

    def _version(self, wanted: str, match: str) -> int:
        revision = _revision(wanted)
        if revision > self._world.store.revision:
            raise _too_large(revision, self._world.store.revision)
        return revision if match == "Exact" else self._world.store.revision

    def _watch(self, asked: Route, call: Call) -> Watch:
        store, kind = self._world.store, asked.kind
        selects = _selects(kind, call, asked.name)
        wanted = call.query.get("resourceVersion", "")
        streams = call.flag("sendInitialEvents")
        if streams and call.query.get("resourceVersionMatch") != "NotOlderThan":
            raise Problem(
                422, "Invalid",
                'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Required value: sendInitialEvents requires setting '
                "resourceVersionMatch to NotOlderThan",
            )  # fmt: skip
        revision = _revision(wanted) if wanted not in ("", "0") else store.revision
        if revision > store.revision:
            raise _too_large(revision, store.revision)
        begins = wanted in ("", "0") or streams
        initial = tuple(entry for entry in store.entries(kind, asked.namespace) if selects(entry)) if begins else ()
        seconds = call.number("timeoutSeconds") or self._world.random.randint(1800, 3600)
        return Watch(
            kind=kind, namespace=asked.namespace, selects=selects, revision=store.revision if begins else revision,
            initial=initial, ends_initial=streams, bookmarks=call.flag("allowWatchBookmarks"),
            until=self._world.clock.now() + timedelta(seconds=seconds), render=_rendering(call),
        )  # fmt: skip

    def _review(self, asked: Route, call: Call, user: User) -> Answer:
        if asked.verb != "create":
            raise not_allowed(asked.kind.plural, asked.kind.group)
        body = reviews.answer(asked, call.object(), user, self._authorizer, self._tokens, self._world)
        return Answer(status=201, body=encode(body))

    def _other(self, call: Call) -> Answer:
        found = discovery.answer(self._world.catalogue, call, self._tokens)
        if found is None:
            raise no_page()
        return found

    def _caller(self, call: Call, user: User, options: Mapping[str, Any] | None = None) -> Caller:
        dry = call.query.get("dryRun") or ",".join((options or {}).get("dryRun") or ())
        if dry not in ("", "All"):
            raise Problem(
                422,
                "Invalid",
                f'Options.meta.k8s.io "" is invalid: dryRun: Unsupported value: "{dry}": supported values: "All"',
            )
        validation = call.query.get("fieldValidation") or "Warn"
        if validation not in ("Ignore", "Warn", "Strict"):
            raise Problem(
                422, "Invalid",
                f'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "{validation}": supported values: '
                '"Ignore", "Strict", "Warn"',
            )  # fmt: skip
        manager = call.query.get("fieldManager", "")
        return Caller(user=user, agent=call.agent, field_manager=manager, is_dry=dry == "All", validation=validation)

    def _may_create(self, asked: Route, user: User, target: Target) -> None:
        """A write that would make the object needs the right to create it, too."""
        if asked.subresource or self._world.store.get(target.kind, target.namespace, target.name) is not None:
            return
        self._authorizer.check(user, attrs.evolve(asked.question, verb="create"))

    def _may_grant(self, asked: Route, call: Call, user: User) -> None:
        if asked.kind.group == "rbac.authorization.k8s.io":
            body = call.object()
            if isinstance(body, dict):
                self._authorizer.check_escalation(user, asked.kind.plural, {"metadata": {}} | body, asked.namespace)


def _written(entry: Entry, call: Call, caller: Caller, *, status: int) -> Answer:
    return Answer(status=status, body=_rendering(call)(entry), warnings=tuple(caller.warnings))


def _deleted(entry: Entry, is_gone: bool) -> bytes:
    # Source: the registries with ReturnDeletedObject.
    if not is_gone or entry.kind.plural in (
        "pods", "services", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes", "resourcequotas",
    ):  # fmt: skip
        return entry.encoded
    details = {"name": entry.name, "group": entry.kind.group, "kind": entry.kind.plural, "uid": entry.uid}
    return encode({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    })  # fmt: skip


def _delete_options(call: Call) -> dict[str, Any]:
    body = call.object() if call.body else {}
    if not isinstance(body, dict):
        raise bad_request("the body is no DeleteOptions")
    options = dict(body)
    if "gracePeriodSeconds" in call.query:
        options["gracePeriodSeconds"] = call.number("gracePeriodSeconds")
    if "propagationPolicy" in call.query:
        options["propagationPolicy"] = call.query["propagationPolicy"]
    return options


def _selects(kind: Kind, call: Call, name: str = "") -> Callable[[Entry], bool]:
    labels = selectors.parse(call.query.get("labelSelector", ""))
    known = (*_FIELDS, *FIELD_LABELS.get(kind.plural, ()))
    fields = selectors.parse_fields(call.query.get("fieldSelector", ""), known, kind.kind)
    return lambda entry: (not name or entry.name == name) and labels.selects(entry.labels) and fields(entry.obj)


def _rendering(call: Call) -> Callable[[Entry], bytes]:
    """Return how objects are wanted: whole, or only their metadata."""
    accept = call.headers.get("accept", "")
    wanted = next(
        (part for part in accept.split(",") if "application/json" in part or "*/*" in part), "" if accept else "*/*"
    )
    if not wanted:
        raise Problem(406, "NotAcceptable", "only the following media types are accepted: application/json")
    if "as=PartialObjectMetadata" not in wanted:
        return lambda entry: entry.encoded
    head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    return lambda entry: encode(head | {"metadata": entry.meta})


def _list_body(kind: Kind, meta: Mapping[str, Any], entries: Sequence[Entry], call: Call) -> bytes:
    render = _rendering(call)
    is_partial = "as=PartialObjectMetadata" in call.headers.get("accept", "")
    head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"} if is_partial else {
        "kind": f"{kind.kind}List", "apiVersion": kind.api_version,
    }  # fmt: skip
    items: Iterable[bytes] = (entry.bare if kind.model and not is_partial else render(entry) for entry in entries)
    return encode(head | {"metadata": meta})[:-1] + b',"items":[' + b",".join(items) + b"]}"


def _revision(text: str) -> int:
    if not text.isdigit():
        raise bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _too_old(start: tuple[str, str] | None) -> Problem:
    if start is None:
        return expired("The resourceVersion for the provided list is too old.")
    return expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
        "continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing "
        "with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the "
        "time the first chunk was returned and now may show up in the list.",
        goes_on=next_page(-1, start),
    )


def _too_large(wanted: int, current: int) -> Problem:
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
    return Problem(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {wanted}, current: {current}",
        details=details,
        retry_after=1,
    )
