"""What the reference kit can do to rights and objects behind the driver's back."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from anyscale_conformance.rules import Hand
from anyscale_core.errors import CloudError
from anyscale_core.models.identity import Access
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Grant, StoreAccess, UrlMethod
from anyscale_core.testing.fake_identity import sign_proof
from anyscale_core.testing.fake_storage import opened, use_signed_url
from anyscale_core.testing.world import FakeCloud

SOMEBODY = "somebody-else"
"""Whom ``Hand.SHARE`` lets in."""


def hands_of(cloud: FakeCloud, *, is_checked: bool = True) -> Mapping[Hand, Callable[..., Any]]:
    """Return the hands. ``is_checked``: whether transfers of objects carry a digest that is looked at."""

    def share(bucket: str, prefix: str) -> None:
        grant = Grant(
            bucket=bucket, prefix=prefix, identity=SOMEBODY, access=Access.READ,
            store=StoreAccess(url=f"memory://{bucket}/{prefix}"),
        )  # fmt: skip
        cloud.grants[bucket, prefix, SOMEBODY, Access.READ] = grant

    def use_url(url: str, method: str, body: bytes = b"") -> tuple[int, bytes]:
        try:
            return 200, use_signed_url(cloud, Secret(url), UrlMethod(method), body).body
        except CloudError as error:
            return 403, str(error).encode()

    def damage(bucket: str) -> None:
        store = cloud.buckets[bucket]
        store.objects = BadLine(opened(store), is_checked=is_checked)

    return {
        Hand.MAY: lambda identity, bucket, key, access: allows(cloud, identity, bucket, key, access),
        Hand.SHARE: share,
        Hand.FOREIGN_PROOF: lambda audience, subject: sign_proof(
            cloud, audience=audience, subject=subject, account="another-account"
        ),
        Hand.USE_URL: use_url,
        Hand.DAMAGE: damage,
    }


def allows(cloud: FakeCloud, identity: str, bucket: str, key: str, access: Access) -> bool:
    """Tell whether a grant lets an identity at an object, as a cloud would: by comparing the beginnings of keys."""
    return identity in cloud.identities and any(
        grant.access in (access, Access.WRITE) and key.startswith(grant.prefix)
        for grant in cloud.grants.values()
        if (grant.bucket, grant.identity) == (bucket, identity)
    )


class BadLine:
    """A store behind a line that changes one byte of the next object. With a digest that travels along, that is noticed."""

    def __init__(self, store: Any, *, is_checked: bool) -> None:
        self._store = store
        self._is_checked = is_checked
        self._is_bad = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, path: str, data: bytes, **options: Any) -> Any:
        """Put an object. Raises OSError when it did not arrive as it was sent."""
        return self._store.put(path, self._carried(bytes(data)), **options)

    def get(self, path: str, **options: Any) -> Any:
        """Get an object. Raises OSError when it did not arrive as it was sent."""
        return Arrived(self._carried(bytes(self._store.get(path, **options).bytes())))

    def _carried(self, body: bytes) -> bytes:
        arrived = bytes([body[0] ^ 1]) + body[1:] if self._is_bad and body else body
        self._is_bad = False
        if self._is_checked and hashlib.sha256(arrived).digest() != hashlib.sha256(body).digest():
            raise OSError("the object's digest is not the one that was sent along")
        return arrived


class Arrived:
    """What a get over a bad line returns."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def bytes(self) -> bytes:
        """Return the object's bytes."""
        return self._body
