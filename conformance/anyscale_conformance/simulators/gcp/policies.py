"""IAM policies: read and written whole, with an etag; and whether somebody may do something.

Source: cloud.google.com/iam/docs/policies (etag, versions, conditions) and .../principal-identifiers.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anyscale_conformance.simulators.gcp import cel
from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.roles import ROLES, allows
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project

MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(user|group|serviceAccount):[^\s:/@]+@[^\s:/]+|domain:[^\s:/]+"
    r"|serviceAccount:[a-z0-9.:-]+\.svc\.id\.goog\[[a-z0-9-]+/[a-z0-9-]+\]|deleted:\w+:[^\s]+\?uid=\d+"
    r"|(projectOwner|projectEditor|projectViewer):[a-z0-9-]+|principal(Set)?://iam\.googleapis\.com/[^\s]+"
)
BASIC = frozenset({"roles/owner", "roles/editor", "roles/viewer"})
CONDITIONAL = 3
"""The version of a policy that may have conditions."""
PRINCIPALS = 1500
"""The most members that a policy may name. This and the next two: cloud.google.com/iam/quotas."""
OPERATORS = 12
"""The most logical operators in a condition."""
TWINS = 20
"""The most bindings of one role for one member that differ in their conditions."""


def read(project: Project, resource: str, *, version: int = 1) -> Json:
    """Return a policy. Who asks for an old version sees conditional roles under names of their own, without the condition."""
    policy = project.policies.get(resource)
    if policy is None:
        return {"etag": "ACAB", "version": 1}
    if version >= CONDITIONAL or not any("condition" in binding for binding in policy["bindings"]):
        return policy
    bindings = [
        {"role": f"{binding['role']}_withcond_{_digest(binding['condition'])[:20]}", "members": binding["members"]}
        if "condition" in binding
        else binding
        for binding in policy["bindings"]
    ]
    return {**policy, "bindings": bindings, "version": 1}


def write(cloud: Cloud, project: Project, resource: str, policy: Mapping[str, Any], *, api: str) -> Json:
    """Replace a policy. Raises 409 (storage: 412) for an etag that is not the present one, 400 for what is no policy."""
    now = read(project, resource, version=CONDITIONAL)
    etag = str(policy.get("etag", ""))
    if etag and etag != now["etag"]:
        if api == "storage":
            raise ApiError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        raise ApiError(
            409, "aborted", "There were concurrent policy changes. Please retry the whole read-modify-write with exponential "
            f"backoff. The request's ETag '{etag}' did not match the current policy's ETag '{now['etag']}'.", status="ABORTED",
        )  # fmt: skip
    bindings = [dict(binding) for binding in policy.get("bindings", []) if binding.get("members")]
    version = int(policy.get("version", 1))
    had = any("condition" in binding for binding in now.get("bindings", []))
    if (any("condition" in binding for binding in bindings) or (had and etag)) and version < CONDITIONAL:
        raise _bad(f"The policy has conditional role bindings. The specified policy version {version} cannot represent them; "
                   "set version 3.")  # fmt: skip
    if sum(len(binding["members"]) for binding in bindings) > PRINCIPALS:
        raise _bad(f"The number of members in the policy is larger than the maximum allowed size {PRINCIPALS}.")
    for binding in bindings:
        _check(cloud, binding)
    merged = _merged(bindings)
    twins = Counter((binding["role"], member) for binding in merged for member in binding["members"])
    if max(twins.values(), default=0) > TWINS:
        raise _bad(f"At most {TWINS} role bindings may have the same role and the same principal.")
    kept = CONDITIONAL if any("condition" in found for found in merged) else 1
    stored: Json = {"version": kept, "bindings": merged}
    project.policies[resource] = stored
    stored["etag"] = _etag(project, stored)
    return stored


def permitted(
    cloud: Cloud, caller: Caller, permission: str, project: Project, resources: Sequence[str] = (),
    attributes: Mapping[str, Any] | None = None,
) -> bool:  # fmt: skip
    """Return whether somebody may do something: by the project's policy, or by one of the resources that it is done to.

    ``attributes``: what conditions look at: ``{"resource": {...}, "api": {...}}``.
    """
    scope = {"resource": {}, "api": {}, "request": {"time": project.clock.now()}, **(attributes or {})}
    for resource in ("", *resources):
        for binding in project.policies.get(resource, {}).get("bindings", ()):
            if not any(_is(project, caller, member) for member in binding["members"]):
                continue
            if not allows(_permissions(cloud, binding["role"]), permission):
                continue
            condition = binding.get("condition")
            if condition is None or cel.holds(condition["expression"], scope):
                return True
    return False


def forget(project: Project, email: str, uid: str) -> None:
    """Let policies name a service account as deleted."""
    member, deleted = f"serviceAccount:{email}", f"deleted:serviceAccount:{email}?uid={uid}"
    for policy in project.policies.values():
        for binding in policy.get("bindings", ()):
            binding["members"] = [deleted if found == member else found for found in binding["members"]]


def _check(cloud: Cloud, binding: Mapping[str, Any]) -> None:
    role = str(binding.get("role", ""))
    if not re.fullmatch(r"roles/[\w.]+|(projects|organizations)/[\w.:-]+/roles/[\w.]+", role):
        raise _bad(
            f'The role name must be in the form "roles/{{role}}" or "projects/{{id}}/roles/{{role}}": \'{role}\'.'
        )
    if role.startswith("projects/") and not _permissions(cloud, role):
        raise _bad(f"Role ({role}) does not exist in the resource's hierarchy.")
    for member in binding["members"]:
        if not MEMBER.fullmatch(member):
            raise _bad(f"Invalid argument: member '{member}' is not a valid principal identifier.")
        kind, _, email = member.partition(":")
        if kind == "serviceAccount" and email.endswith(".iam.gserviceaccount.com"):
            home = cloud.project(email.partition("@")[2].partition(".")[0])
            there = None if home is None else home.accounts.get(email)
            if home is not None and (there is None or not home.is_known(email)):
                raise _bad(f"Service account {email} does not exist.")
    condition = binding.get("condition")
    if condition is None:
        return
    if role in BASIC:
        raise _bad(f"Conditions can't be set on the basic role {role}.")
    if not condition.get("title"):
        raise _bad("The condition's title is required.")
    try:
        cel.parse(str(condition.get("expression", "")))
    except cel.CelError as error:
        raise _bad(f"Condition expression compilation failed: {error}")
    if cel.operators(condition["expression"]) > OPERATORS:
        raise _bad(f"A condition expression has at most {OPERATORS} logical operators.")


def _is(project: Project, caller: Caller, member: str) -> bool:
    if (member == caller.member and member) or member == "allUsers":
        return True
    if member == "allAuthenticatedUsers":
        return bool(caller.member)
    kind, _, name = member.partition(":")
    if kind in ("projectOwner", "projectEditor", "projectViewer"):
        role = f"roles/{kind.removeprefix('project').lower()}"
        return any(
            caller.member in binding["members"]
            for binding in project.policies.get("", {}).get("bindings", ())
            if binding["role"] == role and name == project.id
        )
    return member in caller.sets


def _permissions(cloud: Cloud, role: str) -> tuple[str, ...]:
    if role in ROLES:
        return ROLES[role]
    words = role.split("/")
    project = cloud.project(words[1]) if words[0] == "projects" and len(words) == 4 else None
    custom = {} if project is None else project.roles.get(words[3], {})
    return () if custom.get("deleted") else tuple(custom.get("includedPermissions", ()))


def _merged(bindings: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Return the bindings with each role and condition once, and each member once."""
    merged: dict[str, Json] = {}
    for binding in bindings:
        key = json.dumps([binding["role"], binding.get("condition")], sort_keys=True)
        known = merged.setdefault(key, {**binding, "members": []})
        known["members"] = sorted({*known["members"], *binding["members"]})
    return list(merged.values())


def _etag(project: Project, policy: Json) -> str:
    return base64.b64encode(bytes.fromhex(_digest([policy, project.new_id()])[:16])).decode()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _bad(message: str) -> ApiError:
    return ApiError(400, "badRequest", message)
