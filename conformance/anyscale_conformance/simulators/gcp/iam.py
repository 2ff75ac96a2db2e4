"""Service accounts and custom roles."""

import re
from datetime import timedelta

from anyscale_conformance.simulators.gcp import policies
from anyscale_conformance.simulators.gcp.answers import masked, paged
from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project, fingerprint

ACCOUNT_ID = re.compile(r"[a-z]([-a-z0-9]{4,28}[a-z0-9])")
ROLE_ID = re.compile(r"[a-zA-Z0-9_.]{3,64}")
ACCOUNTS = 100
"""Service accounts of a project, unless it asks for more."""


@handles("iam.projects.serviceAccounts.create")
def create(call: Call) -> Json:
    """Make a service account; its address is its id at the project."""
    id, wanted = str(call.body.get("accountId", "")), call.body.get("serviceAccount", {})
    if not ACCOUNT_ID.fullmatch(id):
        raise ApiError(400, "badRequest", f"{id} does not have correct format. It must match {ACCOUNT_ID.pattern}.")
    if len(str(wanted.get("description", "")).encode()) > 256 or len(str(wanted.get("displayName", "")).encode()) > 100:
        raise ApiError(400, "badRequest", "The description has at most 256 bytes, the display name 100.")
    email = f"{id}@{call.project.id}.iam.gserviceaccount.com"
    if email in call.project.accounts:
        path = f"projects/{call.project.id}/serviceAccounts/{email}"
        raise ApiError(409, "alreadyExists", f"Service account {id} already exists within project projects/{call.project.id}.",
                       details=[{"@type": "type.googleapis.com/google.rpc.ResourceInfo", "resourceName": path}])  # fmt: skip
    if len(call.project.accounts) >= call.project.limits.get(("", "SERVICE_ACCOUNTS"), ACCOUNTS):
        raise ApiError(
            429,
            "rateLimitExceeded",
            "Maximum number of service accounts on project reached.",
            status="RESOURCE_EXHAUSTED",
        )
    return add(call.project, email, str(wanted.get("displayName", "")), str(wanted.get("description", "")))


def add(project: Project, email: str, display_name: str = "", description: str = "") -> Json:
    """Let a service account be there."""
    number = project.new_id()
    account: Json = {
        "name": f"projects/{project.id}/serviceAccounts/{email}", "projectId": project.id, "uniqueId": number,
        "email": email, "oauth2ClientId": number, "etag": fingerprint(email, number),
    }  # fmt: skip
    account |= {"displayName": display_name} if display_name else {}
    account |= {"description": description} if description else {}
    project.accounts[email] = account
    project.made[email] = project.now
    return account


@handles("iam.projects.serviceAccounts.get")
def get(call: Call) -> Json:
    """Answer with a service account."""
    return account_of(call.project, call.params["name"])


@handles("iam.projects.serviceAccounts.list")
def list_accounts(call: Call) -> Json:
    """Answer with the service accounts of a project, in pages of 20 unless asked otherwise and of 100 at most."""
    before = call.project.now - call.project.lag
    found = [call.project.accounts[email] for email in sorted(call.project.accounts)]
    visible = [item for item in found if call.project.lag == timedelta() or call.project.made[item["email"]] <= before]
    return paged(call, "accounts", visible, default=20)


@handles("iam.projects.serviceAccounts.delete")
def delete(call: Call) -> Json:
    """Delete a service account; policies that name it keep it as deleted."""
    account = account_of(call.project, call.params["name"])
    del call.project.accounts[account["email"]]
    call.project.policies.pop(account["email"], None)
    call.cloud.tokens.revoke(f"serviceAccount:{account['email']}")
    policies.forget(call.project, account["email"], account["uniqueId"])
    call.project.deleted[account["uniqueId"]] = account
    return {}


@handles("iam.projects.serviceAccounts.undelete")
def undelete(call: Call) -> Json:
    """Have a deleted service account back, by its number."""
    number = call.params["name"].rpartition("/")[2]
    account = call.project.deleted.pop(number, None)
    if account is None:
        raise ApiError(404, "notFound", f"Unknown service account {number}")
    call.project.accounts[account["email"]] = account
    return {"restoredAccount": account}


@handles("iam.projects.serviceAccounts.patch")
def patch(call: Call) -> Json:
    """Change what a service account is called; nothing else can be changed."""
    account = account_of(call.project, call.params["name"])
    mask = str(call.body.get("updateMask", ""))
    if not set(mask.replace("display_name", "displayName").split(",")) <= {"displayName", "description"}:
        raise ApiError(400, "badRequest", f"The update mask '{mask}' names fields that cannot be changed.")
    changed = masked(account, call.body.get("serviceAccount", {}), mask)
    changed["etag"] = fingerprint(changed, call.project.new_id())
    call.project.accounts[account["email"]] = changed
    return changed


