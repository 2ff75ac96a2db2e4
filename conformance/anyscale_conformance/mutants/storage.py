"""Providers that lose, open or take over buckets, take too much away, or sign URLs that are good for more than was asked."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_conformance.mutants.identity import Granting
from anyscale_conformance.rules import Hand
from anyscale_core.errors import AlreadyExists, NotFound
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod
from anyscale_core.testing.fake_storage import FakeStorageDriver, _signature
from anyscale_core.testing.world import Store


@mutant("A name that a stranger has is told as our own.", caught_by=("S-BKT-01",))
class ForeignNameToldAsOwn(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            try:
                return super()._create(spec, owner, token)
            except AlreadyExists as error:
                raise AlreadyExists(error.message, reason="OWNED", resource=spec.name) from error


@mutant("A name that we have is told as a stranger's.", caught_by=("S-BKT-01",))
class OwnNameToldAsForeign(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            try:
                return super()._create(spec, owner, token)
            except AlreadyExists as error:
                raise AlreadyExists(error.message, reason="FOREIGN", resource=spec.name) from error


@mutant("A bucket of a stranger's name is taken over.", caught_by=("S-BKT-01",))
class TakesOverAForeignBucket(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            store = self._cloud.buckets.get(spec.name)
            if store is not None and not owner.owns(store.bucket.owner.tags()):
                store.bucket = attrs.evolve(store.bucket, owner=owner)
                return store.bucket
            return super()._create(spec, owner, token)


@mutant("A delete empties the bucket first.", caught_by=("S-BKT-02",))
class NonEmptyDeleted(ReferenceKit):
    class Storage(FakeStorageDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            store = self._cloud.buckets.get(name)
            if store is not None and owner.owns(store.bucket.owner.tags()) and not store.bucket.adopted:
                store.objects = None
            return super().delete(name, owner=owner, deadline=deadline)


@mutant("Objects without a byte do not count: their bucket is deleted with them.", caught_by=("S-BKT-02",))
class EmptyObjectsDoNotCount(ReferenceKit):
    class Storage(FakeStorageDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            store = self._cloud.buckets.get(name)
            if store is not None and store.objects is not None and owner.owns(store.bucket.owner.tags()):
                empty = [meta["path"] for page in store.objects.list() for meta in page if meta["size"] == 0]
                store.objects.delete(empty)
            return super().delete(name, owner=owner, deadline=deadline)


@mutant("Letting go of an adopted bucket empties it.", caught_by=("S-BKT-02",))
class AdoptedBucketEmptied(ReferenceKit):
    class Storage(FakeStorageDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            answer = super().delete(name, owner=owner, deadline=deadline)
            self._cloud.let_go.clear()
            return answer


@mutant("A bucket that is wanted in another region is made anew there, without its objects.", caught_by=("S-BKT-03",))
class ReplacedInSilence(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            store = self._cloud.buckets.get(spec.name)
            if store is not None and store.bucket.region != spec.region and owner.owns(store.bucket.owner.tags()):
                self._cloud.buckets[spec.name] = Store(bucket=attrs.evolve(store.bucket, region=spec.region))
                return self._cloud.buckets[spec.name].bucket
            return super()._create(spec, owner, token)


@mutant("A bucket in another region than is wanted is returned as if it were right.", caught_by=("S-BKT-03",))
class WrongRegionIsFine(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            store = self._cloud.buckets.get(spec.name)
            if store is not None and store.bucket.region != spec.region and owner.owns(store.bucket.owner.tags()):
                return store.bucket
            return super()._create(spec, owner, token)


@mutant("Buckets are public, and are shown as private.", caught_by=("S-ACL-01",))
class PublicBucket(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            bucket = super()._create(spec, owner, token)
            store = self._cloud.buckets[spec.name]
            store.bucket = attrs.evolve(bucket, public=True)
            return bucket

        def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
            return attrs.evolve(super().get(name, owner=owner, deadline=deadline), public=False)

        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(attrs.evolve(bucket, public=False) for bucket in found)


@mutant("A bucket is made with the cloud's default, and closed by a second call.", caught_by=("S-ACL-01",))
class PublicForAMoment(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            super().create(spec, owner=owner, token=token, deadline=deadline)

            def close() -> Bucket:
                store = self._cloud.buckets[spec.name]
                store.bucket = attrs.evolve(store.bucket, public=False)
                return store.bucket

            return self._call("create", close, deadline=deadline, names=(spec.name,), owner=owner)

        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            is_new = spec.name not in self._cloud.buckets
            bucket = super()._create(spec, owner, token)
            store = self._cloud.buckets[spec.name]
            store.bucket = attrs.evolve(bucket, public=is_new or store.bucket.public)
            return store.bucket


@mutant("A public bucket is told as private by `list`.", caught_by=("S-ACL-01",))
class ListShowsPublic(ReferenceKit):
    class Storage(FakeStorageDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
            found = super().list(owner, deadline=deadline)
            return tuple(attrs.evolve(bucket, public=True) for bucket in found)


@mutant("A revoke takes the objects below the prefix along.", caught_by=("S-GRT-01",))
class RevokeDeletesObjects(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            store = self._cloud.buckets.get(bucket)
            if store is not None and store.objects is not None:
                store.objects.delete([meta["path"] for page in store.objects.list(prefix) for meta in page])
            return super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)


@mutant("A revoke takes every grant below the prefix, too.", caught_by=("S-GRT-01",))
class RevokeTakesWhatIsBelow(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            answer = super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)
            grants = self._cloud.grants
            below = [key for key in grants if key[0] == bucket and key[2] == identity and key[1].startswith(prefix)]
            for key in below:
                del grants[key]
            return answer


@mutant("A revoke takes the identity's rights in every bucket.", caught_by=("S-GRT-01",))
class RevokeTakesOtherBuckets(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            answer = super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)
            for key in [key for key in self._cloud.grants if key[1:3] == (prefix, identity)]:
                del self._cloud.grants[key]
            return answer


@mutant("Only the READ of an identity's two rights at a prefix is revoked.", caught_by=("S-GRT-01",))
class RevokeLeavesTheWrite(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            grants = self._cloud.grants
            write = grants.get((bucket, prefix, identity, Access.WRITE))
            read = grants.get((bucket, prefix, identity, Access.READ))
            answer = super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)
            if read is not None and write is not None:
                grants[bucket, prefix, identity, Access.WRITE] = write
            return answer


@mutant("Revoking what is not granted raises NotFound.", caught_by=("S-GRT-01",))
class RevokingAgainRaises(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            answer = super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)
            if answer is Deletion.ALREADY_ABSENT:
                raise NotFound("there is no such role assignment", reason="RESOURCE")
            return answer


@mutant("A revoke always says that there was nothing.", caught_by=("S-GRT-01",))
class RevokeNeverSaysGone(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)
            return Deletion.ALREADY_ABSENT


@mutant("Grants in a stranger's bucket are ours to revoke.", caught_by=("S-GRT-01",))
class RevokesStrangers(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            store = self._cloud.buckets.get(bucket)
            whose = owner if store is None else store.bucket.owner
            return super().revoke(bucket, prefix, identity=identity, owner=whose, deadline=deadline)


class Leaky(Secret[str]):
    """A secret that shows."""

    def __repr__(self) -> str:
        return self.reveal()


class Handing(FakeStorageDriver):
    """Grants as the fake does and hands out another store."""

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        grant = super().grant(
            bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
        )
        return attrs.evolve(grant, store=self._handed(grant.store))

    def _handed(self, store: StoreAccess) -> StoreAccess:
        raise NotImplementedError


@mutant("A grant hands out the store of the whole bucket.", caught_by=("S-GRT-01",))
class GrantOpensTheBucket(ReferenceKit):
    class Storage(Handing):
        def _handed(self, store: StoreAccess) -> StoreAccess:
            return attrs.evolve(store, url=store.url.rsplit("/", 2)[0])


@mutant("A grant hands out a store whose credentials have expired.", caught_by=("S-GRT-01",))
class GrantHasExpired(ReferenceKit):
    class Storage(Handing):
        def _handed(self, store: StoreAccess) -> StoreAccess:
            return attrs.evolve(store, expires_at=self._cloud.clock.now())


@mutant("The options of a grant's store show their secrets.", caught_by=("S-GRT-01",))
class GrantShowsItsSecrets(ReferenceKit):
    class Storage(Handing):
        def _handed(self, store: StoreAccess) -> StoreAccess:
            return attrs.evolve(store, options={"sas_key": Leaky("sv=2026&sig=canary")})


@mutant("Two buckets share a place when their names begin with the same 60 characters.", caught_by=("S-BKT-01",))
class LongNamesShareAPlace(ReferenceKit):
    class Storage(FakeStorageDriver):
        def _create(self, spec: BucketSpec, owner: Owner, token: Token) -> Bucket:
            bucket = super()._create(spec, owner, token)
            store = self._cloud.buckets[spec.name]
            store.bucket = attrs.evolve(bucket, url=f"memory://{spec.name[:60]}")
            return store.bucket


@mutant("A READ takes the place of a WRITE.", caught_by=("S-GRT-02",))
class ReadTakesTheWriteAway(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            if grant.access is Access.READ:
                self._cloud.grants.pop((grant.bucket, grant.prefix, grant.identity, Access.WRITE), None)


@mutant("A WRITE where there is a READ is taken for the same grant.", caught_by=("S-GRT-02",))
class WriteIsLostOnARead(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            if (grant.bucket, grant.prefix, grant.identity, Access.READ) in self._cloud.grants:
                self._cloud.grants.pop((grant.bucket, grant.prefix, grant.identity, Access.WRITE), None)


@mutant("A grant takes the place of the identity's grants below it.", caught_by=("S-GRT-02",))
class OneGrantPerIdentity(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            for key in [key for key in self._cloud.grants if (key[0], key[2]) == (grant.bucket, grant.identity)]:
                if key[1] != grant.prefix:
                    del self._cloud.grants[key]


@mutant("A URL for reading is signed for writing.", caught_by=("S-URL-01",))
class UrlForTheOtherMethod(ReferenceKit):
    class Storage(FakeStorageDriver):
        def signed_url(
            self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
        ) -> Secret[str]:
            return super().signed_url(
                bucket, key, method=UrlMethod.PUT, expires_in=expires_in, owner=owner, deadline=deadline
            )


@mutant("A signed URL is good for a year.", caught_by=("S-URL-01",))
class UrlNeverExpires(ReferenceKit):
    class Storage(FakeStorageDriver):
        def signed_url(
            self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
        ) -> Secret[str]:
            year = timedelta(days=365)
            return super().signed_url(bucket, key, method=method, expires_in=year, owner=owner, deadline=deadline)


@mutant("Anybody's bucket is signed for.", caught_by=("S-URL-01",))
class SignsForStrangers(ReferenceKit):
    class Storage(FakeStorageDriver):
        def signed_url(
            self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
        ) -> Secret[str]:
            store = self._cloud.buckets.get(bucket)
            whose = owner if store is None else store.bucket.owner
            return super().signed_url(bucket, key, method=method, expires_in=expires_in, owner=whose, deadline=deadline)


@mutant("A signed URL is plain text.", caught_by=("S-URL-01",))
class UrlIsNoSecret(ReferenceKit):
    class Storage(FakeStorageDriver):
        def signed_url(
            self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
        ) -> Secret[str]:
            url = super().signed_url(bucket, key, method=method, expires_in=expires_in, owner=owner, deadline=deadline)
            return url.reveal()  # type: ignore[return-value]


def resigned(kit: ReferenceKit, change: Callable[[str, str], str]) -> Mapping[Hand, Callable[..., Any]]:
    """Return the kit's hands, for URLs whose signature does not cover what ``change(plain, method)`` puts in its place."""
    hands = ReferenceKit.hands(kit)

    def use(url: str, method: str, body: bytes) -> Any:
        plain = change(url.rpartition("&signature=")[0], method)
        return hands[Hand.USE_URL](f"{plain}&signature={_signature(plain)}", method, body)

    return {**hands, Hand.USE_URL: use}


@mutant("A signed URL opens the whole account: the key is not part of what is signed.", caught_by=("S-URL-01",))
class UrlForEveryKey(ReferenceKit):
    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        return resigned(self, lambda plain, _: plain)


@mutant("A signed URL is good for every method.", caught_by=("S-URL-01",))
class UrlForEveryMethod(ReferenceKit):
    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        def change(plain: str, method: str) -> str:
            # One that was changed in any other way is refused all the same.
            return re.sub("method=(GET|PUT)", f"method={method}", plain) if "key2" not in plain else "memory://x/y?"

        return resigned(self, change)
