"""What is said of a whole subscription: its operations, its sizes of machines, its limits, its providers."""

from collections.abc import Callable

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.registry import KINDS
from anyscale_conformance.simulators.azure.store import Operation, instant
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Reply, Request

Route = Callable[[Subscription, Request], Reply]
ROUTES: dict[tuple[str, str], Route] = {}
"""What answers a method on a path of a subscription, by its type in small letters."""


def route(method: str, type: str) -> Callable[[Route], Route]:
    """Have a function answer a method on ``/subscriptions/{id}/providers/{type}``."""

    def register(act: Route) -> Route:
        ROUTES[method, type.lower()] = act
        return act

    return register


def progress(at: Subscription, request: Request) -> Reply:
    """Answer a look at an operation: its status at ``operations``, its outcome at ``operationresults``."""
    operation = at.operations.get(request.target.last)
    if operation is None:
        raise ArmError(404, "NotFound", f"The operation '{request.target.last}' could not be found.")
    if "/operationresults/" in request.target.key:
        return _outcome(at, operation, request)
    body: Body = {"id": request.path, "name": operation.id, "status": operation.status}
    body["startTime"] = instant(operation.started)
    if operation.finished is not None:
        body["endTime"] = instant(operation.finished)
    if operation.error is not None:
        body["error"] = operation.error.error
    headers = {} if operation.finished else at.again()
    return Reply(status=200, body=body, headers=headers)


def _outcome(at: Subscription, operation: Operation, request: Request) -> Reply:
    if operation.status == "InProgress":
        url = f"{request.base}{request.path}?api-version={request.version}"
        return Reply(status=202, headers={"Location": url, **at.again()})
    if operation.error is not None:
        raise operation.error
    resource = at.find(operation.result) if operation.result else None
    if resource is None:
        return Reply(status=204)
    return Reply(status=200, body=KINDS[resource.type.lower()].view(at, resource, request))
