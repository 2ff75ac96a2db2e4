"""IAM policies: read, changed and written with their etag, so that what others put there stays.

A grant on a prefix is a binding of its own with a condition, so it can be told from every other and taken away again.
"""

import json
import re
from collections.abc import Callable, Mapping
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
_PLACE = re.compile(r'resource\.name\.startsWith\("projects/_/buckets/[^/"]+/objects/(?P<prefix>(?:[^"\\]|\\.)*)"\)')
_ACCESS = {role: access for access, role in ROLES.items()}

Policy = dict[str, Any]
Edit = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""What a change makes of a policy's bindings. The same bindings: nothing is written."""


@attrs.frozen(kw_only=True)
class Held:
    """A grant of ours as a policy has it. ``mark``: of the plane and cloud that granted it; ``token``: the hash of its token."""

    member: str
    prefix: str
    access: Access
    mark: str = ""
    token: str = ""

    def is_of(self, member: str) -> bool:
        """Tell whether it is this account's, also once the account has been deleted."""
        return self.member == member or self.member.startswith(f"deleted:{member}?")


def binding(held: Held, bucket: str) -> dict[str, Any]:
    """Return a grant as a binding. Objects are let at by their names, lists by the prefix that they ask for."""
    prefix = _quoted(held.prefix)
    place = _quoted(f"projects/_/buckets/{bucket}/objects/{held.prefix}")
    listed = "api.getAttribute('storage.googleapis.com/objectListPrefix', '')"
    return {
        "role": ROLES[held.access],
        "members": [held.member],
        "condition": {
            "title": TITLE,
            "description": f"{held.mark} {held.token}",
            "expression": f"resource.name.startsWith({place}) || {listed}.startsWith({prefix})",
        },
    }


def read(binding: Mapping[str, Any]) -> tuple[Held, ...]:
    """Return the grants of ours in a binding; none in one of somebody else's."""
    condition = binding.get("condition") or {}
    place = _PLACE.search(str(condition.get("expression", "")))
    access = _ACCESS.get(str(binding.get("role", "")))
    if condition.get("title") != TITLE or place is None or access is None:
        return ()
    mark, _, token = str(condition.get("description", "")).partition(" ")
    prefix = str(json.loads(f'"{place["prefix"]}"'))
    return tuple(
        Held(member=member, prefix=prefix, access=access, mark=mark, token=token)
        for member in binding.get("members", ())
    )


def without(bindings: list[dict[str, Any]], gone: Callable[[Held], bool]) -> list[dict[str, Any]]:
    """Return bindings less the grants of ours that ``gone`` names; members of others, and empty bindings of theirs, stay."""
    out = []
    for each in bindings:
        members = {held.member for held in read(each) if gone(held)}
        if not members:
            out.append(each)
            continue
        left = [member for member in each["members"] if member not in members]
        if left:
            out.append({**each, "members": left})
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


def _quoted(text: str) -> str:
    """Return a text as a string of CEL, whose escapes are JSON's."""
    return json.dumps(text)
