"""STS: a role for the token of an issuer that the account has an OIDC provider for, as Pods of EKS assume theirs (IRSA).

Source: AWS STS API reference, "AssumeRoleWithWebIdentity", and IAM User Guide, "Available keys for AWS OIDC federation".
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from anyscale_conformance.simulators.aws import policies, sts
from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import Answer, fields, query_answer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import Exchange

ACTION = "AssumeRoleWithWebIdentity"


def assume_role_with_web_identity(exchange: "Exchange") -> Answer:
    """Answer with credentials of a role that trusts the token's issuer, for its subject and its audience."""
    params = exchange.params
    arn, token = params.one("RoleArn"), params.one("WebIdentityToken")
    denied = Refusal("AccessDenied", f"Not authorized to perform sts:{ACTION}", status=403)
    account, role = sts.role_of(exchange.simulator, arn)
    if account is None or role is None:
        raise denied
    provider, claims = _verified(account, token)
    issuer = provider.partition(":oidc-provider/")[2]
    audience = _audiences(claims)[0]
    context = {f"{issuer}:sub": str(claims.get("sub", "")), f"{issuer}:aud": audience}
    trust = sts.document(role)
    if not policies.trusts(trust, action=f"sts:{ACTION}", principal=provider, kind="Federated", context=context):
        raise denied
    scope = json.loads(params.one("Policy")) if "Policy" in params.form else None
    duration = timedelta(seconds=int(params.one("DurationSeconds", "3600")))
    key = sts.session(exchange.simulator, account, role.name, params.one("RoleSessionName"), duration, scope=scope)
    told = fields(SubjectFromWebIdentityToken=str(claims["sub"]), Audience=audience, Provider=provider)
    return query_answer(ACTION, sts.NAMESPACE, sts.credentials(key) + told)


def _verified(account: Account, token: str) -> tuple[str, Mapping[str, Any]]:
    """Return the provider of a token's issuer, and its claims. Raises Refusal for a token that is not one of its own, or old."""
    try:
        said = json.loads(jws.extract_compact(token.encode()).payload)
        provider, keys = account.issuers[str(said["iss"])]
        claims = jwt.decode(token, keys, algorithms=["RS256", "ES256"]).claims
    except (JoseError, KeyError, ValueError) as error:
        raise Refusal(
            "InvalidIdentityToken", f"No OpenIDConnect provider found in your account for it: {error}"
        ) from None
    clients = account.iam.get_open_id_connect_provider(provider).client_id_list
    if not set(_audiences(claims)) & set(clients):
        raise Refusal("InvalidIdentityToken", "Incorrect token audience")
    if datetime.fromtimestamp(float(claims.get("exp", 0)), UTC) <= account.clock.now():
        raise Refusal(
            "ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time"
        )
    return provider, claims


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    told = claims.get("aud", "")
    return [told] if isinstance(told, str) else list(told)


def trust(account: Account, issuer: str, keys: Mapping[str, Any]) -> str:
    """Make an OIDC provider for an issuer whose public keys (a JWK set) are known; return its ARN. Its audience is STS."""
    made = account.iam.create_open_id_connect_provider(
        url=issuer, thumbprint_list=["0" * 40], client_id_list=["sts.amazonaws.com"], tags=[]
    )
    account.issuers[issuer] = (str(made.arn), KeySet.import_key_set(keys))  # type: ignore[arg-type]
    return str(made.arn)


HANDLERS = {("sts", ACTION): assume_role_with_web_identity}