@handles("iam.projects.serviceAccounts.enable", "iam.projects.serviceAccounts.disable")
def enable(call: Call) -> Json:
    """Let a service account be used, or not."""
    account = account_of(call.project, call.params["name"])
    account.pop("disabled", None)
    if call.method.id.endswith("disable"):
        account["disabled"] = True
        call.cloud.tokens.revoke(f"serviceAccount:{account['email']}")
    return {}


@handles("iam.projects.serviceAccounts.getIamPolicy")
def get_policy(call: Call) -> Json:
    """Answer with who may use a service account."""
    account = account_of(call.project, call.params["resource"])
    return policies.read(call.project, account["email"], version=call.number("options.requestedPolicyVersion", 1))


@handles("iam.projects.serviceAccounts.setIamPolicy")
def set_policy(call: Call) -> Json:
    """Replace who may use a service account."""
    account = account_of(call.project, call.params["resource"])
    return policies.write(call.cloud, call.project, account["email"], call.body.get("policy", {}), api="iam")


@handles("iam.projects.serviceAccounts.testIamPermissions")
def test(call: Call) -> Json:
    """Answer with those of some permissions on a service account that the caller has."""
    account = account_of(call.project, call.params["resource"])
    return tested(call, [account["email"]])


def tested(call: Call, resources: list[str]) -> Json:
    """Answer with those of the permissions asked about that the caller has."""
    asked = [str(permission) for permission in call.body.get("permissions", [])]
    if any("*" in permission for permission in asked):
        raise ApiError(400, "badRequest", "Wildcards are not allowed.")
    found = [
        permission
        for permission in asked
        if policies.permitted(call.cloud, call.caller, permission, call.project, resources)
    ]
    return {"permissions": found} if found else {}


def account_of(project: Project, name: str) -> Json:
    """Return a service account by its resource's name, which ends in its address or number. Raises 404."""
    word = name.split("/")[3]
    found = next(
        (account for account in project.accounts.values() if word in (account["email"], account["uniqueId"])), None
    )
    if found is None:
        raise ApiError(404, "notFound", f"Unknown service account {word}" if "@" not in word else f"Service account {name} does "
                       "not exist.")  # fmt: skip
    return found


@handles("iam.projects.roles.create")
def create_role(call: Call) -> Json:
    """Make a custom role."""
    id = str(call.body.get("roleId", ""))
    if not ROLE_ID.fullmatch(id):
        raise ApiError(400, "badRequest", f"The role_id '{id}' must match {ROLE_ID.pattern}.")
    if id in call.project.roles:
        raise ApiError(409, "alreadyExists", f"A role named {id} in projects/{call.project.id} already exists.")
    role = _checked({"stage": "GA", **call.body.get("role", {}), "name": f"projects/{call.project.id}/roles/{id}"})
    call.project.roles[id] = role | {"etag": fingerprint(role, call.project.new_id())}
    return call.project.roles[id]


@handles("iam.projects.roles.get")
def get_role(call: Call) -> Json:
    """Answer with a custom role."""
    return _role(call)


@handles("iam.projects.roles.list")
def list_roles(call: Call) -> Json:
    """Answer with the custom roles; with their permissions only when the full view is asked for."""
    full = call.params.get("view") == "FULL"
    roles = [role for role in call.project.roles.values() if call.flag("showDeleted") or not role.get("deleted")]
    shown = [
        role if full else {key: item for key, item in role.items() if key != "includedPermissions"} for role in roles
    ]
    return paged(call, "roles", shown, default=300)


@handles("iam.projects.roles.patch")
def patch_role(call: Call) -> Json:
    """Change a custom role; with an etag, only the present one."""
    role = _role(call)
    if (etag := call.body.get("etag")) and etag != role["etag"]:
        raise ApiError(409, "aborted", "There were concurrent changes of the role.", status="ABORTED")
    mask = call.params.get("updateMask") or ",".join(key for key in call.body if key not in ("etag", "name"))
    changed = _checked(masked(role, call.body, mask))
    id = role["name"].rpartition("/")[2]
    call.project.roles[id] = changed | {"etag": fingerprint(changed, call.project.new_id())}
    return call.project.roles[id]


@handles("iam.projects.roles.delete")
def delete_role(call: Call) -> Json:
    """Delete a custom role; its name stays taken."""
    role = _role(call)
    role["deleted"] = True
    return role


@handles("iam.projects.roles.undelete")
def undelete_role(call: Call) -> Json:
    """Have a deleted role back."""
    role = _role(call)
    role.pop("deleted", None)
    return role


def _role(call: Call) -> Json:
    name = call.params["name"]
    role = call.project.roles.get(name.rpartition("/")[2])
    if role is None:
        raise ApiError(404, "notFound", f"The role named {name} was not found.")
    return role


def _checked(role: Json) -> Json:
    permissions = role.get("includedPermissions", [])
    for permission in permissions:
        if not re.fullmatch(r"[a-z][a-zA-Z]*\.[a-zA-Z]+\.[a-zA-Z]+", permission):
            raise ApiError(400, "badRequest", f"Permission {permission} is not valid.")
    if len(permissions) > 3000:
        raise ApiError(400, "badRequest", "At most 3000 permissions can be in a role.")
    return role
