"""The plane's keys: its certificate authority, and the key that signs every token it gives out.

All live in one folder (0700), files 0600, made on first start. Tokens are JWTs signed with Ed25519, which is deterministic:
the same claims give the same bytes, so a create call that is repeated after a crash carries the same join token.
"""

import base64
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

from anyscale_core.errors import Refused
from anyscale_core.models.identity import JWKS_PATH
from anyscale_core.models.secret import Secret

JOIN = "anyscale-core/join"
NODE = "anyscale-core/node"
USER = "anyscale-core/user"
OPERATOR = "anyscale-core/operator"
"""An operator's credential."""
REGISTRATION = "anyscale-core/operator-registration"
"""What lets an operator in the first time."""
ALGORITHM = "Ed25519"
"""The JOSE name of the signature (RFC 9864)."""
ORDER = "anyscale-core/order"
"""The ``typ`` of a signed order, and the name in the certificate of the key that signs it."""
CERTIFICATE_DAYS = 365
CA_DAYS = 3650


class _AnySize(jws.JWSRegistry):
    """The library bounds payloads at 128 KB; an order for a thousand nodes is larger. Bodies are bounded by the service."""

    max_payload_length = 2**30


_ANY_SIZE = _AnySize(algorithms=[ALGORITHM])


@attrs.frozen(kw_only=True)
class Certificate:
    """A certificate with its key, PEM."""

    cert_pem: str
    key_pem: Secret[str]


SHARED = ("signing.pem", "ca-key.pem", "ca.pem")
"""The files that every control plane of one plane has alike."""


JWKS = "jwks.json"
"""The public halves of the plane's keys as an OIDC issuer, as a cloud's identity provider is given them."""
ISSUER_ALGORITHM = "ES256"
IDENTITY_LIFETIME = timedelta(hours=1)


def share(folder: Path, once: Callable[[str, str], str], *, now: datetime, issuer_key: int = 0) -> None:
    """Have the same keys in this folder as in every other of this plane.

    ``once(key, default)`` returns what was first set for a key, by any process. What lies in the folder is replaced when
    another process was first.
    """
    KeyRing(folder, now=now, issuer_key=issuer_key)
    issuers = [(_issuer_file(n).removesuffix(".pem"), (_issuer_file(n),)) for n in _published(issuer_key)]
    for key, names in (("keys", SHARED), *issuers):
        mine = json.dumps({name: (folder / name).read_text() for name in names})
        theirs = once(key, mine)
        if theirs != mine:
            for name, text in json.loads(theirs).items():
                write_private(folder / name, text)


def local_user() -> str:
    """Return the actor that whoever may read the home of a control plane on this machine is."""
    return f"admin@{socket.gethostname()}"


