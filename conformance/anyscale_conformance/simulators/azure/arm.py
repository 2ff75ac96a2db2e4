"""Azure Resource Manager: what it does for every type before and after the type's own rules."""

import copy
import re
from typing import Any

from anyscale_conformance.simulators.azure import (  # noqa: F401 - those that are not named here register their types
    authorization,
    balancers,
    catalogue,
    disks,
    groups,
    identities,
    images,
    interfaces,
    kinds,
    kubernetes,
    machines,
    network,
    rights,
    scale_sets,
    shapes,
    storage,
    tagging,
)
from anyscale_conformance.simulators.azure.errors import (
    ArmError,
    group_being_deleted,
    group_not_found,
    parent_not_found,
    resource_not_found,
)
from anyscale_conformance.simulators.azure.kinds import Flow, Kind
from anyscale_conformance.simulators.azure.lifecycle import BEING_DELETED, begin_delete, headers_of, page, remove
from anyscale_conformance.simulators.azure.operations import ROUTES, progress
from anyscale_conformance.simulators.azure.registry import KINDS, known_type
from anyscale_conformance.simulators.azure.store import Resource, merge
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request, Target

VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-(preview|alpha|beta))?")
TAG = re.compile(r"[^<>%&\\?/\x00-\x1f]{1,512}")


def answer(at: Subscription, request: Request) -> Reply:
    """Answer one request to a subscription. Raises ArmError for what is refused."""
    _check_version(request)
    _stumble(at, request)
    rights.check(at, request)
    target = request.target
    if target.type == "microsoft.resources/tags":
        return tagging.answer(at, request)
    if route := ROUTES.get((request.method, target.type)):
        return route(at, request)
    if "/operations/" in target.key or "/operationresults/" in target.key:
        return progress(at, request)
    if target.type.startswith("microsoft.resources/") or "/" not in target.type or target.type.endswith("/register"):
        return groups.answer(at, request)
    if target.group:
        _check_group(at, request)
    kind = KINDS.get(target.type)
    if kind is not None:
        kind.look(at, target.path)
    if kind is not None and target.is_collection:
        return _list(at, kind, request)
    if kind is not None:
        return VERBS.get(request.method, _not_allowed)(at, kind, request)
    return _below(at, request)


def _put(at: Subscription, kind: Kind, request: Request) -> Reply:
    target, old = request.target, at.find(request.target.path)
    body = _checked(kind, request, kind.shape)
    _check_name(kind, target)
    _check_conditions(request, old)
    _check_parent(at, target)
    if old is None and kind.has_location and not str(body.get("location", "")):
        raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
    if old is not None:
        _check_idle(at, old)
        if kind.has_location and plain(body.get("location", old.location)) != plain(old.location):
            raise ArmError(
                409, "InvalidResourceLocation",
                f"The resource '{old.name}' already exists in location '{old.location}' in resource group "
                f"'{target.group}'. A resource with the same name cannot be created in location '{body['location']}'. "
                "Please select a new resource name.",
            )  # fmt: skip
    kind.check(at, request, body, old)
    _check_registered(at, kind)
    rights.check_links(at, request, kind.links(body))
    if kind.has_location:
        body["location"] = plain(str(body.get("location") or (old.location if old else "")))
    return _written(at, kind, request, body, old)


def _patch(at: Subscription, kind: Kind, request: Request) -> Reply:
    old = _existing(at, kind, request.target)
    if not kind.patch:
        return _not_allowed(at, kind, request)
    change = _checked(kind, request, kind.patch)
    _check_conditions(request, old)
    _check_idle(at, old)
    body = merge(old.body, change)
    kind.check(at, request, body, old)
    rights.check_links(at, request, kind.links(change))
    return _written(at, kind, request, body, old)


def _written(at: Subscription, kind: Kind, request: Request, body: Body, old: Resource | None) -> Reply:
    before = copy.deepcopy(old.body) if old is not None else None
    if old is None:
        resource = at.make(canonical(at, kind, request.target), kind.type, body)
    else:
        resource = old
        resource.body = body
        resource.touch()
    kind.put(at, resource, before)
    flow = at.flow("put", kind)
    status = 200 if old is not None else kind.created_status
    if flow is Flow.SYNC:
        resource.state = "Succeeded"
        kind.finish(at, resource)
        return Reply(status=status, body=kind.view(at, resource, request))
    resource.state = "Creating" if old is None or resource.state == "Creating" else "Updating"
    operation = at.begin(resource, kind.duration(at, resource), result=resource.id)

    def finish() -> None:
        # A delete, or somebody behind its back, may have come before.
        if operation.status != "InProgress" or resource.state == BEING_DELETED or at.find(resource.id) is not resource:
            return
        error = kind.finish(at, resource)
        resource.state = "Failed" if error else "Succeeded"
        at.end(operation, error)

    at.on(operation.ends, finish)
    if status == 202 and flow is Flow.LOCATION:
        return Reply(status=202, headers=headers_of(at, request, operation.id, flow))
    return Reply(
        status=status, body=kind.view(at, resource, request), headers=headers_of(at, request, operation.id, flow)
    )


