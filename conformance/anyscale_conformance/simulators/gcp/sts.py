"""The exchange of somebody else's token for a federated one, and of an access token for a narrower one.

A token of somebody else's is really verified: by the issuer's keys.

Source: cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token and .../workload-identity-federation. Keys come from the
provider's ``jwksJson``, or from the issuer by its ``/.well-known/openid-configuration``.
"""

import json
import re
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from anyscale_conformance.simulators.gcp import boundaries, cel, pools, workloads
from anyscale_conformance.simulators.gcp.calls import Call, Caller, handles
from anyscale_conformance.simulators.gcp.cloud import Cloud
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.keys import keys_of
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.tokens import LIFETIME

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
JWTS = frozenset({"urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"})
AUDIENCE = re.compile(
    r"//iam\.googleapis\.com/(projects/\d+/locations/global/workloadIdentityPools/[^/]+/providers/[^/]+)"
)
OLDEST = timedelta(hours=24)
"""How long a token may be valid, from its issue to its end."""
SKEW = timedelta(minutes=5)
PATIENCE_S = 5.0
"""How long an issuer may take to answer."""


@handles("sts.token")
def exchange(call: Call) -> Json:
    """Give a federated token for one of a provider's issuer, or a narrower one for an access token.

    Raises 400 with OAuth's words for what is not good.
    """
    body = call.body
    if body.get("grantType") != GRANT:
        raise _refused("unsupported_grant_type", f"grant_type must be {GRANT}.")
    if body.get("requestedTokenType") != ACCESS:
        raise _refused("invalid_request", f"requested_token_type must be {ACCESS}.")
    if body.get("subjectTokenType") == ACCESS:
        return _narrowed(call)
    if body.get("subjectTokenType") not in JWTS:
        raise _refused("invalid_request", 'Invalid value for "subject_token_type".')
    if not body.get("scope"):
        raise _refused("invalid_scope", "The scope is required.")
    audience = str(body.get("audience", ""))
    found, gke = AUDIENCE.fullmatch(audience), workloads.issuer_of(call.project, audience)
    if found is None and gke is None:
        raise _refused("invalid_request", "Invalid value for \"audience\". This value should be the full resource name of the "
                       "Identity Provider.")  # fmt: skip
    provider = gke or _provider(call, found[1] if found else "")
    claims = _claims(call, provider, str(body.get("subjectToken", "")))
    caller = workloads.pod_of(call.project, claims) if gke else _mapped(provider, claims)
    if caller is None:
        raise _refused("invalid_grant", "The token is not of a Kubernetes service account.")
    ends = datetime.fromtimestamp(int(claims["exp"]), UTC)
    lifetime = min(LIFETIME, ends - call.project.clock.now())
    token = call.cloud.tokens.issue(caller, project=call.project, lifetime=lifetime, prefix="ya29.d.")
    seconds = int(lifetime.total_seconds())
    return {"access_token": token, "issued_token_type": ACCESS, "token_type": "Bearer", "expires_in": seconds}


def _narrowed(call: Call) -> Json:
    """Give a token that may do no more than the boundary says, for as long as the token that was shown is good."""
    token = call.cloud.tokens.find(str(call.body.get("subjectToken", "")))
    if token is None or token.caller.boundary:
        raise _refused("invalid_grant", "The subject token is not valid, or has been narrowed already.")
    caller = attrs.evolve(token.caller, boundary=boundaries.read(str(call.body.get("options", ""))))
    lifetime = token.expires_at - token.project.clock.now()
    word = call.cloud.tokens.issue(caller, project=token.project, lifetime=lifetime, prefix="ya29.dr.")
    answer: Json = {"access_token": word, "issued_token_type": ACCESS, "token_type": "Bearer"}
    # Only of a service account's token does the service say when it ends.
    is_told = token.caller.member.startswith("serviceAccount:")
    return answer | ({"expires_in": int(lifetime.total_seconds())} if is_told else {})


def _provider(call: Call, name: str) -> Json:
    try:
        provider = pools.named(call.project, name)
        pool = pools.named(call.project, name.partition("/providers/")[0])
    except ApiError:
        provider, pool = {"disabled": True}, {}
    if provider.get("disabled") or pool.get("disabled"):
        raise _refused("invalid_target", "The target service indicated by the \"audience\" parameters is invalid. This might "
                       "either be because the pool or provider is disabled or deleted or because it doesn't exist.")  # fmt: skip
    return provider