class KeyRing:
    """The keys in a folder.

    ``issuer``: the URL of the plane as an OIDC issuer; empty: a name that nobody can reach. ``issuer_key``: the number of the
    key that signs its tokens. The one before and the one after it are published too, so that whoever was given the keys takes
    tokens of the next one before it is used, and of the last one while they live.
    """

    def __init__(self, folder: Path, *, now: datetime, issuer: str = "", issuer_key: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        signing = _once(folder / "signing.pem", lambda: _pem(ed25519.Ed25519PrivateKey.generate()))
        self._signing = OKPKey.import_key(signing)
        private = serialization.load_pem_private_key(signing.encode(), password=None)
        assert isinstance(private, ed25519.Ed25519PrivateKey)
        self._private, self._sealing = private, _sealing(private)
        self.public_pem = str(self._signing.as_pem(private=False), "ascii")
        ca_key = _once(folder / "ca-key.pem", lambda: _pem(ec.generate_private_key(ec.SECP256R1())))
        self._ca_key = serialization.load_pem_private_key(ca_key.encode(), password=None)
        self.ca_pem = _once(folder / "ca.pem", lambda: self._make_ca(now))
        self._ca = x509.load_pem_x509_certificate(self.ca_pem.encode())
        self._issuer_url = issuer
        self._issuers = {
            n: ECKey.import_key(_once(folder / _issuer_file(n), lambda: _pem(ec.generate_private_key(ec.SECP256R1()))))
            for n in _published(issuer_key)
        }
        self._issuer = self._issuers[issuer_key]
        jwks = json.dumps(self.jwks(), indent=1) + "\n"
        if not (folder / JWKS).exists() or (folder / JWKS).read_text() != jwks:
            write_private(folder / JWKS, jwks)

    def sign(self, audience: str, claims: Mapping[str, Any], *, issued: datetime, expires: datetime) -> Secret[str]:
        """Return a token. Equal arguments give equal tokens."""
        body = {**claims, "aud": audience, "iat": int(issued.timestamp()), "exp": int(expires.timestamp())}
        return Secret(jwt.encode({"alg": ALGORITHM, "typ": "JWT"}, body, self._signing, algorithms=[ALGORITHM]))

    def verify(self, audience: str, token: Secret[str], *, now: datetime) -> Mapping[str, Any]:
        """Return the claims of a genuine, fresh token for ``audience``. Raises Refused (forged, expired, foreign)."""
        try:
            claims = jwt.decode(token.reveal(), self._signing, algorithms=[ALGORITHM]).claims
        except (JoseError, ValueError, TypeError):
            raise Refused("forged", "the token was not signed by this control plane") from None
        if claims.get("aud") != audience:
            raise Refused("foreign", f"the token is for {claims.get('aud')!r}, not for {audience!r}")
        if not isinstance(claims.get("exp"), int) or claims["exp"] <= now.timestamp():
            raise Refused("expired", "the token has expired; ask for a new one")
        return claims

    def sign_order(self, payload: bytes) -> Secret[str]:
        """Return an order as a compact JWS; whoever has ``order_certificate`` can tell whose it is."""
        header = {"alg": ALGORITHM, "typ": ORDER}
        return Secret(jws.serialize_compact(header, payload, self._signing, registry=_ANY_SIZE))

    def order_certificate(self, *, now: datetime) -> str:
        """Return a certificate (PEM) of this plane's authority for the key that signs orders."""
        certificate = (
            _builder(ORDER, self._ca.subject, self._private, now, CERTIFICATE_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._signing_key(), hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def seal(self, text: str) -> str:
        """Return a text that nobody can read who has not the plane's keys."""
        return self._sealing.encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """Return what was sealed."""
        return self._sealing.decrypt(sealed.encode()).decode()

    def jwks(self) -> dict[str, Any]:
        """Return the public keys of the plane as an OIDC issuer (RFC 7517), the one that signs first."""
        keys = sorted(self._issuers.values(), key=lambda key: key is not self._issuer)
        more = {"use": "sig", "alg": ISSUER_ALGORITHM}
        return {"keys": [{**key.as_dict(private=False), "kid": key.thumbprint(), **more} for key in keys]}

    def issuer(self, plane: str) -> str:
        """Return the issuer of the plane's own tokens: an address when it has one, else a name."""
        return self._issuer_url or issuer_of(plane)

    def discovery(self, plane: str) -> dict[str, Any]:
        """Return the issuer's description of itself (OpenID Connect Discovery 1.0), as far as it is one: it signs nobody in."""
        return {
            "issuer": self.issuer(plane), "jwks_uri": self.issuer(plane) + JWKS_PATH,
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ISSUER_ALGORITHM],
            "claims_supported": ["iss", "sub", "aud", "iat", "exp"],
        }  # fmt: skip

    def identity_token(self, plane: str, audience: str, *, now: datetime) -> Secret[str]:
        """Return an OIDC token of the plane itself for an audience, good for an hour: clouds let the plane in by it.

        They are told beforehand of the issuer, ``issuer(plane)``, and of the subject, the plane's id. The keys they are given
        (``jwks.json``), or fetch from the issuer when that is an address.
        """
        expires = now + IDENTITY_LIFETIME
        claims: dict[str, Any] = {"iss": self.issuer(plane), "sub": plane, "aud": audience}
        claims |= {"iat": int(now.timestamp()), "exp": int(expires.timestamp())}
        header = {"alg": ISSUER_ALGORITHM, "typ": "JWT", "kid": self._issuer.thumbprint()}
        return Secret(jwt.encode(header, claims, self._issuer, algorithms=[ISSUER_ALGORITHM]))

    def issue(self, name: str, *, hosts: tuple[str, ...], now: datetime) -> Certificate:
        """Return a server certificate of this plane's authority for these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in dict.fromkeys((name, *hosts)):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        certificate = (
            _builder(name, self._ca.subject, key, now, CERTIFICATE_DAYS)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._signing_key(), hashes.SHA256())
        )
        return Certificate(
            cert_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem=Secret(_pem(key))
        )

    def _signing_key(self) -> ec.EllipticCurvePrivateKey:
        assert isinstance(self._ca_key, ec.EllipticCurvePrivateKey)
        return self._ca_key

    def _make_ca(self, now: datetime) -> str:
        key = self._signing_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anyscale-core")])
        certificate = (
            _builder("anyscale-core", subject, key, now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                    key_encipherment=False, data_encipherment=False, key_agreement=False,
                    encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def issuer_of(plane: str) -> str:
    """Return the issuer of the tokens of a plane that has no address as one: a name; its keys are handed over."""
    return f"https://anyscale-core.invalid/{plane}"


def _published(issuer_key: int) -> range:
    return range(max(issuer_key - 1, 0), issuer_key + 2)


def _issuer_file(number: int) -> str:
    """Return where a key of the plane as an OIDC issuer is: keys of their own, for clouds take no Ed25519."""
    return f"issuer-{number}.pem" if number else "issuer.pem"


def client_context(ca_pem: str) -> ssl.SSLContext:
    """Return a context that trusts this authority alone, TLS 1.2 or newer."""
    context = ssl.create_default_context(cadata=ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _once(path: Path, make: Any) -> str:
    """Return a file's text, making it first if need be; of several that make it at once, one wins."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        write_private(temporary, make())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text()


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _sealing(private: ed25519.Ed25519PrivateKey) -> Fernet:
    """Return what seals texts of the store, with a key of its own that is derived from the plane's."""
    derived = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"anyscale-core/seal")
    return Fernet(base64.urlsafe_b64encode(derived.derive(private.private_bytes_raw())))


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )
