"""How resources go, how operations are followed and how lists are cut into pages: what several types need."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.kinds import Flow, Kind
from anyscale_conformance.simulators.azure.registry import KINDS
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

BEING_DELETED = "Deleting"
T = TypeVar("T")


def begin_delete(at: Subscription, kind: Kind, resource: Resource, request: Request | None = None) -> str:
    """Start the end of a resource and return the operation's id."""
    at.supersede(
        resource,
        ArmError(409, "OperationPreempted", "Operation execution has been preempted by a more recent operation."),
    )
    resource.state = BEING_DELETED
    hurry = request is not None and request.query.get("forcedeletion", "").lower() == "true"
    takes = kind.goes / 2 if hurry else kind.goes
    operation = at.begin(resource, takes)

    def gone() -> None:
        remove(at, resource)
        at.end(operation)

    at.on(operation.ends, gone)
    return operation.id


def remove(at: Subscription, resource: Resource) -> None:
    """Take a resource away now, with what goes along with it. Nothing happens when it is gone."""
    if at.find(resource.id) is not resource:
        return
    KINDS[resource.type.lower()].leave(at, resource)
    at.drop(resource)


def page(at: Subscription, request: Request, items: Iterable[T], view: Callable[[T], Any]) -> Reply:
    """Return one page of a list, each item as ``view`` shows it, with the link to the next."""
    everything = list(items)
    start = int(request.query.get("$skiptoken", "0") or 0)
    # A look at the state of every machine has longer pages than the machines themselves.
    size = at.page_size * 4 if "statusonly" in request.query else at.page_size
    size = at.page_sizes.get(request.target.type, size)
    body: Body = {"value": [view(item) for item in everything[start : start + size]]}
    if start + size < len(everything):
        query = {**request.query, "$skiptoken": str(start + size)}
        body["nextLink"] = f"{request.base}{quote(request.path)}?{urlencode(query)}"
    return Reply(status=200, body=body)


def headers_of(at: Subscription, request: Request, operation: str, flow: Flow) -> dict[str, str]:
    """Return the headers by which a client follows an operation."""
    found = at.operations[operation]
    start = f"{request.base}{at.path}/providers/{found.namespace}/locations/{found.location}"
    version = f"api-version={request.version}"
    headers = at.again()
    if flow in (Flow.ASYNC_OPERATION, Flow.BOTH):
        headers["Azure-AsyncOperation"] = f"{start}/operations/{operation}?{version}"
    if flow in (Flow.LOCATION, Flow.BOTH):
        headers["Location"] = f"{start}/operationresults/{operation}?{version}"
    return headers if flow not in (Flow.SYNC, Flow.BODY) else {}
