"""RSA keys: Google's own, with which it signs tokens of identity, and those that it manages for service accounts."""

import base64
import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from anyscale_conformance.simulators.gcp.schema import Json

ALGORITHMS = ["RS256"]
SHARED = 8
"""Keys that there are in a process at most: they take a while to make, and no two of the first eight accounts share one."""


class Keys:
    """The keys of one cloud, made when they are first needed."""

    def __init__(self) -> None:
        self._turns: Iterator[int] = itertools.count(1)
        self._accounts: dict[str, int] = {}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token of identity, signed as Google."""
        return jwt.encode({"alg": "RS256", "kid": key_id(0), "typ": "JWT"}, dict(claims), _jwk(0))

    def certificates(self) -> Json:
        """Return Google's public keys, as https://www.googleapis.com/oauth2/v3/certs has them."""
        public = KeySet([_jwk(0)]).as_dict(private=False)
        return {"keys": [{**key, "alg": "RS256", "use": "sig"} for key in public["keys"]]}

    def sign_as(self, email: str, payload: bytes) -> tuple[str, bytes]:
        """Return the id of a service account's key, and its signature of a payload."""
        number = self._number(email)
        return key_id(number), _key(number).sign(payload, padding.PKCS1v15(), hashes.SHA256())

    def jwt_as(self, email: str, claims: Mapping[str, Any]) -> tuple[str, str]:
        """Return the id of a service account's key, and a token that is signed with it."""
        number = self._number(email)
        header = {"alg": "RS256", "kid": key_id(number), "typ": "JWT"}
        return key_id(number), jwt.encode(header, dict(claims), _jwk(number))

    def is_signed(self, email: str, payload: bytes, signature: bytes) -> bool:
        """Return whether a signature is a service account's."""
        try:
            _key(self._number(email)).public_key().verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    def claims_of(self, email: str, token: str) -> Json:
        """Return the claims of a token that a service account signed itself. Raises joserfc's errors when it did not."""
        return dict(jwt.decode(token, _jwk(self._number(email)), algorithms=ALGORITHMS).claims)

    def document(self, email: str, project: str) -> Json:
        """Return a service account's key file."""
        number = self._number(email)
        pem = _key(number).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account", "project_id": project, "private_key_id": key_id(number), "private_key": pem.decode(),
            "client_email": email, "token_uri": "https://oauth2.googleapis.com/token",
        }  # fmt: skip

    def _number(self, email: str) -> int:
        if email not in self._accounts:
            self._accounts[email] = (next(self._turns) - 1) % SHARED + 1
        return self._accounts[email]


def key_id(number: int) -> str:
    """Return the name of a key."""
    public = _key(number).public_key().public_numbers()
    return base64.b16encode(public.n.to_bytes(256, "big")[:20]).decode().lower()


def keys_of(document: Mapping[str, Any]) -> KeySet:
    """Return the keys of a JWKS. Raises joserfc's errors and ValueError for what is none."""
    return KeySet.import_key_set(dict(document))  # type: ignore[arg-type]


@cache
def _key(number: int) -> rsa.RSAPrivateKey:  # noqa: ARG001 - one key for each
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def _jwk(number: int) -> RSAKey:
    return RSAKey.import_key(_key(number), {"kid": key_id(number)})
