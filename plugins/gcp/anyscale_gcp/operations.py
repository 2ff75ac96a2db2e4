"""What Compute Engine does in the background: looked at where something has to be known, never waited for."""

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.errors import CloudError, NotFound, Transient
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import Instance, InstanceState
from anyscale_core.models.owner import Owner
from anyscale_gcp.client import Client
from anyscale_gcp.errors import of_operation
from anyscale_gcp.tags import plain

DONE = "DONE"
EXPECTED_MAX = 10_000


def done(operation: Mapping[str, Any], *, resource: str = "") -> bool:
    """Tell whether an operation has ended. Raises the error that it has ended with."""
    error = of_operation(operation, resource=resource)
    if error is not None:
        raise error
    return operation.get("status") == DONE


def complete(page: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Return a page of an aggregated list. Raises Transient for one that some place has not answered for."""
    silent = list(page.get("unreachables", ()))
    for place, scoped in page.get("items", {}).items():
        if scoped.get("warning", {}).get("code", "NO_RESULTS_ON_PAGE") != "NO_RESULTS_ON_PAGE":
            silent.append(place)
    if silent:
        raise Transient(f"the list of {what} lacks {', '.join(sorted(silent))}", reason="SERVER", hint="list again")
    return page


def going(client: Client, *, project: str, deadline: datetime) -> frozenset[str]:
    """Return the ids of what is being deleted in a project."""
    pages = client.pages(
        "compute.globalOperations.aggregatedList", project=project, deadline=deadline,
        filter='(operationType = "delete") AND (status != "DONE")',
    )  # fmt: skip
    return frozenset(
        str(operation.get("targetId"))
        for page in pages
        for scoped in complete(page, "operations")["items"].values()
        for operation in scoped.get("operations", ())
        if operation.get("operationType") == "delete" and operation.get("status") != DONE
    )


@attrs.frozen(kw_only=True)
class Coming:
    """An instance that was asked for and has not come yet, and the operation that makes it."""

    instance: Instance
    operation: str


class Expected:
    """The instances that this process has asked for and that have not come yet. Threads may share it.

    An insert that fails late leaves nothing that a list could show. What becomes of the operation is told here instead:
    PENDING while it runs, STOPPED with Google's words once it has failed. It is a help, not a record: another process
    finds such an instance absent.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._coming: dict[InstanceId, Coming] = {}

    def add(self, instance: Instance, operation: Mapping[str, Any]) -> None:
        """Expect an instance."""
        with self._lock:
            if len(self._coming) < EXPECTED_MAX:
                self._coming[instance.id] = Coming(instance=instance, operation=str(operation["name"]))

    def settled(self, instances: Iterable[Instance]) -> None:
        """Expect no longer what has come: one that is PENDING still may vanish."""
        self.forget(instance.id for instance in instances if instance.state is not InstanceState.PENDING)

    def forget(self, ids: Iterable[InstanceId]) -> None:
        """Expect nothing of these any more."""
        with self._lock:
            for id in ids:
                self._coming.pop(id, None)

    def of(self, owner: Owner) -> tuple[InstanceId, ...]:
        """Return the ids of the owner's instances that are expected."""
        with self._lock:
            return tuple(id for id, coming in self._coming.items() if owner.owns(coming.instance.tags))

    def look(self, id: InstanceId, *, project: str, deadline: datetime) -> Instance | None:
        """Return an expected instance as its operation has it; None when nothing is to be expected of it any more."""
        with self._lock:
            coming = self._coming.get(id)
        if coming is None:
            return None
        error: CloudError | None = None
        try:
            operation = self._client.call(
                "compute.zoneOperations.get", project=project, zone=plain(coming.instance.zone),
                operation=coming.operation, deadline=deadline,
            )  # fmt: skip
            error = of_operation(operation, resource=coming.instance.name)
        except NotFound:  # operations are kept for some days and then forgotten
            operation = {"status": DONE}
        if error is not None:
            code = error.vendor.code if error.vendor is not None else ""
            return attrs.evolve(
                coming.instance, state=InstanceState.STOPPED, reason=f"{code}: {error.message}", failure=error
            )
        if operation.get("status") != DONE:
            return coming.instance
        self.forget([id])
        return None
