"""StorageDriver: buckets, grants by prefix, objects, signed URLs."""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Any

from anyscale_core.drivers.base import Driver
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, UrlMethod

ObjectStore = Any
"""An obstore store (``obstore.store.ObjectStore``); named loosely so that the bare library does not need obstore."""


class StorageDriver(Driver, ABC):
    """Makes buckets, lets identities at prefixes of them, and opens them."""

    slot = "storage"

    @abstractmethod
    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        """Make or adopt a bucket, private from its first moment. Raises AlreadyExists(FOREIGN) for a taken name."""

    @abstractmethod
    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        """Return one bucket. Raises NotFound; PermissionDenied is never told as NotFound."""

    @abstractmethod
    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        """Return every bucket of the owner, each once. Raises rather than return a part."""

    @abstractmethod
    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to delete an empty bucket. Raises Conflict(NOT_EMPTY). An adopted one is let go of, never deleted."""

    @abstractmethod
    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        """Let an identity at everything below ``prefix`` (ends in '/') and nothing else; exact, repeatable.

        Said again, the same grant stands and its ``store`` is good anew. A READ beside a WRITE takes nothing from it.
        """

    @abstractmethod
    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        """Take away what an identity was granted at exactly this prefix. Its objects stay, and so do other grants.

        Succeeds when there is none (ALREADY_ABSENT), also when the bucket or the identity is gone.
        """

    @abstractmethod
    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        """Return an obstore store rooted at the prefix, with the control plane's own rights. No call is made."""

    @abstractmethod
    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        """Return a URL good for one method on one key until it expires. Raises Unsupported(storage.signed_urls)."""
