"""The node's certificate for Ray's gRPC: a key that never leaves the node, signed by the cluster's own authority.

A process of Ray reads its files once, when it starts (ray-project/ray#65365): a renewed file is for the next one.
"""

import ipaddress
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from anyscale_core.models.node import CertificateRequest, NodeCertificate
from anyscale_core.node.home import Home
from anyscale_core.node.rayargs import TLS_FILES

RECORD = "certificate.json"
FRESH, RENEW, LAST = 1 / 2, 2 / 3, 9 / 10
"""Parts of a certificate's life: until the first a Ray may start with it, from the second its Ray should be replaced by one
with another, from the third it must be."""


class Certificates:
    """The files in a folder that Ray is pointed to. ``ask`` has the control plane sign a request; raises what it raises."""

    def __init__(self, folder: Path, *, address: str, ask: Callable[[CertificateRequest], NodeCertificate]) -> None:
        self._home, self._address, self._ask = Home(folder), address, ask
        self.current = self._home.load_as(RECORD, NodeCertificate)

    def due(self, now: datetime) -> bool:
        """Tell whether a Ray that starts now should have another certificate than there is."""
        return self.current is None or now >= self.current.after(FRESH)

    def usable(self, now: datetime) -> bool:
        """Tell whether a Ray can start with the certificate that there is."""
        return self.current is not None and now < self.current.expires_at

    def renew(self) -> None:
        """Get a new key and certificate for the Rays that start from now on."""
        key, request = _request(self._address)
        certificate = self._ask(CertificateRequest(csr_pem=request))
        for name, text in zip(TLS_FILES, (certificate.cert_pem, key, certificate.ca_pem), strict=True):
            self._home.write(name, text)
        # Last: it is what the next agent goes by.
        self._home.save(RECORD, certificate)
        self.current = certificate


def _request(address: str) -> tuple[str, str]:
    """Return a new key and a request for a certificate of this address, PEM."""
    # Imported late: Ray's own import need not wait for its 50 ms.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode(), builder.sign(key, hashes.SHA256()).public_bytes(pem).decode()
