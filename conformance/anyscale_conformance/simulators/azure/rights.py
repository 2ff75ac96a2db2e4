"""Who may do what: role assignments, when they are enforced, and locks."""

from collections.abc import Iterable

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Request


def check(at: Subscription, request: Request, action: str) -> None:
    """Refuse who has no role with this action at this scope. Raises ArmError."""


def check_links(at: Subscription, request: Request, links: Iterable[tuple[str, str]]) -> None:
    """Refuse who may not use what the request refers to. Raises ArmError."""


def check_locks(at: Subscription, resource: Resource) -> None:
    """Refuse to delete what is locked. Raises ArmError."""
    if resource.hidden.get("locked"):
        raise ArmError(
            409, "ScopeLocked",
            f"The scope '{resource.id}' cannot perform delete operation because following scope(s) are locked: "
            f"'{resource.id}'. Please remove the lock and try again.",
        )  # fmt: skip
