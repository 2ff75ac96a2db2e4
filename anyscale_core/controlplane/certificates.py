"""The certificates that Rays show to each other: an authority for each cluster, derived from the plane's key.

Ray trusts whatever its authority has signed, so what shall not be trusted by a cluster must not be signed by its authority:
no two clusters share one, and it signs for no user and no server of ours.
"""

import hashlib
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.errors import Fault, SpecError
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.node import CertificateRequest, NodeCertificate

SKEW = timedelta(hours=1)
"""How far a node's clock may lag behind the control plane's."""
LIFE = timedelta(days=3650)
CURVE = ec.SECP256R1()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve's group (FIPS 186-4, D.1.2.3): private keys are 1 to ORDER - 1."""


class ClusterAuthority:
    """One cluster's authority. Its key is derived, so it is nowhere stored and every process of the plane has the same."""

    def __init__(self, keys: KeyRing, cluster: ClusterId, *, born: datetime) -> None:
        seed = keys.sign("anyscale-core/cluster-ca", {"sub": cluster}, issued=born, expires=born).reveal()
        number = int.from_bytes(hashlib.sha512(seed.encode()).digest())
        self._key = ec.derive_private_key(1 + number % (ORDER - 1), CURVE)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"anyscale-core {cluster}")])
        self._born = born

    def certify(self, request: CertificateRequest, *, now: datetime, ttl: timedelta) -> NodeCertificate:
        """Return a certificate for the addresses of a request, good for both sides of a connection until ``now + ttl``.

        Raises SpecError for what is no request, or names no address.
        """
        wanted = _read(request)
        addresses = wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")]), wanted.public_key())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + ttl)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.IPAddress(one) for one in addresses.get_values_for_type(x509.IPAddress)]
                ),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return NodeCertificate(cert_pem=_pem(certificate), ca_pem=self._own(), issued_at=now, expires_at=now + ttl)

    def _own(self) -> str:
        certificate = (
            self._builder(self._name, self._key.public_key())
            .not_valid_before(self._born - SKEW)
            .not_valid_after(self._born + LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate)

    def _builder(self, subject: x509.Name, key: object) -> x509.CertificateBuilder:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
        )


def _read(request: CertificateRequest) -> x509.CertificateSigningRequest:
    def fault(message: str) -> SpecError:
        return SpecError([Fault(path="csr_pem", message=message)], subject="the certificate request")

    try:
        wanted = x509.load_pem_x509_csr(request.csr_pem.encode())
        names = wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        signed = wanted.is_signature_valid
    except (ValueError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise fault(f"is no PKCS #10 request with a subject alternative name: {error}") from None
    if not signed or not isinstance(wanted.public_key(), ec.EllipticCurvePublicKey):
        raise fault("must be signed by the elliptic-curve key that it is for")
    if not names.get_values_for_type(x509.IPAddress):
        raise fault("names no IP address: Ray's processes find each other by address")
    return wanted


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
