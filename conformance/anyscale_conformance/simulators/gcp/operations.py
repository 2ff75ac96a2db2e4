"""Long-running operations of Compute Engine: they start at once, end by the clock, and may end with an error.

A failure that comes late is an answer of status 200 whose operation is DONE with ``error.errors[].code``.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.lists import aggregated, listed
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Failure, Project, Resource, stamp


class OperationError(Exception):
    """Why an operation failed: its code and message, and the HTTP status that it stands for."""

    def __init__(self, code: str, message: str, *, http: int = 400, details: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.http = code, message, http
        self.details = list(details)

    def body(self) -> Json:
        """Return it as an operation shows it."""
        error: Json = {"code": self.code, "message": self.message}
        return error | ({"errorDetails": self.details} if self.details else {})


def start(
    call: Call,
    kind: str,
    target: Resource,
    *,
    after: timedelta,
    finish: Callable[[], None] = lambda: None,
    undo: Callable[[], None] = lambda: None,
    group: str = "",
) -> Resource:
    """Start an operation on a thing; ``finish`` runs when it ends, and fails it by raising OperationError.

    ``undo`` runs instead when a failure was planned for an operation of this kind.
    """
    operation = begin(call.project, kind, target, user=call.caller.email, group=group)
    planned = call.project.failures.get(kind)
    if planned:
        finish = _failing(planned.pop(0), undo)
    call.project.later(after, lambda: end(call.project, operation, finish))
    return operation


def _failing(failure: Failure, undo: Callable[[], None]) -> Callable[[], None]:
    def fail() -> None:
        undo()
        raise OperationError(failure.code, failure.message, http=failure.http)

    return fail


def begin(project: Project, kind: str, target: Resource, *, user: str, group: str = "") -> Resource:
    """Let an operation be there, running, in the scope of what it is about."""
    number = project.new_id()
    digest = hashlib.sha256(f"{project.id}/{number}".encode()).hexdigest()
    prefix = "systemevent" if user == "system" else "operation"
    name = f"{prefix}-{int(project.now.timestamp() * 1000)}-{digest[:13]}-{digest[13:21]}-{digest[21:29]}"
    body: Json = {
        "operationType": kind,
        "targetLink": target.link,
        "targetId": target.body.get("id", "0"),
        "status": "RUNNING",
        "progress": 0,
        "user": user,
        "insertTime": stamp(project.now),
        "startTime": stamp(project.now),
    }
    if group:
        body["operationGroupId"] = group
    operation = project.add("operations", target.scope, name, body)
    del operation.body["creationTimestamp"]
    return operation


def end(project: Project, operation: Resource, finish: Callable[[], None] = lambda: None) -> None:
    """End an operation, as ``finish`` goes."""
    if operation.body["status"] == "DONE":
        return
    try:
        finish()
    except OperationError as error:
        operation.body |= {
            "error": {"errors": [error.body()]},
            "httpErrorStatusCode": error.http,
            "httpErrorMessage": HTTPStatus(error.http).phrase.upper(),
        }
    operation.body |= {"status": "DONE", "progress": 100, "endTime": stamp(project.now)}


@handles(
    "compute.zoneOperations.get", "compute.regionOperations.get", "compute.globalOperations.get",
    "compute.zoneOperations.wait", "compute.regionOperations.wait", "compute.globalOperations.wait",
)  # fmt: skip
def get(call: Call) -> Json:
    """Answer with an operation as it stands; ``wait`` does so at once, which the API allows it."""
    return call.project.get("operations", scope_of(call), call.params["operation"]).body


@handles("compute.zoneOperations.list", "compute.regionOperations.list", "compute.globalOperations.list")
def list_operations(call: Call) -> Json:
    """Answer with the operations of a scope."""
    return listed(call, "operations", scope_of(call), kind="compute#operationList")


@handles("compute.globalOperations.aggregatedList")
def aggregated_operations(call: Call) -> Json:
    """Answer with the operations of all scopes."""
    return aggregated(call, "operations", kind="compute#operationAggregatedList")


@handles("compute.zoneOperations.delete", "compute.regionOperations.delete", "compute.globalOperations.delete")
def delete(call: Call) -> None:
    """Forget an operation."""
    call.project.remove(call.project.get("operations", scope_of(call), call.params["operation"]))


def scope_of(call: Call) -> str:
    """Return the scope that a path names."""
    if "zone" in call.params and "/zones/" in call.method.template:
        return f"zones/{call.params['zone']}"
    if "region" in call.params and "/regions/" in call.method.template:
        return f"regions/{call.params['region']}"
    return "global"
