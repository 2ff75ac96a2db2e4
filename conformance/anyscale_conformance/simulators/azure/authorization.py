"""Microsoft.Authorization: roles, who has them where, and locks."""

import re
import uuid
from collections.abc import Iterator

from anyscale_conformance.simulators.azure import conditions
from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, fits, shown
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource, instant
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request

ASSIGNMENTS = "Microsoft.Authorization/roleAssignments"
DEFINITIONS = "Microsoft.Authorization/roleDefinitions"
LOCKS = "Microsoft.Authorization/locks"
GUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
DELEGATE = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"
BUILT_IN: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635": ("Owner", ("*",), (), ()),
    "b24988ac-6180-42a0-ab88-20f7382dd24c": (
        "Contributor", ("*",), ("Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write"), (),
    ),
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": ("Reader", ("*/read",), (), ()),
    "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9": (
        "User Access Administrator", ("*/read", "Microsoft.Authorization/*"), (), (),
    ),
    "f1a07417-d97a-45cb-824c-7a7467783830": (
        "Managed Identity Operator",
        ("Microsoft.ManagedIdentity/userAssignedIdentities/*/read",
         "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action"), (), (),
    ),
    "4d97b98b-1d4f-4787-a291-c67834d212e7": ("Network Contributor", ("Microsoft.Network/*",), (), ()),
    "9980e02c-c2be-4d73-94e8-173b1dc7cf3c": (
        "Virtual Machine Contributor",
        ("Microsoft.Compute/virtualMachines/*", "Microsoft.Compute/disks/*", "Microsoft.Compute/locations/*",
         "Microsoft.Network/networkInterfaces/*", "Microsoft.Network/virtualNetworks/subnets/join/action"), (), (),
    ),
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": (
        "Storage Blob Data Owner", (f"{CONTAINERS}/*", DELEGATE), (), (f"{BLOBS}/*",),
    ),
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": (
        "Storage Blob Data Contributor",
        (f"{CONTAINERS}/delete", f"{CONTAINERS}/read", f"{CONTAINERS}/write", DELEGATE), (),
        (f"{BLOBS}/delete", f"{BLOBS}/read", f"{BLOBS}/write", f"{BLOBS}/move/action", f"{BLOBS}/add/action"),
    ),
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": (
        "Storage Blob Data Reader", (f"{CONTAINERS}/read", DELEGATE), (), (f"{BLOBS}/read",),
    ),
    "db58b8e5-c6ad-4a2a-8342-4190687cbf4a": ("Storage Blob Delegator", (DELEGATE,), (), ()),
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": ("AcrPull", ("Microsoft.ContainerRegistry/registries/pull/read",), (), ()),
}  # fmt: skip
"""Some of the roles that every tenant has: name, actions, not-actions, data actions."""


@register
class RoleDefinition(Kind):
    """A role of the customer's own; those that are built in are shown, and cannot be changed."""

    type = DEFINITIONS
    shape = "authorization.RoleDefinition"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    has_location = False
    name_pattern = r".+"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        if not fits(GUID, request.target.name):
            raise invalid(
                f"The role definition ID '{request.target.name}' is not valid. The role definition ID must be a GUID.",
                code="InvalidRoleDefinitionId",
            )
        properties = body.get("properties") or {}
        for name in ("roleName", "permissions", "assignableScopes"):
            if not properties.get(name):
                raise invalid(f"The role definition has no {name}.", code="InvalidRoleDefinition", target=name)
        for other in at.all(DEFINITIONS):
            if other is not old and other.properties["roleName"] == properties["roleName"]:
                raise ArmError(
                    409, "RoleDefinitionWithSameNameExists",
                    f"A custom role with the same name already exists in this directory. Use a different name: {other.id}",
                )  # fmt: skip

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        resource.properties["type"] = "CustomRole"
        for permission in resource.properties["permissions"]:
            for name in ("actions", "notActions", "dataActions", "notDataActions"):
                permission.setdefault(name, [])

    def check_delete(self, at: Subscription, resource: Resource, request: Request) -> None:
        for assignment in at.all(ASSIGNMENTS):
            if assignment.properties["roleDefinitionId"].rpartition("/")[2].lower() == resource.name.lower():
                raise invalid(
                    f"There are existing role assignments referencing role (code: RoleDefinitionHasAssignments): "
                    f"{assignment.id}.", code="RoleDefinitionHasAssignments",
                )  # fmt: skip

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        body = _plain(resource)
        body["properties"].pop("resourceGuid", None)
        return body

    def filtered(self, at: Subscription, found: list[Resource], request: Request) -> list[Resource]:
        everything = [*built_in(at), *at.all(DEFINITIONS)]
        wanted = request.query.get("$filter", "")
        if name := re.fullmatch(r"roleName\s+eq\s+'([^']*)'", wanted.strip()):
            return [one for one in everything if one.properties["roleName"] == name[1]]
        if type := re.fullmatch(r"type\s+eq\s+'([^']*)'", wanted.strip(), re.IGNORECASE):
            return [one for one in everything if one.properties["type"].lower() == type[1].lower()]
        if wanted and not wanted.lower().startswith("atscope"):
            raise ArmError(400, "InvalidFilter", f"The filter '{wanted}' is invalid.")
        return everything


