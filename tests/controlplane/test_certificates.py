"""Certificates for Ray: whose they are, what is signed, and for whom it is not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from anyscale_core.controlplane.certificates import ClusterAuthority
from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.errors import SpecError
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.node import CertificateRequest, NodeCertificate
from anyscale_core.node.certificates import Certificates

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("keys"), now=NOW)


def authority(keys: KeyRing, cluster: str = "clu_1") -> ClusterAuthority:
    return ClusterAuthority(keys, ClusterId(cluster), born=NOW)


def certified(folder: Path, of: ClusterAuthority) -> NodeCertificate:
    files = Certificates(folder, address="10.0.0.7", ask=lambda request: of.certify(request, now=NOW, ttl=DAY))
    files.renew()
    assert files.current is not None
    return files.current


def signed_by(certificate: NodeCertificate, ca_pem: str) -> bool:
    ca = x509.load_pem_x509_certificate(ca_pem.encode())
    try:
        x509.load_pem_x509_certificate(certificate.cert_pem.encode()).verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_a_node_has_a_certificate_for_its_address_for_both_sides_and_its_key_stays_at_home(
    keys: KeyRing, tmp_path: Path
) -> None:
    given = certified(tmp_path, authority(keys))
    leaf = x509.load_pem_x509_certificate(given.cert_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    assert len(list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)) == 2
    assert leaf.not_valid_after_utc == NOW + DAY
    assert signed_by(given, given.ca_pem)
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), password=None)
    assert key.public_key() == leaf.public_key()
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0


def test_every_process_of_a_plane_has_the_same_authority_of_a_cluster_and_no_two_clusters_share_one(
    keys: KeyRing, tmp_path: Path
) -> None:
    mine = certified(tmp_path / "a", authority(keys))
    again, other = certified(tmp_path / "b", authority(keys)), certified(tmp_path / "c", authority(keys, "clu_2"))
    assert signed_by(mine, again.ca_pem)
    assert not signed_by(mine, other.ca_pem)
    assert not signed_by(mine, keys.ca_pem), "nor does whoever trusts the control plane trust a node"


def test_only_a_request_that_its_own_key_signed_for_an_address_is_taken(keys: KeyRing) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    nameless = builder.sign(key, hashes.SHA256())
    by_name = x509.SubjectAlternativeName([x509.DNSName("head")])
    named = builder.add_extension(by_name, critical=False).sign(key, hashes.SHA256())
    pems = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (nameless, named)]
    for text in ("", "what is this", *pems):
        with pytest.raises(SpecError, match="csr_pem"):
            authority(keys).certify(CertificateRequest(csr_pem=text), now=NOW, ttl=DAY)


def test_a_certificate_is_fresh_for_half_its_life_and_usable_to_its_end(keys: KeyRing, tmp_path: Path) -> None:
    certified(tmp_path, authority(keys))
    files = Certificates(tmp_path, address="10.0.0.7", ask=lambda _: pytest.fail("nobody is to be asked"))
    assert not files.due(NOW + DAY / 3)
    assert files.due(NOW + DAY * 2 / 3)
    assert files.usable(NOW + DAY * 2 / 3)
    assert not files.usable(NOW + DAY)
