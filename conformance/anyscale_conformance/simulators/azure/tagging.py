"""Microsoft.Resources/tags: the tags of anything, without the rest of it."""

from anyscale_conformance.simulators.azure.errors import ArmError, resource_not_found
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request, parse


def answer(at: Subscription, request: Request) -> Reply:
    """Answer a request on ``{scope}/providers/Microsoft.Resources/tags/default``. Raises ArmError."""
    if request.target.name.lower() != "default":
        raise ArmError(400, "InvalidTagsResourceName", "The name of the tags resource has to be 'default'.")
    resource = at.find(request.target.scope)
    if resource is None:
        target = parse(request.target.scope)
        raise resource_not_found(target.type, target.name, target.group)
    if request.method != "GET":
        tags = dict(_changed(resource, request))
        if len(tags) > 50:
            raise ArmError(400, "TooManyTags", "The number of tags on a resource exceeds the limit of 50.")
        resource.body["tags"] = tags
        resource.touch()
    shown = {
        "id": f"{resource.id}/providers/Microsoft.Resources/tags/default", "name": "default",
        "type": "Microsoft.Resources/tags", "properties": {"tags": resource.tags},
    }  # fmt: skip
    return Reply(status=200, body=None if request.method == "DELETE" else shown)


def _changed(resource: Resource, request: Request) -> dict[str, str]:
    body: Body = request.body or {}
    wanted: dict[str, str] = (body.get("properties") or {}).get("tags") or {}
    match request.method, str(body.get("operation", "")).lower():
        case "PUT", _:
            return wanted
        case "DELETE", _:
            return {}
        case "PATCH", "merge":
            return {**resource.tags, **wanted}
        case "PATCH", "replace":
            return wanted
        case "PATCH", "delete":
            return {name: value for name, value in resource.tags.items() if wanted.get(name) != value}
    raise ArmError(400, "InvalidTagsPatchOperation", "The operation has to be Merge, Replace or Delete.")
