"""Role assignments that let an identity at prefixes of a container: one assignment for each identity and access.

Azure takes one assignment of a role to a principal at a scope, so all prefixes of an identity stand in one condition. Render
and parse are twins: the condition itself is the record of what is granted.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_azure.client import Azure
from anyscale_core.errors import InvalidRequest
from anyscale_core.models.identity import Access

ASSIGNMENT = "Microsoft.Authorization/roleAssignments"
VERSION = "2022-04-01"
"""The version of Microsoft.Authorization that requests are written for."""
ROLES = {
    Access.READ: "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    Access.WRITE: "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
}
"""Storage Blob Data Reader and Storage Blob Data Contributor, which every tenant has."""
MARK = "anyscale-core grants"
"""How the description of an assignment of ours begins; the tokens of its prefixes follow, in their order."""
CONDITION_MAX = 8 * 1024
DESCRIPTION_MAX = 1024
TOKEN = 8
_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_ACTIONS = {
    Access.READ: ("read",),
    Access.WRITE: ("read", "write", "delete", "add/action", "move/action"),
}
_PATH = re.compile(rf"@Resource\[{re.escape(_BLOBS)}:path\] StringStartsWith '([^']*)'")


@attrs.frozen(kw_only=True)
class Held:
    """One prefix that is granted, and a word of the token that granted it."""

    prefix: str
    token: str


@attrs.frozen(kw_only=True)
class Assignment:
    """One assignment of ours: what an identity may at which prefixes of a container."""

    scope: str
    principal: str
    access: Access
    held: tuple[Held, ...]
    version: str = ""
    """How it was read: what a write is compared with."""

    @property
    def path(self) -> str:
        """Its path, which is the same on every machine: who repeats a grant meets the same assignment."""
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.scope.lower()}|{self.principal.lower()}|{self.access.value}")
        return f"{self.scope}/providers/{ASSIGNMENT}/{name}"


def render(assignment: Assignment, subscription: str) -> dict[str, Any]:
    """Return the body of an assignment. Raises InvalidRequest when its prefixes do not fit in one."""
    condition = condition_of(assignment)
    description = " ".join((MARK, *(held.token for held in assignment.held)))
    if len(condition) > CONDITION_MAX or len(description) > DESCRIPTION_MAX:
        hint = "give the clusters identities of their own (granular mapping), or delete clusters"
        message = f"{len(assignment.held)} prefixes of one identity are more than one role assignment holds"
        raise InvalidRequest(message, reason="COMBINATION", hint=hint)
    return {
        "properties": {
            "roleDefinitionId": f"{subscription}/providers/Microsoft.Authorization/roleDefinitions/{ROLES[assignment.access]}",
            "principalId": assignment.principal,
            # Without it an identity that was just made is looked up where it may not be visible yet.
            "principalType": "ServicePrincipal",
            "condition": condition,
            "conditionVersion": "2.0",
            "description": description,
        }
    }


def condition_of(assignment: Assignment) -> str:
    """Return the condition: nothing but blobs whose paths begin so, and no listing but of what begins so."""
    paths = " OR ".join(f"@Resource[{_BLOBS}:path] StringStartsWith '{held.prefix}'" for held in assignment.held)
    lists = " OR ".join(f"@Request[{_BLOBS}:prefix] StringStartsWith '{held.prefix}'" for held in assignment.held)
    read = f"ActionMatches{{'{_BLOBS}/read'}}"
    others = "".join(f" AND !(ActionMatches{{'{_BLOBS}/{action}'}})" for action in _ACTIONS[assignment.access][1:])
    return (
        f"((!({read} AND NOT SubOperationMatches{{'Blob.List'}}){others}) OR ({paths}))"
        f" AND ((!({read} AND SubOperationMatches{{'Blob.List'}})) OR ({lists}))"
    )


def parse(body: Mapping[str, Any]) -> Assignment | None:
    """Return an assignment of ours; None for one of somebody else's."""
    properties = body.get("properties", {})
    role = str(properties.get("roleDefinitionId", "")).rpartition("/")[2].lower()
    access = next((access for access, id in ROLES.items() if id == role), None)
    description = str(properties.get("description") or "")
    if access is None or not description.startswith(MARK):
        return None
    tokens = description[len(MARK) :].split()
    prefixes = _PATH.findall(str(properties.get("condition") or ""))
    if len(tokens) != len(prefixes):
        return None
    return Assignment(
        scope=str(properties.get("scope", "")), principal=str(properties.get("principalId", "")), access=access,
        held=tuple(Held(prefix=prefix, token=token) for prefix, token in zip(prefixes, tokens, strict=True)),
        version=str(properties.get("condition")),
    )  # fmt: skip


