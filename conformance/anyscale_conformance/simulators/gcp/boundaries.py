"""Credential access boundaries: tokens that may do less than whom they stand for, in buckets and nowhere else.

Source: cloud.google.com/iam/docs/downscoping-short-lived-credentials.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from anyscale_conformance.simulators.gcp import cel
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.roles import ROLES, allows
from anyscale_conformance.simulators.gcp.schema import Json

if TYPE_CHECKING:
    from anyscale_conformance.simulators.gcp.calls import Caller

RULES = 10
"""The most rules of a boundary."""
BUCKET = re.compile(r"//storage\.googleapis\.com/projects/_/buckets/([^/]+)")
FIELDS = frozenset({"availableResource", "availablePermissions", "availabilityCondition"})


@attrs.frozen(kw_only=True)
class Rule:
    """What may be done in one bucket at most. ``condition``: an expression; empty for none."""

    bucket: str
    roles: tuple[str, ...]
    condition: str = ""


def read(options: str) -> tuple[Rule, ...]:
    """Return the rules in the ``options`` of a request for a token. Raises 400 for what is no boundary."""
    try:
        given: Json = json.loads(options)
        found = given["accessBoundary"]["accessBoundaryRules"]
        rules = tuple(_rule(each) for each in found)
    except (ValueError, KeyError, TypeError, AttributeError, cel.CelError) as error:
        raise refused(f"Invalid access boundary: {error}")
    if not 1 <= len(rules) <= RULES:
        raise refused(f"An access boundary has 1 to {RULES} rules.")
    return rules


def within(caller: "Caller", permission: str, bucket: str, attributes: Mapping[str, Any]) -> bool:
    """Return whether a caller's token has no boundary, or one that holds this."""
    return not caller.boundary or any(_allows(rule, permission, bucket, attributes) for rule in caller.boundary)


def refused(message: str) -> ApiError:
    """Return the 400 in OAuth's words."""
    return ApiError(400, "badRequest", message, code="invalid_request")


def _allows(rule: Rule, permission: str, bucket: str, attributes: Mapping[str, Any]) -> bool:
    is_had = rule.bucket == bucket and any(allows(ROLES[role], permission) for role in rule.roles)
    return is_had and (not rule.condition or cel.holds(rule.condition, {"resource": {}, "api": {}, **attributes}))


def _rule(given: Mapping[str, Any]) -> Rule:
    if unknown := sorted(given.keys() - FIELDS):
        raise ValueError(f"unknown field {unknown[0]}")
    place = BUCKET.fullmatch(given["availableResource"])
    if place is None:
        raise ValueError(f"{given['availableResource']} is not a bucket")
    permissions: Sequence[str] = given["availablePermissions"]
    roles = tuple(each.removeprefix("inRole:") for each in permissions)
    if not roles or any(not each.startswith("inRole:") for each in permissions) or not ROLES.keys() >= set(roles):
        raise ValueError("availablePermissions names roles, as inRole:roles/NAME")
    condition = str((given.get("availabilityCondition") or {}).get("expression", ""))
    if condition:
        cel.parse(condition)
    return Rule(bucket=place[1], roles=roles, condition=condition)
