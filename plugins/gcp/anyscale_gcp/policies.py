"""IAM policies: read, changed and written with their etag, so that what others put there stays.

A grant on a prefix is part of a condition of ours, so it can be told from every other and taken away again.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.models.identity import Access
from anyscale_gcp.client import Client

TITLE = "anyscale-core"
ROLES: Mapping[Access, str] = {Access.READ: "roles/storage.objectViewer", Access.WRITE: "roles/storage.objectUser"}
"""cloud.google.com/storage/docs/access-control/iam-roles: get and list; and these, create, overwrite and delete."""
VERSION = 3
"""The version of policies that have conditions."""
WORKLOAD_ROLE = "roles/iam.workloadIdentityUser"
TOGETHER = 6
"""Prefixes in one binding: each takes two clauses, and a condition has at most 12 logical operators. A policy takes 20 bindings
of one role for one member, so an identity has up to 120 prefixes of each access in a bucket
(cloud.google.com/iam/quotas)."""
_PLACE = re.compile(
    r'resource\.name\.startsWith\("projects/_/buckets/(?P<bucket>[^/"]+)/objects/(?P<prefix>(?:[^"\\]|\\.)*)"\)'
)
_ACCESS = {role: access for access, role in ROLES.items()}

Policy = dict[str, Any]
Edit = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""What a change makes of a policy's bindings. The same bindings: nothing is written."""


@attrs.frozen(kw_only=True)
class Held:
    """A grant of ours as a policy has it. ``mark``: of the plane and cloud that granted it; ``token``: the hash of its token."""

    member: str
    bucket: str
    prefix: str
    access: Access
    mark: str = ""
    token: str = ""

    def is_of(self, member: str) -> bool:
        """Tell whether it is this account's, also once the account has been deleted."""
        return self.member == member or self.member.startswith(f"deleted:{member}?")


def bound(grants: Sequence[Held]) -> dict[str, Any]:
    """Return grants of one access for one member as a binding. Objects are let at by name, lists by the prefix they ask for."""
    clauses = [clause for each in grants for clause in _clauses(each.bucket, each.prefix)]
    return {
        "role": ROLES[grants[0].access],
        "members": [grants[0].member],
        "condition": {
            "title": TITLE,
            "description": " ".join(f"{each.mark}.{each.token}" for each in grants),
            "expression": " || ".join(clauses),
        },
    }


def boundary(bucket: str, prefix: str, access: Access) -> dict[str, Any]:
    """Return the credential access boundary of a token that is good for a prefix and nothing else.

    Source: cloud.google.com/iam/docs/downscoping-short-lived-credentials.
    """
    rule = {
        "availableResource": f"//storage.googleapis.com/projects/_/buckets/{bucket}",
        "availablePermissions": [f"inRole:{ROLES[access]}"],
        "availabilityCondition": {"expression": " || ".join(_clauses(bucket, prefix))},
    }
    return {"accessBoundary": {"accessBoundaryRules": [rule]}}


def read(binding: Mapping[str, Any]) -> tuple[Held, ...]:
    """Return the grants of ours in a binding; none in one of somebody else's."""
    condition = binding.get("condition") or {}
    access = _ACCESS.get(str(binding.get("role", "")))
    if condition.get("title") != TITLE or access is None:
        return ()
    orders = str(condition.get("description", "")).split()
    places = list(_PLACE.finditer(str(condition.get("expression", ""))))
    return tuple(
        Held(
            member=member, bucket=place["bucket"], prefix=str(json.loads(f'"{place["prefix"]}"')), access=access,
            mark=order.partition(".")[0], token=order.partition(".")[2],
        )
        for member in binding.get("members", ())
        for place, order in zip(places, orders, strict=False)
    )  # fmt: skip


def with_grant(bindings: list[dict[str, Any]], held: Held) -> list[dict[str, Any]]:
    """Return bindings with a grant more: in one of ours for that member and access that has room, or in a new one."""
    for at, each in enumerate(bindings):
        grants = read(each)
        alike = grants and all((one.member, one.access) == (held.member, held.access) for one in grants)
        if alike and len(grants) < TOGETHER:
            return [*bindings[:at], bound([*grants, held]), *bindings[at + 1 :]]
    return [*bindings, bound([held])]


def without(bindings: list[dict[str, Any]], gone: Callable[[Held], bool]) -> list[dict[str, Any]]:
    """Return bindings less the grants of ours that ``gone`` names; all else stays as it is."""
    out = []
    for each in bindings:
        grants = read(each)
        left = [held for held in grants if not gone(held)]
        if len(left) == len(grants):
            out.append(each)
            continue
        for member in dict.fromkeys(held.member for held in left):
            out.append(bound([held for held in left if held.member == member]))
    return out


def of_bucket(client: Client, bucket: str, *, deadline: datetime) -> Policy:
    """Return a bucket's policy."""
    return client.call(
        "storage.buckets.getIamPolicy", bucket=bucket, optionsRequestedPolicyVersion=VERSION, about=bucket,
        deadline=deadline,
    )  # fmt: skip


def change_bucket(client: Client, bucket: str, edit: Edit, *, deadline: datetime) -> bool:
    """Change a bucket's policy; return whether there was anything to change. Raises Conflict(ETAG) beside another change."""
    policy = of_bucket(client, bucket, deadline=deadline)
    changed = _changed(policy, edit)
    if changed is None:
        return False
    client.call("storage.buckets.setIamPolicy", bucket=bucket, body=changed, about=bucket, deadline=deadline)
    return True


def of_account(client: Client, path: str, *, deadline: datetime) -> Policy:
    """Return the policy on a service account: who may become it."""
    return client.call(
        "iam.projects.serviceAccounts.getIamPolicy",
        resource=path,
        options_requestedPolicyVersion=VERSION,
        deadline=deadline,
    )


def change_account(client: Client, path: str, edit: Edit, *, deadline: datetime) -> bool:
    """Change the policy on a service account; as ``change_bucket``."""
    changed = _changed(of_account(client, path, deadline=deadline), edit)
    if changed is None:
        return False
    client.call("iam.projects.serviceAccounts.setIamPolicy", resource=path, body={"policy": changed}, deadline=deadline)
    return True


def _changed(policy: Policy, edit: Edit) -> Policy | None:
    before = policy.get("bindings", [])
    after = edit([dict(each) for each in before])
    return None if after == before else {**policy, "version": VERSION, "bindings": after}


def _clauses(bucket: str, prefix: str) -> tuple[str, str]:
    """Return what holds for the objects under a prefix, and for lists of them."""
    place = _quoted(f"projects/_/buckets/{bucket}/objects/{prefix}")
    listed = "api.getAttribute('storage.googleapis.com/objectListPrefix', '')"
    return f"resource.name.startsWith({place})", f"{listed}.startsWith({_quoted(prefix)})"


def _quoted(text: str) -> str:
    """Return a text as a string of CEL, whose escapes are JSON's."""
    return json.dumps(text)
