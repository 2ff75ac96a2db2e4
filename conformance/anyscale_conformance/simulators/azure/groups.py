"""Resource groups, the providers of a subscription, and resources of every type in one list."""

import re
from datetime import timedelta

from anyscale_conformance.simulators.azure import rights
from anyscale_conformance.simulators.azure.errors import ArmError, group_being_deleted, group_not_found
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, shown
from anyscale_conformance.simulators.azure.lifecycle import BEING_DELETED, headers_of, page, remove
from anyscale_conformance.simulators.azure.registry import KINDS, register
from anyscale_conformance.simulators.azure.store import Resource, merge
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

GROUP = "Microsoft.Resources/resourceGroups"
GOES = timedelta(seconds=20)
FILTER = re.compile(
    r"(tagName|resourceType|name)\s+eq\s+'([^']*)'(?:\s+and\s+tagValue\s+eq\s+'([^']*)')?", re.IGNORECASE
)


@register
class ResourceGroup(Kind):
    """A resource group. Its requests are answered here, not by the rules for resources."""

    type = GROUP
    delete_flow = Flow.LOCATION


def answer(at: Subscription, request: Request) -> Reply:
    """Answer a request on groups, on the subscription itself, or on all its resources."""
    words = request.target.path.strip("/").split("/")[2:]
    match [words[0].lower() if words else "", *words[1:]], request.method:
        case [""], "GET":
            return Reply(status=200, body=_subscription(at))
        case ["locations"], "GET":
            return Reply(
                status=200,
                body={"value": [{"name": name, "id": f"{at.path}/locations/{name}"} for name in at.locations]},
            )
        case ["resourcegroups"], "GET":
            return page(at, request, (group for group in at.all(GROUP) if _fits(group, request)), _view)
        case ["resourcegroups", _], "PUT" | "PATCH" | "GET" | "HEAD" | "DELETE":
            return VERBS[request.method](at, request)
        case ["resources"], "GET":
            return _resources(at, request, "")
        case ["resourcegroups", _, "resources"], "GET":
            return _resources(at, request, f"{_existing(at, request).id}/")
        case ["providers"], "GET":
            return page(at, request, _namespaces(), lambda name: _provider(at, name))
        case ["providers", namespace], "GET":
            return Reply(status=200, body=_provider(at, namespace))
        case ["providers", namespace, "register"], "POST":
            at.unregistered.discard(namespace.lower())
            return Reply(status=200, body=_provider(at, namespace))
    raise ArmError(404, "InvalidResourceType", f"The resource type could not be found at '{request.path}'.")


def _put(at: Subscription, request: Request) -> Reply:
    body, old = dict(request.body or {}), at.find(request.target.path)
    if unknown := set(body) - {"location", "tags", "managedBy", "properties", "id", "name", "type"}:
        raise ArmError(
            400, "InvalidRequestContent",
            f"The request content was invalid and could not be deserialized: 'Could not find member '{min(unknown)}' on "
            "object of type 'ResourceGroupDefinition'.",
        )  # fmt: skip
    if not re.fullmatch(r"[\w.()\-]{0,89}[\w()\-]", request.target.name):
        raise ArmError(
            400, "InvalidResourceGroup", f"The provided resource group name '{request.target.name}' is invalid."
        )
    if old is not None and old.state == BEING_DELETED:
        raise group_being_deleted(old.name)
    location = str(body.get("location", "")).replace(" ", "").lower()
    if old is None and not location:
        raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
    if location and location not in at.locations:
        raise ArmError(
            400, "LocationNotAvailableForResourceGroup",
            f"The provided location '{location}' is not available for resource group. List of available regions is "
            f"'{','.join(at.locations)}'.",
        )  # fmt: skip
    if old is not None:
        if location and location != old.location:
            raise ArmError(
                409, "InvalidResourceGroupLocation",
                f"Invalid resource group location '{location}'. The Resource group already exists in location '{old.location}'.",
            )  # fmt: skip
        old.body["tags"] = dict(body.get("tags") or {})
        return Reply(status=200, body=_view(old))
    group = at.group(request.target.name, location=location, tags=body.get("tags"))
    return Reply(status=201, body=_view(group))