@register
class RoleAssignment(Kind):
    """Who has a role, and where."""

    type = ASSIGNMENTS
    shape = "authorization.RoleAssignmentCreateParameters"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    has_location = False
    name_pattern = r".+"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        if not fits(GUID, request.target.name):
            raise invalid(
                f"The role assignment ID '{request.target.name}' is not valid. The role assignment ID must be a GUID.",
                code="InvalidRoleAssignmentId",
            )
        properties = body["properties"]
        if definition(at, properties["roleDefinitionId"]) is None:
            raise ArmError(
                404, "RoleDefinitionDoesNotExist",
                f"The specified role definition with ID '{properties['roleDefinitionId'].rpartition('/')[2]}' does not exist.",
            )  # fmt: skip
        if properties.get("condition") and properties.get("conditionVersion") != "2.0":
            raise invalid("A condition needs the conditionVersion 2.0.", code="InvalidConditionVersion")
        try:
            conditions.parse(properties["condition"]) if properties.get("condition") else None
        except ValueError as fault:
            raise invalid(f"The role assignment condition is not valid: {fault}.", code="InvalidConditionSyntax")
        _check_principal(at, properties)
        _check_alone(at, request, properties, old)
        count = sum(1 for _ in at.all(ASSIGNMENTS))
        if old is None and count >= at.limit("roleAssignments", ""):
            raise invalid(
                "No more role assignments can be created (code: RoleAssignmentLimitExceeded).",
                code="RoleAssignmentLimitExceeded",
            )

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        before = (old or {}).get("properties") or {}
        created = before.get("createdOn", instant(at.now()))
        resource.properties.update(scope=resource.target.scope, createdOn=created, updatedOn=instant(at.now()))
        resource.properties.setdefault("principalType", "ServicePrincipal")

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        return _plain(resource)

    def filtered(self, at: Subscription, found: list[Resource], request: Request) -> list[Resource]:
        scope, wanted = request.target.scope.lower(), request.query.get("$filter", "").strip()
        related = [
            one
            for one in at.all(ASSIGNMENTS)
            if f"{scope}/".startswith(f"{_scope(one)}/") or f"{_scope(one)}/".startswith(f"{scope}/")
        ]
        if not wanted:
            return related
        if wanted.lower() == "atscope()":
            return [one for one in related if f"{scope}/".startswith(f"{_scope(one)}/")]
        if who := re.fullmatch(r"(?:principalId\s+eq\s+|assignedTo\()'([^']*)'\)?", wanted, re.IGNORECASE):
            return [one for one in related if one.properties["principalId"].lower() == who[1].lower()]
        raise ArmError(400, "InvalidFilter", f"The filter '{wanted}' is invalid.")


@register
class Lock(Kind):
    """What keeps a resource, or all of a group, from being deleted."""

    type = LOCKS
    shape = "locks.ManagementLockObject"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    has_location = False
    name_pattern = r"[^<>%&\\?/]{1,260}"

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        return _plain(resource)


def definition(at: Subscription, id: str) -> Resource | None:
    """Return a role by its id, in whichever scope it is written."""
    name = id.rpartition("/")[2].lower()
    return next((one for one in (*built_in(at), *at.all(DEFINITIONS)) if one.name.lower() == name), None)


def built_in(at: Subscription) -> Iterator[Resource]:
    """Yield the roles that every tenant has."""
    for name, (role, actions, not_actions, data_actions) in BUILT_IN.items():
        permission = {
            "actions": list(actions), "notActions": list(not_actions), "dataActions": list(data_actions),
            "notDataActions": [],
        }  # fmt: skip
        properties = {"roleName": role, "type": "BuiltInRole", "permissions": [permission], "assignableScopes": ["/"]}
        yield Resource(
            id=f"{at.path}/providers/{DEFINITIONS}/{name}", type=DEFINITIONS, name=name, body={"properties": properties},
            made_at=at.started,
        )  # fmt: skip


def _check_principal(at: Subscription, properties: Body) -> None:
    known_since = at.directory.principals.get(properties["principalId"])
    # With its type given, a principal that has not reached every directory yet is taken on trust.
    is_seen = known_since is not None and (known_since <= at.now() or properties.get("principalType"))
    if not is_seen:
        raise invalid(
            f"Principal {properties['principalId'].replace('-', '')} does not exist in the directory {at.tenant_id}. Check that "
            "you have the correct principal ID. If you are creating this principal and then immediately assigning a role, this "
            "error might be related to a replication delay. In this case, set the role assignment principalType property to a "
            "value, such as ServicePrincipal, User, or Group.  See https://aka.ms/docs-principaltype", code="PrincipalNotFound",
        )  # fmt: skip


def _check_alone(at: Subscription, request: Request, properties: Body, old: Resource | None) -> None:
    def essence(body: Body) -> tuple[str, str]:
        return body["principalId"].lower(), body["roleDefinitionId"].rpartition("/")[2].lower()

    if old is not None and essence(old.properties) != essence(properties):
        raise invalid(
            "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
            code="RoleAssignmentUpdateNotPermitted",
        )
    scope = request.target.scope.lower()
    for other in at.all(ASSIGNMENTS):
        if other is not old and _scope(other) == scope and essence(other.properties) == essence(properties):
            raise ArmError(
                409, "RoleAssignmentExists",
                f"The role assignment already exists. The ID of the conflicting role assignment is "
                f"{uuid.UUID(other.name).hex}.",
            )  # fmt: skip


def _scope(assignment: Resource) -> str:
    return assignment.target.scope.lower()


def _plain(resource: Resource) -> Body:
    body = shown(resource)
    body.pop("etag")
    body["properties"].pop("provisioningState")
    return body
