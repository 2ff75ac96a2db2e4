"""STS: roles that are assumed only as their trust policies say, with credentials that end by the account's clock."""

import json
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from anyscale_conformance.simulators.aws import policies
from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.signing import Key, Refusal
from anyscale_conformance.simulators.aws.wire import Answer, node, query_answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import AwsSimulator, Exchange

PODS = "pods.eks.amazonaws.com"
NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


def assume_role(exchange: "Exchange") -> Answer:
    """Answer AssumeRole. ExternalId is looked at as the trust policy says, also when it is left out."""
    params, caller = exchange.params, exchange.key
    assert caller is not None
    arn = params.one("RoleArn")
    denied = Refusal(
        "AccessDenied", f"User: {caller.principal} is not authorized to perform: sts:AssumeRole on resource: {arn}",
        status=403,
    )  # fmt: skip
    account, role = role_of(exchange.simulator, arn)
    if account is None or role is None:
        raise denied
    context = {"sts:ExternalId": params.one("ExternalId")} if "ExternalId" in params.form else {}
    names = {caller.principal, _role_arn(caller)}
    asked: dict[str, Any] = {"action": "sts:AssumeRole", "kind": "AWS", "context": context}
    if not any(policies.trusts(document(role), principal=name, **asked) for name in names):
        raise denied
    # A trust policy that names the caller itself is enough within an account; one that names its account leaves it to that.
    if account.id != caller.account or not policies.names(document(role), names):
        documents = exchange.account.binding(caller)
        allowed = {"aws:RequestedRegion": exchange.account.region}
        if documents is not None and not policies.allows(
            documents, action="sts:AssumeRole", resource=arn, context=allowed
        ):
            raise denied
    duration = int(params.one("DurationSeconds", "3600"))
    if not 900 <= duration <= (3600 if caller.role else int(role.max_session_duration or 3600)):
        raise Refusal("ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles")
    scope = json.loads(params.one("Policy")) if "Policy" in params.form else None
    name = params.one("RoleSessionName")
    key = session(exchange.simulator, account, role.name, name, timedelta(seconds=duration), scope=scope)
    return query_answer("AssumeRole", NAMESPACE, credentials(key))


def pod_identity(
    simulator: "AwsSimulator", account: Account, role: str, *, cluster: str, namespace: str, service_account: str
) -> Key:
    """Return what EKS's agent gives a Pod whose service account is associated with a role. Raises Refusal.

    Source: EKS User Guide, "Learn how EKS Pod Identity works" and its session tags.
    """
    found = next((each for each in account.iam.roles.values() if each.name == role), None)
    tags = {
        "kubernetes-namespace": namespace,
        "kubernetes-service-account": service_account,
        "eks-cluster-name": cluster,
    }
    asked: dict[str, Any] = {
        "principal": PODS, "kind": "Service", "context": {f"aws:RequestTag/{name}": value for name, value in tags.items()}
    }  # fmt: skip
    # EKS tags the session, so the role has to allow that beside being assumed.
    actions = ("sts:AssumeRole", "sts:TagSession")
    if found is None or not all(policies.trusts(document(found), action=action, **asked) for action in actions):
        raise Refusal("AccessDenied", "Pod Identity may not assume the role", status=403)
    return session(simulator, account, role, f"eks-{cluster}-{service_account}", timedelta(hours=6))


def get_caller_identity(exchange: "Exchange") -> Answer:
    """Answer GetCallerIdentity."""
    key = exchange.key
    if key is None:
        raise Refusal("MissingAuthenticationToken", "Request is missing Authentication Token", status=403)
    inner = f"<Arn>{key.principal}</Arn><UserId>{key.user_id}</UserId><Account>{key.account}</Account>"
    return query_answer("GetCallerIdentity", NAMESPACE, inner)


def session(
    simulator: "AwsSimulator", account: Account, role: str, name: str, duration: timedelta,
    *, scope: Mapping[str, Any] | None = None,
) -> Key:  # fmt: skip
    """Return new credentials of a role, within a session policy if one is given."""
    return simulator.issue(
        Key(
            id=f"ASIA{secrets.token_hex(8).upper()}", secret=secrets.token_urlsafe(30), account=account.id,
            principal=f"arn:aws:sts::{account.id}:assumed-role/{role}/{name}",
            user_id=f"AROA{secrets.token_hex(8).upper()}:{name}", session_token=secrets.token_urlsafe(48), role=role,
            expires=account.clock.now() + duration, scope=scope,
        )
    )  # fmt: skip


def document(role: Any) -> Mapping[str, Any]:
    """Return a role's trust policy."""
    text = role.assume_role_policy_document
    found: Mapping[str, Any] = json.loads(unquote(text)) if isinstance(text, str) else text
    return found


def role_of(simulator: "AwsSimulator", arn: str) -> tuple[Account | None, Any]:
    """Return an account and its role of an ARN; None and None, or None for the role, where there is no such thing."""
    parts = arn.split(":")
    account = simulator.accounts.get(parts[4]) if len(parts) == 6 else None
    if account is None:
        return None, None
    return account, next((role for role in account.iam.roles.values() if role.arn == arn), None)


def credentials(key: Key) -> str:
    """Return a key as the answers of STS show it, and whom it assumes."""
    return node(
        "Credentials", AccessKeyId=key.id, SecretAccessKey=key.secret, SessionToken=key.session_token,
        Expiration=key.expires,
    ) + node("AssumedRoleUser", AssumedRoleId=key.user_id, Arn=key.principal)  # fmt: skip


def _role_arn(key: Key) -> str:
    return f"arn:aws:iam::{key.account}:role/{key.role}" if key.role else key.principal


HANDLERS = {("sts", "AssumeRole"): assume_role, ("sts", "GetCallerIdentity"): get_caller_identity}
