"""Lists of Compute Engine: filtered, ordered, in pages, and aggregated over scopes."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta

from anyscale_conformance.simulators.gcp import filters
from anyscale_conformance.simulators.gcp.calls import Call
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import LINK, Resource

View = Callable[[Resource], Json]
MOST = 500
"""The largest page, and the default one."""


def shown(thing: Resource) -> Json:
    """Return a thing as it is."""
    return thing.body


def listed(call: Call, collection: str, scope: str, *, kind: str, view: View = shown) -> Json:
    """Answer a list of one scope."""
    found, more = _page(call, _visible(call, collection, scope), view)
    answer: Json = {"kind": kind, "id": f"projects/{call.project.id}/{scope}/{collection}", "selfLink": _link(call)}
    if found:
        answer["items"] = [body for _, body in found]
    return answer | ({"nextPageToken": more} if more else {})


def aggregated(call: Call, collection: str, *, kind: str, view: View = shown, scopes: Sequence[str] = ()) -> Json:
    """Answer an aggregated list: by scope, an empty scope with a warning; a page may end within a scope."""
    found, more = _page(call, _visible(call, collection, ""), view)
    items: dict[str, Json] = {}
    for thing, body in found:
        items.setdefault(thing.scope, {}).setdefault(collection, []).append(body)
    for scope in scopes or call.cloud.scopes(collection):
        items.setdefault(scope, {"warning": _nothing(scope)})
    answer: Json = {
        "kind": kind, "id": f"projects/{call.project.id}/aggregated/{collection}", "selfLink": _link(call),
        "items": dict(sorted(items.items())),
    }  # fmt: skip
    return answer | ({"nextPageToken": more} if more else {})


def _visible(call: Call, collection: str, scope: str) -> list[Resource]:
    before = call.project.now - call.project.lag
    things = call.project.all(collection, scope)
    return [thing for thing in things if call.project.lag == timedelta() or thing.created_at <= before]


def _page(call: Call, things: Sequence[Resource], view: View) -> tuple[Sequence[tuple[Resource, Json]], str]:
    test = filters.parse(call.params.get("filter", ""))
    pairs = [(thing, body) for thing in things if test(body := view(thing))]
    order = call.params.get("orderBy", "")
    if order not in ("", "name", "creationTimestamp desc"):
        raise ApiError(400, "invalid", f"Invalid value for field 'orderBy': '{order}'.")
    newest_first = order.startswith("creation")

    def key(pair: tuple[Resource, Json]) -> tuple[float, str]:
        return (-pair[0].created_at.timestamp() if newest_first else 0.0, pair[0].key)

    size = call.number("maxResults", MOST)
    if size > MOST:
        raise ApiError(400, "invalid", f"Invalid value for field 'maxResults': '{size}'. Must be at most {MOST}.")
    query = {name: value for name, value in call.params.items() if name not in ("pageToken", "maxResults", "fields")}
    asked = hashlib.sha256(repr((call.method.id, sorted(query.items()))).encode()).hexdigest()[:16]
    return filters.page(
        sorted(pairs, key=key), key=key, size=size or MOST, token=call.params.get("pageToken", ""), scope=asked
    )


def _link(call: Call) -> str:
    words = call.method.template.format(**{**call.params, "project": call.project.id})
    return f"{LINK}{words}"


def _nothing(scope: str) -> Json:
    return {
        "code": "NO_RESULTS_ON_PAGE",
        "message": f"There are no results for scope '{scope}' on this page.",
        "data": [{"key": "scope", "value": scope}],
    }