def _get(at: Subscription, kind: Kind, request: Request) -> Reply:
    resource = _existing(at, kind, request.target)
    return Reply(status=200, body=kind.view(at, resource, request))


def _head(at: Subscription, kind: Kind, request: Request) -> Reply:
    return Reply(status=204 if at.find(request.target.path) else 404)


def _delete(at: Subscription, kind: Kind, request: Request) -> Reply:
    resource = at.find(request.target.path)
    if resource is None:
        return Reply(status=204)
    _check_conditions(request, resource)
    rights.check_locks(at, resource)
    if resource.state == BEING_DELETED:
        # ARM joins a second delete to the one that is under way.
        return Reply(status=202, headers=headers_of(at, request, resource.operation, at.flow("delete", kind)))
    kind.check_delete(at, resource, request)
    flow = at.flow("delete", kind)
    if flow is Flow.SYNC:
        remove(at, resource)
        return Reply(status=200)
    operation = begin_delete(at, kind, resource, request)
    return Reply(status=202, headers=headers_of(at, request, operation, flow))


def _list(at: Subscription, kind: Kind, request: Request) -> Reply:
    target = request.target
    if request.method != "GET":
        return _not_allowed(at, kind, request)
    if "/" in kind.type.partition("/")[2]:
        _check_parent(at, target)
    below = target.path if target.names else f"{target.scope}/"
    with at.still():
        return page(at, request, listed(at, kind, below, request), lambda found: kind.view(at, found, request))


def listed(at: Subscription, kind: Kind, below: str, request: Request) -> list[Resource]:
    """Return what a list of a kind shows: as old as the subscription's lag, and what the filter asks for."""
    found = list(at.all(kind.type, below=below))
    if at.lag:
        since = at.now() - at.lag
        found = [resource for resource in found if resource.made_at <= since]
        found += [
            stone.resource
            for stone in at.tombstones
            if stone.at > since and stone.resource.made_at <= since and stone.resource.type == kind.type
            and stone.resource.key.startswith(below.lower())
        ]  # fmt: skip
    return kind.filtered(at, found, request)


def _below(at: Subscription, request: Request) -> Reply:
    """Answer what is said of one resource: an action (POST), or a part of it that is no resource (GET)."""
    above = request.target.above()
    kind = KINDS.get(above.type)
    if kind is None or above.is_collection:
        raise _unknown_type(request.target)
    word = request.target.last
    if request.method == "GET" and word in kind.views:
        shown: Any = kind.views[word](at, _existing(at, kind, above), request)
        return shown if isinstance(shown, Reply) else Reply(status=200, body=shown)
    if request.method == "POST" and word in kind.actions:
        resource = _existing(at, kind, above)
        return kind.actions[word](at, resource, request)
    raise _unknown_type(request.target)


def canonical(at: Subscription, kind: Kind, target: Target) -> str:
    """Return an id as ARM writes it: the group as it was made, the type's words as they are registered."""
    group = at.find(f"{at.path}/resourceGroups/{target.group}") if target.group else None
    scope = group.id if group is not None and target.scope.count("/") == 4 else target.scope
    namespace, *words = kind.type.split("/")
    pairs = "".join(f"/{word}/{name}" for word, name in zip(words, target.names, strict=True))
    return f"{scope}/providers/{namespace}{pairs}"


def plain(location: str) -> str:
    """Return a location as ARM keeps it: ``East US`` is ``eastus``."""
    return location.replace(" ", "").lower()


def _existing(at: Subscription, kind: Kind, target: Target) -> Resource:
    found = at.find(target.path)
    if found is None:
        raise resource_not_found(kind.type, "/".join(target.names), target.group)
    return found