def check_prefix(prefix: str) -> None:
    """Raise InvalidRequest(FIELD) for a prefix that does not end in '/', or that a condition cannot hold."""
    if not prefix.endswith("/"):
        raise InvalidRequest(f"prefix {prefix!r} does not end in '/'", reason="FIELD", hint=f"use {prefix + '/'!r}")
    if "'" in prefix or "\\" in prefix or not prefix.isprintable():
        hint = "use letters, digits and '-' in prefixes"
        raise InvalidRequest(f"prefix {prefix!r} cannot stand in a condition of Azure", reason="FIELD", hint=hint)


def at_scope(azure: Azure, scope: str, deadline: datetime) -> tuple[Assignment, ...]:
    """Return our assignments at exactly this scope."""
    path = f"{scope}/providers/{ASSIGNMENT}"
    found = azure.pages(path, VERSION, deadline=deadline, params={"$filter": "atScope()"})
    parsed = (parse(body) for body in found)
    return tuple(each for each in parsed if each is not None and each.scope.lower() == scope.lower())


def all_at_scope(azure: Azure, scope: str, deadline: datetime) -> tuple[str, ...]:
    """Return the paths of all assignments at exactly this scope, whoever made them: they go with what they are for."""
    path = f"{scope}/providers/{ASSIGNMENT}"
    found = azure.pages(path, VERSION, deadline=deadline, params={"$filter": "atScope()"})
    return tuple(str(each["id"]) for each in found if str(each["properties"].get("scope", "")).lower() == scope.lower())


def of_principal(azure: Azure, principal: str, deadline: datetime) -> tuple[Mapping[str, Any], ...]:
    """Return every assignment of a principal in the subscription, whoever made it."""
    path = f"{azure.settings.subscription}/providers/{ASSIGNMENT}"
    return azure.pages(path, VERSION, deadline=deadline, params={"$filter": f"principalId eq '{principal}'"})


def put(azure: Azure, assignment: Assignment, deadline: datetime) -> None:
    """Write an assignment as it is to be; one without a prefix is deleted."""
    if not assignment.held:
        azure.send("DELETE", assignment.path, VERSION, deadline=deadline)
        return
    body = render(assignment, azure.settings.subscription)
    azure.send("PUT", assignment.path, VERSION, deadline=deadline, body=body)


def without(assignment: Assignment, prefix: str) -> Assignment:
    """Return the assignment less a prefix."""
    return attrs.evolve(assignment, held=tuple(held for held in assignment.held if held.prefix != prefix))


def with_prefix(assignment: Assignment, held: Held) -> Assignment:
    """Return the assignment with one more prefix, which it may have already."""
    rest = [each for each in assignment.held if each.prefix != held.prefix]
    return attrs.evolve(assignment, held=tuple(sorted((*rest, held), key=lambda each: each.prefix)))


def standing(assignments: Sequence[Assignment], principal: str, access: Access) -> Assignment | None:
    """Return a principal's assignment for an access, if there is one."""
    wanted = (principal.lower(), access)
    return next((each for each in assignments if (each.principal.lower(), each.access) == wanted), None)
