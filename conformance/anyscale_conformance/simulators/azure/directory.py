"""The tenant of a subscription: who there is, and which token each may have."""

import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from anyscale_conformance.simulators.azure.subscription import Subscription
    from anyscale_conformance.simulators.azure.tokens import Issuer

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@attrs.frozen(kw_only=True)
class Application:
    """A service principal with a secret."""

    client_id: str
    principal: str
    secret: str = attrs.field(repr=False)


class Directory:
    """Principals of one tenant."""

    def __init__(self, at: "Subscription", issuer: "Issuer") -> None:
        self._at, self._issuer = at, issuer
        self.applications: dict[str, Application] = {}
        self.trusted: dict[str, Callable[[str], Mapping[str, Any] | None]] = {}
        """Issuers of foreign tokens, and what verifies a token of theirs: it returns the claims, or nothing."""

    def application(self) -> Application:
        """Return a new service principal."""
        made = Application(client_id=str(uuid.uuid4()), principal=str(uuid.uuid4()), secret=secrets.token_urlsafe(24))
        self.applications[made.client_id] = made
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
        from anyscale_conformance.simulators.azure.tokens import LIVES_S

        return (
            200,
            {},
            {"token_type": "Bearer", "expires_in": LIVES_S, "ext_expires_in": LIVES_S, "access_token": token},
        )

    def _exchange(self, client: str, assertion: str, audience: str) -> tuple[int, Mapping[str, str], Any]:
        return refusal("unauthorized_client", 700016, f"Application with identifier '{client}' was not found.")


def refusal(error: str, number: int, text: str, *, status: int = 400) -> tuple[int, Mapping[str, str], Any]:
    """Return what Entra ID refuses with."""
    return status, {}, {"error": error, "error_description": f"AADSTS{number}: {text}", "error_codes": [number]}
