"""A node's wire to the control plane: three routes."""

from datetime import timedelta

from anyscale_core.link import Away, JsonLink
from anyscale_core.models.instance import Bootstrap
from anyscale_core.models.node import CertificateRequest, Heartbeat, NodeCertificate, Orders, Registered, Registration
from anyscale_core.models.secret import Secret

__all__ = ["Away", "Link"]


class Link(JsonLink):
    """One connection to the control plane, for one thread at a time. Opened when needed, opened again when it breaks."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        super().__init__(bootstrap.url, bootstrap.ca_pem)

    def register(self, registration: Registration) -> Registered:
        """Register. Raises Refused for 401 and 403, Away for anything else that is not an answer."""
        return self.post("/v1/nodes/register", registration, Registered, credential=None, wait=timedelta())

    def heartbeat(self, beat: Heartbeat, *, credential: Secret[str]) -> Orders:
        """Send one heartbeat and return the orders. Raises Refused and Away."""
        return self.post("/v1/nodes/heartbeat", beat, Orders, credential=credential, wait=beat.wait)

    def certify(self, request: CertificateRequest, *, credential: Secret[str]) -> NodeCertificate:
        """Have a certificate for Ray signed. Raises Refused and Away."""
        return self.post("/v1/nodes/certify", request, NodeCertificate, credential=credential, wait=timedelta())
