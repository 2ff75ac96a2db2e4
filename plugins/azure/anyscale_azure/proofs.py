"""Proofs are tokens of Entra ID: checked offline against the keys of the tenant's own discovery document."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from anyscale_azure import tags as tagging
from anyscale_azure.client import Azure
from anyscale_core.errors import PermissionDenied, Unauthenticated
from anyscale_core.models.identity import Principal, Proof
from anyscale_core.models.owner import Owner

ALGORITHM = "RS256"
SKEW = timedelta(minutes=5)
"""How far the clocks of Entra ID and of this machine may be apart, as Microsoft's own libraries allow."""
KEYS_LAST = timedelta(hours=24)
KEYS_AGAIN = timedelta(minutes=5)
"""A key that is not known lets the keys be read anew, but no oftener than this: forged tokens must not cost us requests."""
MACHINE = "/providers/microsoft.compute/virtualmachines/"


@attrs.frozen(kw_only=True)
class Keys:
    """The keys of a tenant, and when they were read."""

    issuer: str
    jwks: Any
    read_at: datetime


class Verifier:
    """Says whom a proof is about. ``owner``: whose machines may prove themselves. Threads may share it."""

    def __init__(self, azure: Azure, owner: Owner) -> None:
        self._azure, self._owner = azure, owner
        self._lock = threading.Lock()
        self._keys: Keys | None = None

    def resource(self, audience: str) -> str:
        """Return what Entra ID calls an audience of ours: the identifier URI of an application of the tenant."""
        settings = self._azure.settings
        return settings.proof_audience.format(tenant=settings.tenant_id, audience=audience)

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        """Return whom a proof is about. Raises Unauthenticated, and PermissionDenied for a genuine one from elsewhere."""
        document = proof.document.reveal()
        if not document:
            raise Unauthenticated("the proof is empty", reason="MISSING", hint="call prove on the node")
        if proof.provider != "azure":
            raise Unauthenticated(f"the proof is of provider {proof.provider!r}, not of azure", reason="FORGED")
        claims = self._genuine(document, deadline)
        self._check_fresh(claims)
        if not audience or claims.get("aud") != self.resource(audience):
            raise Unauthenticated(
                "the proof was made for another audience", reason="FORGED", hint=f"prove for {audience!r}"
            )
        return self._principal(claims)

    def _genuine(self, document: str, deadline: datetime) -> Mapping[str, Any]:
        """Return the claims of a token that the tenant's authority signed."""
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        keys = self._read(deadline, _key_id(document))
        try:
            token = jwt.decode(document, KeySet.import_key_set(keys.jwks), algorithms=[ALGORITHM])
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Unauthenticated("the proof is not genuine", reason="FORGED") from error
        claims: Mapping[str, Any] = token.claims
        tenant = self._azure.settings.tenant_id
        if claims.get("tid") != tenant:
            raise PermissionDenied(f"the proof is of the tenant {claims.get('tid')}", reason="BOUNDARY")
        issuers = {keys.issuer, f"https://sts.windows.net/{tenant}/", f"{self._azure.settings.authority}/{tenant}/v2.0"}
        if claims.get("iss") not in issuers:
            raise Unauthenticated("the proof was issued by somebody else", reason="FORGED")
        return claims

    def _check_fresh(self, claims: Mapping[str, Any]) -> None:
        now = self._azure.clock.now()
        try:
            ends = datetime.fromtimestamp(float(claims["exp"]), UTC)
            begins = datetime.fromtimestamp(float(claims.get("nbf", 0)), UTC)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unauthenticated("the proof does not say when it ends", reason="FORGED") from error
        if now >= ends:
            raise Unauthenticated("the proof has expired", reason="EXPIRED", hint="make a fresh one")
        if now < begins - SKEW:
            raise Unauthenticated("the proof is of the future", reason="EXPIRED", hint="set the clocks right")

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        """Return whom the claims name: the machine that has the identity, or the identity alone (a federated one)."""
        identity = str(claims.get("xms_mirid") or "")
        machine = identity if MACHINE in identity.lower() else str(claims.get("xms_az_rid") or "")
        path = machine or identity
        words = path.lower().strip("/").split("/")
        account = words[1] if len(words) > 3 and words[0] == "subscriptions" else ""
        settings = self._azure.settings
        if account != settings.subscription_id.lower() or words[3] != settings.resource_group.lower():
            raise PermissionDenied(
                f"the proof is of {path or 'no resource'}, not of this cloud's group", reason="BOUNDARY"
            )
        name = path.rpartition("/")[2] if MACHINE in machine.lower() else ""
        ending = f"-{tagging.suffix(self._owner)}"
        return Principal(
            subject=path,
            account=settings.subscription_id,
            instance=name.removesuffix(ending),
            claims={key: str(claims[key]) for key in ("oid", "appid", "xms_mirid") if key in claims},
        )

    def _read(self, deadline: datetime, key_id: str) -> Keys:
        """Return the tenant's keys: those that were read last, unless they are old or lack this one."""
        now = self._azure.clock.now()
        with self._lock:
            keys = self._keys
            if keys is not None and now < keys.read_at + KEYS_LAST:
                known = {each.get("kid") for each in keys.jwks.get("keys", ())}
                if key_id in known or now < keys.read_at + KEYS_AGAIN:
                    return keys
            settings = self._azure.settings
            start = f"{settings.authority.rstrip('/')}/{settings.tenant_id}/v2.0/.well-known/openid-configuration"
            found = self._azure.fetch(start, deadline=deadline)
            jwks = self._azure.fetch(str(found["jwks_uri"]), deadline=deadline)
            self._keys = Keys(issuer=str(found["issuer"]), jwks=jwks, read_at=now)
            return self._keys


def _key_id(document: str) -> str:
    """Return which key a token says that it was signed with. Raises Unauthenticated(FORGED) for what is no token."""
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        return str(jws.extract_compact(document.encode()).headers().get("kid", ""))
    except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unauthenticated("the proof is not genuine", reason="FORGED") from error
