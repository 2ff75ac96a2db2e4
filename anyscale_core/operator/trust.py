"""Whether an order is from our control plane: signed with the key that its authority has certified."""

from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from anyscale_core.errors import CoreError
from anyscale_core.models.order import OrderSlip

ALGORITHM = "Ed25519"
ORDER = "anyscale-core/order"


class Forged(CoreError):
    """An order, or the certificate of the key that it was signed with, is not from the control plane that is trusted."""


class _AnySize(jws.JWSRegistry):
    max_payload_length = 2**30
    """The link bounds what comes in."""


def opener(ca_pem: str, certificate_pem: str, *, now: datetime) -> Callable[[OrderSlip], bytes]:
    """Return what opens slips: it returns an order's bytes, or raises Forged. Raises Forged for a foreign certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Forged("the key that orders are signed with is not certified by the given authority") from error
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [name.value for name in names] != [ORDER]:
        raise Forged("the certificate is not for the key that orders are signed with")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Forged("the certificate of the key that orders are signed with is not valid now; is the clock right?")
    public = certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key, registry = OKPKey.import_key(public), _AnySize(algorithms=[ALGORITHM])

    def open_slip(slip: OrderSlip) -> bytes:
        try:
            found = jws.deserialize_compact(slip.reveal(), key, registry=registry)
        except (JoseError, ValueError, TypeError):
            raise Forged("an order was not signed by the control plane") from None
        if found.headers().get("typ") != ORDER:
            raise Forged("what was signed is no order")
        return bytes(found.payload)

    return open_slip
