"""Microsoft.ManagedIdentity: identities that machines and workloads may have, and whose tokens stand for them."""

import uuid

from anyscale_conformance.simulators.azure.errors import ArmError, invalid
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, shown
from anyscale_conformance.simulators.azure.registry import register
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.wire import Body, Request

IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
CREDENTIALS = f"{IDENTITIES}/federatedIdentityCredentials"
MOST_CREDENTIALS = 20


@register
class UserAssignedIdentity(Kind):
    """An identity of its own."""

    type = IDENTITIES
    shape = "identity.Identity"
    patch = "identity.IdentityUpdate"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    name_pattern = r"[A-Za-z0-9][A-Za-z0-9_\-]{2,127}"

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        before = (old or {}).get("properties") or {}
        resource.properties.update(
            tenantId=at.tenant_id,
            principalId=before.get("principalId") or str(uuid.uuid4()),
            clientId=before.get("clientId") or str(uuid.uuid4()),
        )
        at.directory.principals.setdefault(resource.properties["principalId"], at.now() + at.propagation)

    def leave(self, at: Subscription, resource: Resource) -> None:
        at.directory.principals.pop(resource.properties["principalId"], None)

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        return _plain(resource)


@register
class FederatedCredential(Kind):
    """Whose tokens are taken for an identity's: an issuer, a subject and an audience, to the letter."""

    type = CREDENTIALS
    shape = "identity.FederatedIdentityCredential"
    put_flow = Flow.SYNC
    delete_flow = Flow.SYNC
    has_location = False
    name_pattern = r"[A-Za-z0-9][A-Za-z0-9_\-]{2,119}"

    def check(self, at: Subscription, request: Request, body: Body, old: Resource | None) -> None:
        properties = body.get("properties") or {}
        for name in ("issuer", "subject", "audiences"):
            if not properties.get(name):
                raise invalid(f"The property '{name}' is required.", target=name, code="BadRequest")
        if len(properties["audiences"]) != 1:
            raise invalid("Exactly one audience has to be given.", target="audiences", code="BadRequest")
        if not str(properties["issuer"]).startswith("https://"):
            raise invalid("The issuer has to be an https URL.", target="issuer", code="BadRequest")
        others = [
            one for one in at.all(CREDENTIALS, below=f"{request.target.path.rsplit('/', 2)[0]}/") if one is not old
        ]
        if len(others) >= MOST_CREDENTIALS:
            raise invalid(
                f"Too many Federated Identity Credentials: at most {MOST_CREDENTIALS} are allowed.", code="BadRequest"
            )
        wanted = (properties["issuer"], properties["subject"])
        if any((one.properties["issuer"], one.properties["subject"]) == wanted for one in others):
            raise ArmError(
                409,
                "Conflict",
                "Issuer and subject combination already exists for this Managed Identity.",
                target="subject",
            )

    def put(self, at: Subscription, resource: Resource, old: Body | None) -> None:
        resource.hidden["since"] = at.now()

    def view(self, at: Subscription, resource: Resource, request: Request | None) -> Body:
        return _plain(resource)


def _plain(resource: Resource) -> Body:
    """Return what this namespace shows: neither etag nor provisioning state."""
    body = shown(resource)
    body.pop("etag")
    body["properties"].pop("provisioningState")
    return body