def _patch(at: Subscription, request: Request) -> Reply:
    group = _existing(at, request)
    group.body = merge(group.body, {"tags": dict((request.body or {}).get("tags") or {})})
    return Reply(status=200, body=_view(group))


def _get(at: Subscription, request: Request) -> Reply:
    return Reply(status=200, body=_view(_existing(at, request)))


def _head(at: Subscription, request: Request) -> Reply:
    return Reply(status=204 if at.find(request.target.path) else 404)


def _delete(at: Subscription, request: Request) -> Reply:
    group = _existing(at, request)
    inside = [found for found in tuple(at.resources.values()) if found.key.startswith(f"{group.key}/")]
    for resource in inside:
        rights.check_locks(at, resource)
    if group.state == BEING_DELETED:
        return Reply(status=202, headers=headers_of(at, request, group.operation, Flow.LOCATION))
    group.state = BEING_DELETED
    operation = at.begin(group, GOES)

    def gone() -> None:
        for resource in [found for found in tuple(at.resources.values()) if found.key.startswith(f"{group.key}/")]:
            remove(at, resource)
        at.drop(group)
        at.end(operation)

    at.on(operation.ends, gone)
    return Reply(status=202, headers=headers_of(at, request, operation.id, Flow.LOCATION))


def _resources(at: Subscription, request: Request, below: str) -> Reply:
    found = [
        resource
        for resource in tuple(at.resources.values())
        if resource.type != GROUP and resource.body.get("location") and resource.key.startswith(below.lower())
        and _fits(resource, request)
    ]  # fmt: skip
    return page(at, request, found, _short)


def _short(resource: Resource) -> Body:
    kept: Body = {
        key: resource.body[key] for key in ("location", "tags", "sku", "zones", "identity") if key in resource.body
    }
    return {"id": resource.id, "name": resource.name, "type": resource.type, **kept}


def _fits(resource: Resource, request: Request) -> bool:
    wanted = request.query.get("$filter", "")
    if not wanted:
        return True
    found = FILTER.fullmatch(wanted.strip())
    if found is None:
        raise ArmError(400, "InvalidFilterInQueryString", f"Invalid $filter '{wanted}' specified in the query string.")
    word, value, tag_value = found[1].lower(), found[2], found[3]
    if word == "resourcetype":
        return resource.type.lower() == value.lower()
    if word == "name":
        return resource.name.lower() == value.lower()
    # The names of tags are compared without regard to case, their values with it.
    tags = {name.lower(): kept for name, kept in resource.tags.items()}
    return value.lower() in tags and (tag_value is None or tags[value.lower()] == tag_value)


def _existing(at: Subscription, request: Request) -> Resource:
    group = at.find(f"{at.path}/resourceGroups/{request.target.group}")
    if group is None:
        raise group_not_found(request.target.group)
    return group


def _view(group: Resource) -> Body:
    return {name: value for name, value in shown(group).items() if name != "etag"}


def _subscription(at: Subscription) -> Body:
    return {
        "id": at.path, "subscriptionId": at.id, "tenantId": at.tenant_id, "displayName": "simulated", "state": "Enabled",
        "subscriptionPolicies": {"spendingLimit": "Off"}, "authorizationSource": "RoleBased",
    }  # fmt: skip


def _namespaces() -> list[str]:
    return sorted({kind.type.partition("/")[0] for kind in KINDS.values()})


def _provider(at: Subscription, namespace: str) -> Body:
    name = next((known for known in _namespaces() if known.lower() == namespace.lower()), None)
    if name is None:
        raise ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{namespace}' is invalid.")
    types = [kind.type.partition("/")[2] for kind in KINDS.values() if kind.type.startswith(f"{name}/")]
    return {
        "id": f"{at.path}/providers/{name}", "namespace": name,
        "registrationState": "NotRegistered" if name.lower() in at.unregistered else "Registered",
        "resourceTypes": [{"resourceType": type, "locations": list(at.locations)} for type in types],
    }  # fmt: skip


VERBS = {"PUT": _put, "PATCH": _patch, "GET": _get, "HEAD": _head, "DELETE": _delete}
