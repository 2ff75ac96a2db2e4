"""The fake storage driver: buckets in memory, opened with obstore (which is imported only then)."""

import hashlib
import hmac
import importlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import attrs

from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod
from anyscale_core.testing.below import Below
from anyscale_core.testing.driver import FakeDriver, check_name, name_taken
from anyscale_core.testing.world import FakeCloud, Store

URL_KEY = b"the fake world signs URLs with this"


class FakeStorageDriver(FakeDriver, StorageDriver):
    """Buckets of the fake cloud; their names are unique in the world."""

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        return self._call(
            "create", lambda: self._create(spec, owner, token), deadline=deadline, names=(spec.name,), token=token,
            owner=owner,
        )  # fmt: skip

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        return self._call("get", lambda: self._owned(name, owner).bucket, deadline=deadline, names=(name,), owner=owner)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        def shown() -> Iterator[tuple[str, Bucket]]:
            buckets = (store.bucket for store in self._cloud.buckets.values())
            return ((bucket.name, bucket) for bucket in buckets if owner.owns(bucket.owner.tags()))

        return self._pages(shown, deadline=deadline, owner=owner)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        def act() -> Deletion:
            store = self._cloud.buckets.get(name)
            if store is None or not owner.owns(store.bucket.owner.tags()):
                return Deletion.ALREADY_ABSENT
            if not store.bucket.adopted and keys_in(store):
                raise Conflict(
                    f"bucket {name!r} is not empty", reason="NOT_EMPTY", resource=name, hint="empty it first"
                )
            for key in [key for key in self._cloud.grants if key[0] == name]:
                del self._cloud.grants[key]
            if store.bucket.adopted:
                self._cloud.let_go[store.bucket.url] = store.objects
            del self._cloud.buckets[name]
            self._cloud.spend(("storage", "create", store.bucket.owner.plane, store.bucket.owner.cloud), name)
            return Deletion.GONE

        return self._call("delete", act, deadline=deadline, names=(name,), owner=owner)

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        def act() -> Grant:
            found = self._owned(bucket, owner).bucket
            if not prefix.endswith("/"):
                raise InvalidRequest(
                    f"prefix {prefix!r} does not end in '/'", reason="FIELD", hint=f"use {prefix + '/'!r}"
                )
            if identity not in self._cloud.identities:
                raise NotFound(f"no identity {identity!r}", reason="REFERENCE", resource=identity)
            grant = Grant(
                bucket=bucket, prefix=prefix, identity=identity, access=access,
                store=StoreAccess(url=f"{found.url}/{prefix}"),
            )  # fmt: skip
            self._cloud.once(("storage", "grant", owner.plane, owner.cloud), token, grant, lambda _: True)
            self._cloud.grants[bucket, prefix, identity, access] = grant
            return grant

        return self._call("grant", act, deadline=deadline, names=(bucket, prefix, identity), token=token, owner=owner)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        def act() -> Deletion:
            store = self._cloud.buckets.get(bucket)
            if store is None or not owner.owns(store.bucket.owner.tags()):
                return Deletion.ALREADY_ABSENT
            granted = [key for key in self._cloud.grants if key[:3] == (bucket, prefix, identity)]
            for key in granted:
                del self._cloud.grants[key]
            return Deletion.GONE if granted else Deletion.ALREADY_ABSENT

        return self._call("revoke", act, deadline=deadline, names=(bucket, prefix, identity), owner=owner)

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        with self._cloud.lock:
            store = opened(self._owned(bucket, owner))
        return Below(store, prefix) if prefix.strip("/") else store

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        def act() -> Secret[str]:
            self._owned(bucket, owner)
            expires = (self._cloud.clock.now() + expires_in).timestamp()
            plain = f"memory://{bucket}/{quote(key)}?method={method.value}&expires={expires:.0f}"
            return Secret(f"{plain}&signature={_signature(plain)}")

        return self._call("signed_url", act, deadline=deadline, names=(bucket, key), owner=owner)

    def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
        buckets = self._cloud.buckets
        key = ("storage", "create", owner.plane, owner.cloud)
        made = self._cloud.once(key, token, (spec, owner), buckets.__contains__)
        if made:
            return buckets[made[0]].bucket
        check_name(spec.name)
        if spec.name in buckets:
            raise name_taken("bucket", spec.name, buckets[spec.name].bucket.owner, owner)
        if spec.adopt is not None and ("bucket", spec.adopt) not in self._cloud.foreign:
            raise NotFound(f"no bucket {spec.adopt!r} to adopt", reason="REFERENCE", hint="name one that exists")
        url = spec.adopt or f"memory://{spec.name}"
        bucket = Bucket(name=spec.name, owner=owner, url=url, region=spec.region, adopted=spec.adopt is not None)
        buckets[spec.name] = Store(bucket=bucket, objects=self._cloud.let_go.pop(url, None))
        made.append(spec.name)
        return bucket

    def _owned(self, name: str, owner: Owner) -> Store:
        store = self._cloud.buckets.get(name)
        if store is None or not owner.owns(store.bucket.owner.tags()):
            raise NotFound(f"no bucket {name!r}", reason="RESOURCE", resource=name)
        return store


@attrs.frozen(kw_only=True)
class Answer:
    """What came back for a signed URL."""

    body: bytes


def use_signed_url(cloud: FakeCloud, url: Secret[str], method: UrlMethod, body: bytes = b"") -> Answer:
    """Do what a browser would with a signed URL.

    Raises Unauthenticated (FORGED, EXPIRED) and PermissionDenied(POLICY) for another method than it is good for.
    """
    plain, _, signature = url.reveal().rpartition("&signature=")
    if not hmac.compare_digest(signature.encode(), _signature(plain).encode()):
        raise Unauthenticated("the URL was not signed here", reason="FORGED")
    parts = urlsplit(plain)
    query = parse_qs(parts.query)
    if float(query["expires"][0]) <= cloud.clock.now().timestamp():
        raise Unauthenticated("the URL has expired", reason="EXPIRED")
    if query["method"] != [method.value]:
        raise PermissionDenied(f"the URL is not good for {method.value}", reason="POLICY")
    store, key = opened(cloud.buckets[str(parts.hostname)]), unquote(parts.path).removeprefix("/")
    if method is UrlMethod.PUT:
        store.put(key, body)
        return Answer(body=b"")
    return Answer(body=bytes(store.get(key).bytes()))


def opened(store: Store) -> Any:
    """Return the objects of a bucket, making room for them at the first call."""
    if store.objects is None:
        store.objects = importlib.import_module("obstore.store").MemoryStore()
    return store.objects


def keys_in(store: Store) -> tuple[str, ...]:
    """Return the keys of a bucket."""
    if store.objects is None:
        return ()
    return tuple(sorted(meta["path"] for page in store.objects.list() for meta in page))


def _signature(plain: str) -> str:
    return hmac.new(URL_KEY, plain.encode(), hashlib.sha256).hexdigest()