def _checked(kind: Kind, request: Request, shape: str) -> Body:
    """Return a copy of the body without what only the cloud writes. Raises ArmError for what the type does not know."""
    if request.body is None:
        raise ArmError(400, "MissingRequestBody", "The request body is missing.")
    body = shapes.checked(shape, request.body)
    for name, value in (body.get("tags") or {}).items():
        if not TAG.fullmatch(name):
            raise ArmError(
                400, "InvalidTagNameCharacters",
                f"The tag names '{name}' have reserved characters '<,>,%,&,\\,?,/' or control characters.",
            )  # fmt: skip
        if not isinstance(value, str) or len(value) > 256:
            raise ArmError(
                400, "InvalidTagValueLength", f"Tag value too large. The value of {name} exceeds 256 characters."
            )
    if len(body.get("tags") or {}) > 50:
        raise ArmError(400, "TooManyTags", "The number of tags on a resource exceeds the limit of 50.")
    return body


def _check_version(request: Request) -> None:
    if not request.version:
        raise ArmError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if not VERSION.fullmatch(request.version):
        raise ArmError(400, "InvalidApiVersionParameter", f"The api-version '{request.version}' is invalid.")


def _stumble(at: Subscription, request: Request) -> None:
    action = action_of(request)
    for trouble in tuple(at.troubles):
        if trouble.action.lower() in action.lower():
            trouble.times -= 1
            if trouble.times <= 0:
                at.troubles.remove(trouble)
            raise trouble.error


def action_of(request: Request) -> str:
    """Return what a request is counted as: ``Microsoft.Compute/virtualMachines.put``, ``.../virtualMachines/start.post``."""
    return f"{known_type(request.target)}.{request.method.lower()}"


def _check_group(at: Subscription, request: Request) -> None:
    group = at.find(f"{at.path}/resourceGroups/{request.target.group}")
    if group is None:
        raise group_not_found(request.target.group)
    if group.state == BEING_DELETED and request.method in ("PUT", "PATCH", "POST"):
        raise group_being_deleted(request.target.group)


def _check_registered(at: Subscription, kind: Kind) -> None:
    namespace = kind.type.partition("/")[0]
    if namespace.lower() in at.unregistered:
        raise ArmError(
            409, "MissingSubscriptionRegistration",
            f"The subscription is not registered to use namespace '{namespace}'. See https://aka.ms/rps-not-found for how to "
            "register subscriptions.",
        )  # fmt: skip


def _check_name(kind: Kind, target: Target) -> None:
    if not kinds.fits(kind.name_pattern, target.name):
        raise ArmError(
            400, "InvalidResourceName",
            f"Resource name {target.name} is invalid. The name has to match {kind.name_pattern}.",
        )  # fmt: skip


def _check_conditions(request: Request, old: Resource | None) -> None:
    wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
    if unwanted == "*" and old is not None:
        raise ArmError(412, "PreconditionFailed", f"The resource {old.id} already exists (If-None-Match: *).")
    if wanted and (old is None or (wanted != "*" and wanted.removeprefix("W/").strip('"') != old.etag)):
        raise ArmError(412, "PreconditionFailed", "Precondition failed: the etag is not the resource's (If-Match).")


def _check_parent(at: Subscription, target: Target) -> None:
    words = target.path.split("/")
    parent = "/".join(words[: -1 if target.is_collection else -2])
    if "/providers/" in parent and parent.count("/") > target.scope.count("/") + 2 and at.find(parent) is None:
        raise parent_not_found(parent)


def _check_idle(at: Subscription, old: Resource) -> None:
    if old.state == BEING_DELETED:
        if old.type.startswith("Microsoft.Compute"):
            raise ArmError(
                409, "OperationNotAllowed",
                f"Operation 'write' is not allowed on '{old.name}' since it is marked for deletion. You can only retry the "
                "Delete operation (or wait for an ongoing one to complete).",
            )  # fmt: skip
        raise ArmError(
            409, "AnotherOperationInProgress",
            f"Another operation on this or dependent resource is in progress. To retrieve status of the operation use uri: "
            f"{at.base}{at.path}/providers/{old.type.partition('/')[0]}/locations/{old.location}/operations/{old.operation}.",
        )  # fmt: skip


def _not_allowed(at: Subscription, kind: Kind, request: Request) -> Reply:
    raise ArmError(
        405, "HttpMethodNotAllowed", f"The HTTP method '{request.method}' is not supported at scope '{request.path}'."
    )


def _unknown_type(target: Target) -> ArmError:
    namespace, _, type = target.type.partition("/")
    if not any(known.startswith(f"{namespace}/") for known in KINDS):
        return ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{namespace}' is invalid.")
    return ArmError(
        404, "InvalidResourceType", f"The resource type '{type}' could not be found in the namespace '{namespace}'."
    )


VERBS = {"PUT": _put, "PATCH": _patch, "GET": _get, "HEAD": _head, "DELETE": _delete}