def _claims(call: Call, provider: Mapping[str, Any], token: str) -> Json:
    """Return the claims of a token that the provider's issuer signed for this provider and that is valid now."""
    oidc, now = provider["oidc"], call.project.clock.now()
    try:
        keys = (
            keys_of(json.loads(oidc["jwksJson"])) if oidc.get("jwksJson") else _fetched(call.cloud, oidc["issuerUri"])
        )
        claims = dict(jwt.decode(token, keys, algorithms=["RS256", "ES256"]).claims)
    except (JoseError, ValueError) as error:
        raise _refused("invalid_grant", f"Error connecting to or verifying with the given credential's issuer: {error}")
    if claims.get("iss") != oidc["issuerUri"]:
        raise _refused("invalid_grant", f"The issuer in ID Token {claims.get('iss')} does not match the expected one "
                       f"{oidc['issuerUri']}.")  # fmt: skip
    resource = f"//iam.googleapis.com/{provider['name']}"
    allowed = set(oidc.get("allowedAudiences") or [resource, f"https:{resource}"])
    audience = claims.get("aud", [])
    if not allowed & set([audience] if isinstance(audience, str) else audience):
        raise _refused("invalid_grant", f"The audience in ID Token [{audience}] does not match the expected audience.")
    for name in ("exp", "iat"):
        if not isinstance(claims.get(name), int | float):
            raise _refused("invalid_grant", f"The ID Token has no valid {name} claim.")
    ends, begins = (datetime.fromtimestamp(claims[name], UTC) for name in ("exp", "iat"))
    if ends <= now:
        raise _refused("invalid_grant", f"ID Token issued at {int(claims['iat'])} is stale to sign-in.")
    if begins > now + SKEW or ends - begins > OLDEST:
        raise _refused("invalid_grant", "The ID Token's iat and exp claims are not plausible.")
    return claims


def _fetched(cloud: Cloud, issuer: str) -> KeySet:
    """Return an issuer's keys. Raises ValueError when they cannot be had."""
    try:
        with cloud.unlocked():
            configuration = _json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if configuration.get("issuer") != issuer:
                raise ValueError(f"the issuer calls itself {configuration.get('issuer')}")
            return keys_of(_json(str(configuration["jwks_uri"])))
    except (OSError, KeyError) as error:
        raise ValueError(f"{issuer}: {error}")


def _json(url: str) -> Json:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        found: Json = json.loads(answer.read())
    return found


def _mapped(provider: Mapping[str, Any], claims: Json) -> Caller:
    """Return whom a provider's mapping makes of a token. Raises 400 when it has no subject or its condition does not hold."""
    values: dict[str, Any] = {}
    for name, expression in provider["attributeMapping"].items():
        try:
            values[name] = cel.parse(expression)({"assertion": claims})
        except cel.CelError as error:
            if name == "google.subject":
                raise _refused("invalid_grant", f"The mapped attribute google.subject is missing: {error}")
    subject = str(values["google.subject"])
    if not subject or len(subject.encode()) > 127:
        raise _refused(
            "invalid_grant", "The size of mapped attribute google.subject exceeds the 127 bytes limit or is 0."
        )
    groups = [str(group) for group in values.get("google.groups", [])]
    attributes = {
        name.removeprefix("attribute."): value for name, value in values.items() if name.startswith("attribute.")
    }
    if condition := provider.get("attributeCondition"):
        scope = {"assertion": claims, "google": {"subject": subject, "groups": groups}, "attribute": attributes}
        if not cel.holds(condition, scope):
            raise _refused("unauthorized_client", "The given credential is rejected by the attribute condition.")
    pool = f"iam.googleapis.com/{provider['name'].partition('/providers/')[0]}"
    sets = {f"principalSet://{pool}/*"}
    sets |= {f"principalSet://{pool}/group/{group}" for group in groups}
    sets |= {f"principalSet://{pool}/attribute.{name}/{value}" for name, value in attributes.items()}
    return Caller(member=f"principal://{pool}/subject/{subject}", sets=frozenset(sets))


def _refused(code: str, message: str) -> ApiError:
    return ApiError(400, "badRequest", message, code=code)
