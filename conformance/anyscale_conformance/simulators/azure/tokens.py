"""Microsoft Entra ID: tokens that are really signed, and who they are for."""

import functools
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

MANAGEMENT = "https://management.azure.com"
STORAGE = "https://storage.azure.com"
LIVES_S = 86399
"""How long an access token is good, in seconds."""
SDK_AUDIENCES = (MANAGEMENT, "https://management.core.windows.net", STORAGE)
"""Audiences whose tokens run by this machine's time: the SDKs keep them by that, whatever the simulated clock says."""


def issuer_of(tenant: str) -> str:
    """Return who issues the access tokens of a tenant: they are of version 1 for managed identities and for ARM."""
    return f"https://sts.windows.net/{tenant}/"


@attrs.frozen(kw_only=True)
class Claims:
    """What a token says, verified."""

    audience: str
    principal: str
    tenant: str
    all: Mapping[str, Any]


class Issuer:
    """Signs and verifies tokens of every tenant with one key."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._key = RSAKey.generate_key(2048, auto_kid=True)
        # A client sends one token with every request: its signature is looked at once.
        self._verified = functools.lru_cache(maxsize=1024)(self._decoded)

    def keys(self) -> Mapping[str, Any]:
        """Return the public keys, as a JWK set."""
        return KeySet([self._key]).as_dict(private=False)

    def configuration(self, tenant: str, *, version: str = "v2.0") -> Mapping[str, Any]:
        """Return a tenant's OpenID configuration, of the version that is asked for: they differ in the issuer."""
        start = f"{self._base}/{tenant}"
        issuer = f"{start}/v2.0" if version == "v2.0" else issuer_of(tenant)
        return {
            "issuer": issuer, "token_endpoint": f"{start}/oauth2/v2.0/token",
            "authorization_endpoint": f"{start}/oauth2/v2.0/authorize", "jwks_uri": f"{start}/discovery/v2.0/keys",
            "device_authorization_endpoint": f"{start}/oauth2/v2.0/devicecode",
            "response_types_supported": ["code", "id_token", "token id_token"], "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"], "tenant_region_scope": "NA",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        }  # fmt: skip

    def sign(self, *, tenant: str, audience: str, principal: str, client: str, now: datetime, **extra: Any) -> str:
        """Return a signed access token."""
        wanted = audience.rstrip("/")
        issued = int(time.time()) if wanted in SDK_AUDIENCES else int(now.timestamp())
        claims = {
            "aud": wanted if wanted in SDK_AUDIENCES else audience, "iss": issuer_of(tenant), "iat": issued, "nbf": issued,
            "exp": issued + LIVES_S, "oid": principal, "sub": principal, "tid": tenant, "appid": client, "idtyp": "app",
            "ver": "1.0", **extra,
        }  # fmt: skip
        return jwt.encode({"alg": "RS256", "kid": self._key.kid, "typ": "JWT"}, claims, self._key)

    def verify(self, token: str) -> Claims | None:
        """Return what a token of ours says; nothing for one that is not. Whether it is out of date is the caller's."""
        return self._verified(token)

    def _decoded(self, token: str) -> Claims | None:
        try:
            claims = jwt.decode(token, self._key, algorithms=["RS256"]).claims
        except (JoseError, ValueError):
            return None
        return Claims(
            audience=str(claims.get("aud", "")), principal=str(claims.get("oid", "")), tenant=str(claims.get("tid", "")),
            all=claims,
        )  # fmt: skip
