"""What the APIs beside Compute Engine share: pages, times, and operations of google.longrunning."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from anyscale_conformance.simulators.gcp import filters
from anyscale_conformance.simulators.gcp.calls import Call
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.schema import Json


def zulu(at: datetime) -> str:
    """Return an instant as these APIs write it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def paged(call: Call, word: str, items: Sequence[Json], *, size: str = "pageSize", default: int = 100) -> Json:
    """Answer with a page by the order of names; a page that would be empty has no word for it."""
    count = min(call.number(size, default) or default, 1000)
    found, more = filters.page(
        sorted(items, key=_name), key=_name, size=count, token=call.params.get("pageToken", ""), scope=call.method.id
    )
    return ({word: list(found)} if found else {}) | ({"nextPageToken": more} if more else {})


def operation(call: Call, parent: str, response: Mapping[str, Any]) -> Json:
    """Answer with an operation that ends after a change's time; then it has its response."""
    body: Json = {"name": f"{parent}/operations/{call.project.new_id()}"}
    call.project.longrunning[body["name"]] = body

    def done() -> None:
        body.update(done=True, response=dict(response))

    call.project.later(call.project.timings.change, done)
    return body


def operation_named(call: Call) -> Json:
    """Answer with an operation as it stands."""
    found = call.project.longrunning.get(_by_id(call, call.params["name"]))
    if found is None:
        raise ApiError(404, "notFound", f"Operation {call.params['name']} not found.")
    return found


def masked(old: Json, new: Mapping[str, Any], mask: str) -> Json:
    """Return a resource after a patch of the fields of a mask. Raises 400 for an empty mask."""
    fields = [field.strip() for field in mask.split(",") if field.strip()]
    if not fields:
        raise ApiError(400, "badRequest", "The update mask is required.")
    result = dict(old)
    for field in fields:
        head, _, rest = _camel(field).partition(".")
        if rest:
            result[head] = masked(dict(result.get(head, {})), new.get(head, {}), rest)
        elif head in new:
            result[head] = new[head]
        else:
            result.pop(head, None)
    return result


def _name(item: Json) -> tuple[str]:
    return (str(item["name"]),)


def _camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _by_id(call: Call, name: str) -> str:
    """Return a resource's name with the project's number, as operations are named, or as it is."""
    words = name.split("/")
    return name if words[1].isdigit() else "/".join(["projects", str(call.project.number), *words[2:]])
