"""Buckets, grants by prefix, and how a node reaches them."""

import enum
from collections.abc import Mapping
from datetime import datetime

import attrs

from anyscale_core.models.identity import Access
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret


@attrs.frozen(kw_only=True)
class BucketSpec:
    """A bucket that is wanted. ``adopt``: the URL of one that exists; checked, never emptied or deleted later.

    ``expire_days``: 0 keeps objects for ever. ``cors_origins``: who may read signed URLs from a browser.
    """

    name: str
    owner: Owner | None = None
    region: str = ""
    adopt: str | None = None
    expire_days: int = 0
    cors_origins: tuple[str, ...] = ()
    tags: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Bucket:
    """A bucket as the cloud shows it. ``url`` in the vendor's scheme (``s3://``, ``gs://``, ``abfss://``, ``file://``)."""

    name: str
    owner: Owner
    url: str
    region: str = ""
    adopted: bool = False
    public: bool = False
    """Whether anybody can read it without credentials; always false for what this library made."""


@attrs.frozen(kw_only=True)
class StoreAccess:
    """All that obstore's ``from_url(url, **options)`` needs to reach one prefix; handed to nodes.

    ``options`` are obstore's own keys; empty where the node's ambient identity is enough. ``expires_at``: when they stop
    being good; asked for again well before. None: never.
    """

    url: str
    options: Mapping[str, Secret[str]] = attrs.field(factory=dict)
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Grant:
    """A right of one identity on one prefix of one bucket, and how to use it.

    ``elsewhere``: the same right for who does not run as the identity (a person at the command line), good for a while. None:
    ``store`` does for them too.
    """

    bucket: str
    prefix: str
    identity: str
    access: Access
    store: StoreAccess
    elsewhere: StoreAccess | None = None

    @property
    def handed(self) -> StoreAccess:
        """What a person is handed."""
        return self.elsewhere or self.store


class UrlMethod(enum.Enum):
    """What a signed URL is good for, and nothing else."""

    GET = "GET"
    PUT = "PUT"
