"""The tenant of a subscription: who there is, and which token each may have."""

import json
import secrets
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.tokens import LIVES_S, SDK_AUDIENCES, Issuer

if TYPE_CHECKING:
    from anyscale_conformance.simulators.azure.store import Resource
    from anyscale_conformance.simulators.azure.subscription import Subscription

IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@attrs.frozen(kw_only=True)
class Application:
    """A service principal with a secret."""

    client_id: str
    principal: str
    secret: str = attrs.field(repr=False)


class Directory:
    """Principals of one tenant."""

    def __init__(self, at: "Subscription", issuer: Issuer) -> None:
        self._at, self._issuer = at, issuer
        self.applications: dict[str, Application] = {}
        self.principals: dict[str, datetime] = {}
        """Object ids, and since when every directory knows them."""
        self.audiences: frozenset[str] | None = None
        """The applications (by identifier URI) that tokens may be for besides Azure's own; None: every one is registered."""
        self._foreign: dict[str, KeySet] = {}

    def application(self) -> Application:
        """Return a new service principal."""
        made = Application(client_id=str(uuid.uuid4()), principal=str(uuid.uuid4()), secret=secrets.token_urlsafe(24))
        self.applications[made.client_id] = made
        self.principals[made.principal] = self._at.now()
        return made

    def token(self, *, client: str, principal: str, audience: str, **extra: Any) -> str:
        """Return a token of this tenant."""
        return self._issuer.sign(
            tenant=self._at.tenant_id,
            audience=audience,
            principal=principal,
            client=client,
            now=self._at.now(),
            **extra,
        )

    def check_audience(self, audience: str) -> None:
        """Refuse a token for an application that the tenant does not have. Raises ArmError."""
        if self.audiences is not None and audience not in self.audiences and audience.rstrip("/") not in SDK_AUDIENCES:
            raise ArmError(
                400, "invalid_resource",
                f"AADSTS500011: The resource principal named {audience} was not found in the tenant named {self._at.tenant_id}. "
                "This can happen if the application has not been installed by the administrator of the tenant.",
            )  # fmt: skip

    def claims(self, token: str) -> Mapping[str, Any]:
        """Return what a token of this tenant says. Raises ValueError for one that is none."""
        found = self._issuer.verify(token)
        if found is None:
            raise ValueError("no token of this simulator")
        return found.all

    def grant(self, form: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
        """Answer a request for a token (OAuth 2.0 client credentials, by secret or by assertion)."""
        if form.get("grant_type") != "client_credentials":
            return refusal("unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        client, scope = form.get("client_id", ""), form.get("scope", "")
        if not scope.endswith("/.default"):
            return refusal(
                "invalid_scope", 70011, f"The provided value for the input parameter 'scope' is not valid: {scope}"
            )
        audience = scope.removesuffix("/.default")
        try:
            self.check_audience(audience)
        except ArmError as error:
            return refusal(error.code, 500011, error.message.partition(": ")[2])
        if form.get("client_assertion_type") == ASSERTION:
            return self._exchange(client, form.get("client_assertion", ""), audience)
        found = self.applications.get(client)
        if found is None:
            return refusal("unauthorized_client", 700016, f"Application with identifier '{client}' was not found.")
        if not secrets.compare_digest(found.secret, form.get("client_secret", "")):
            return refusal("invalid_client", 7000215, "Invalid client secret provided.", status=401)
        return self.granted(self.token(client=client, principal=found.principal, audience=audience))

    def granted(self, token: str) -> tuple[int, Mapping[str, str], Any]:
        """Return the answer with a token in it."""
        return (
            200,
            {},
            {"token_type": "Bearer", "expires_in": LIVES_S, "ext_expires_in": LIVES_S, "access_token": token},
        )

    def trust(self, issuer: str, keys: Mapping[str, Any]) -> None:
        """Let an issuer of tokens be known by its public keys (a JWK set), as its discovery document would tell them."""
        self._foreign[issuer] = KeySet.import_key_set(keys)  # type: ignore[arg-type]

    def identity(self, client: str) -> "Resource | None":
        """Return the managed identity of a client id."""
        for identity in self._at.all(IDENTITIES):
            if identity.properties["clientId"] == client:
                return identity
        return None

    def _exchange(self, client: str, assertion: str, audience: str) -> tuple[int, Mapping[str, str], Any]:
        """Give an identity's token for one of an issuer, subject and audience that it trusts."""
        identity = self.identity(client)
        if identity is None:
            return refusal("unauthorized_client", 700016, f"Application with identifier '{client}' was not found.")
        claims = self._claims(assertion)
        if claims is None:
            return refusal(
                "invalid_client",
                700027,
                "The certificate with identifier used to sign the client assertion is not known.",
                status=401,
            )
        said = (str(claims.get("iss", "")), str(claims.get("sub", "")))
        audiences = claims.get("aud")
        told = audiences if isinstance(audiences, list) else [audiences]
        credentials = [
            one
            for one in self._at.all(f"{IDENTITIES}/federatedIdentityCredentials", below=f"{identity.id}/")
            if self._at.now() >= one.hidden["since"] + self._at.propagation
        ]
        for word, number, keep in (
            ("issuer", 700211, lambda one: one["issuer"] == said[0]),
            ("subject", 700213, lambda one: one["subject"] == said[1]),
            ("audience", 700212, lambda one: one["audiences"][0] in told),
        ):
            credentials = [one for one in credentials if keep(one.properties)]
            if not credentials:
                text = f"No matching federated identity record found for presented assertion {word}: {said} {told}."
                return refusal("invalid_client", number, text, status=401)
        principal = identity.properties["principalId"]
        return self.granted(self.token(client=client, principal=principal, audience=audience, xms_mirid=identity.id))

    def _claims(self, assertion: str) -> Mapping[str, Any] | None:
        """Return what an assertion says, when its issuer is known, its signature good and its time not past."""
        try:
            said = json.loads(jws.extract_compact(assertion.encode()).payload)
            claims = jwt.decode(assertion, self._foreign[said["iss"]], algorithms=["RS256", "ES256"]).claims
        except (JoseError, KeyError, ValueError):
            return None
        # A Kubernetes token runs by this machine's time: the API server that signs it knows no other.
        return claims if float(claims.get("exp", 0)) > time.time() else None


def refusal(error: str, number: int, text: str, *, status: int = 400) -> tuple[int, Mapping[str, str], Any]:
    """Return what Entra ID refuses with."""
    return status, {}, {"error": error, "error_description": f"AADSTS{number}: {text}", "error_codes": [number]}
