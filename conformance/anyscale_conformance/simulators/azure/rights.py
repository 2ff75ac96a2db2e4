"""Who may do what: role assignments, when they are enforced, and locks."""

import re
from collections.abc import Iterable, Iterator

from anyscale_conformance.simulators.azure.authorization import ASSIGNMENTS, LOCKS, definition
from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.registry import known_type
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request

GROUPS = "Microsoft.Resources/resourceGroups"
VERBS = {"PUT": "write", "PATCH": "write", "GET": "read", "HEAD": "read", "DELETE": "delete", "POST": "action"}
FREE = re.compile(r"Microsoft\.Resources/(read|providers/read|subscriptions/locations/read)", re.IGNORECASE)
"""What everybody who is in the tenant may read."""


def needed(request: Request) -> str:
    """Return the action that a request needs: ``Microsoft.Compute/virtualMachines/write``."""
    name = known_type(request.target)
    if name.startswith(GROUPS):
        name = name.replace("Microsoft.Resources", "Microsoft.Resources/subscriptions", 1)
    return f"{name}/{VERBS.get(request.method, 'action')}"


def check(at: Subscription, request: Request) -> None:
    """Refuse who has no role with what a request needs at its scope. Raises ArmError."""
    action = needed(request)
    if may(at, request.principal, action, request.target.path) or FREE.fullmatch(action):
        return
    raise ArmError(
        403, "AuthorizationFailed",
        f"The client '{request.principal}' with object id '{request.principal}' does not have authorization to perform action "
        f"'{action}' over scope '{request.target.path}' or the scope is invalid. If access was recently granted, please refresh "
        "your credentials.",
    )  # fmt: skip


def check_links(at: Subscription, request: Request, links: Iterable[tuple[str, str]]) -> None:
    """Refuse who may not use what the request refers to. Raises ArmError."""
    for id, action in links:
        if not may(at, request.principal, action, id):
            raise ArmError(
                403, "LinkedAuthorizationFailed",
                f"The client '{request.principal}' with object id '{request.principal}' has permission to perform action "
                f"'{needed(request)}' on scope '{request.target.path}'; however, it does not have permission to perform action "
                f"'{action}' on the linked scope(s) '{id}' or the linked scope(s) are invalid.",
            )  # fmt: skip


def may(at: Subscription, principal: str, action: str, path: str) -> bool:
    """Tell whether a principal has a role with an action at a path: always, unless the subscription enforces its roles."""
    if not at.is_enforced or principal == at.owner.principal:
        return True
    return any(_allows(permission, action, "actions") for _, permission in _reaching(at, principal, path))


def data_assignments(at: Subscription, principal: str, action: str, path: str) -> Iterator[str]:
    """Yield the conditions (empty: none) of a principal's roles that have a data action at a path."""
    for assignment, permission in _reaching(at, principal, path):
        if _allows(permission, action, "dataActions"):
            yield str(assignment.properties.get("condition") or "")


def _reaching(at: Subscription, principal: str, path: str) -> Iterator[tuple[Resource, Body]]:
    """Yield the assignments of a principal that reach a path, once they have spread, with what each permits."""
    for assignment in at.all(ASSIGNMENTS):
        scope = assignment.target.scope.lower()
        if assignment.properties["principalId"] != principal or not f"{path.lower()}/".startswith(f"{scope}/"):
            continue
        role = definition(at, assignment.properties["roleDefinitionId"])
        if role is not None and at.now() >= assignment.made_at + at.propagation:
            for permission in role.properties["permissions"]:
                yield assignment, permission


def check_locks(at: Subscription, resource: Resource) -> None:
    """Refuse to delete what is locked, itself or all around it; a lock itself can be. Raises ArmError."""
    if resource.type == LOCKS:
        return
    for lock in at.all(LOCKS):
        scope = lock.target.scope
        if f"{resource.key}/".startswith(f"{scope.lower()}/"):
            raise ArmError(
                409, "ScopeLocked",
                f"The scope '{resource.id}' cannot perform delete operation because following scope(s) are locked: '{scope}'. "
                "Please remove the lock and try again.",
            )  # fmt: skip


def _allows(permission: Body, action: str, kind: str) -> bool:
    without = f"not{kind[0].upper()}{kind[1:]}"
    return _matches(permission.get(kind) or (), action) and not _matches(permission.get(without) or (), action)


def _matches(patterns: Iterable[str], action: str) -> bool:
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), action, re.IGNORECASE) is not None for pattern in patterns
    )
