"""StorageDriver: buckets of an S3-compatible store, recorded in ConfigMaps.

The record is made first and goes last, held by a finalizer of ours, so no bucket is without one; a bucket's own name follows
from the owner's and ours.
Such a store has one key. A grant is therefore a record and that key: it fences nothing, and the provider says so.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, SpecError
from anyscale_core.errors import Fault as SpecFault
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod
from anyscale_kubernetes.client import Api, Connection
from anyscale_kubernetes.config import SETTINGS, read_settings
from anyscale_kubernetes.errors import check_deadline
from anyscale_kubernetes.identity import GRANT_SLOT, IDENTITY_LABEL
from anyscale_kubernetes.identity import SLOT as IDENTITY
from anyscale_kubernetes.kinds import CONFIG_MAP
from anyscale_kubernetes.names import check_name, digest, short_name
from anyscale_kubernetes.objects import ObjectStores
from anyscale_kubernetes.records import Records, Request, is_adopted, name_of, token_spent
from anyscale_kubernetes.routes import child_metadata
from anyscale_kubernetes.tags import Body, fingerprint, owner_of, tags_of

SLOT = "bucket"
FINALIZER = "anyscale-core/bucket"
"""Holds the record of a bucket while that is being deleted: who repeats its create sees so."""
LONGEST_URL = timedelta(days=7)
"""Signature Version 4 allows no more."""
OPENING = timedelta(seconds=30)
"""How long ``objects`` may take, which is given no deadline."""


class KubernetesStorage(StorageDriver):
    """Buckets of the store of the settings. ``config.settings`` as explained in ``plugin``."""

    provider = "kubernetes"

    def __init__(self, config: DriverConfig, connection: Connection | None = None, session: Any = None) -> None:
        """``session``: the botocore session to reach the store with, where it is not to be a new one."""
        settings = read_settings(config)
        if settings.store is None:
            raise SpecError(
                [SpecFault(path="store", message="is needed: it says where the S3-compatible store is")],
                subject=SETTINGS,
            )
        self._clock = config.clock
        self._api = Api(settings, config.clock, connection)
        self._stores = ObjectStores(settings.store, self._api, session)
        self._buckets = Records(self._api, SLOT, CONFIG_MAP)
        self._grants = Records(self._api, GRANT_SLOT, CONFIG_MAP)

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "a bucket")
        request = Request(
            slot=SLOT, name=spec.name, owner=owner, token=token, fingerprint=fingerprint(spec), tags=spec.tags
        )
        record = self._buckets.made(request, deadline=deadline)
        if record is None:
            self._refuse_unsupported(spec)
            record = self._buckets.apply(CONFIG_MAP, request, self._body(request, spec, deadline), deadline=deadline)
        elif spec.adopt is None and self._stores.exists(_place(record), deadline=deadline):
            return self._shown(record)
        if spec.adopt is None:
            self._make(record, spec, deadline)
        return self._shown(record)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        check_deadline(deadline, self._clock)
        return self._shown(self._buckets.read(name, owner=owner, deadline=deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        check_deadline(deadline, self._clock)
        return tuple(self._shown(record) for record in self._buckets.list(owner, deadline=deadline))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        try:
            record = self._buckets.read(name, owner=owner, deadline=deadline)
        except NotFound:
            return Deletion.ALREADY_ABSENT
        if is_adopted(record):
            return self._buckets.delete(record, deadline=deadline)
        going = bool(record["metadata"].get("deletionTimestamp"))
        if not going and not self._stores.is_empty(_place(record), deadline=deadline):
            raise Conflict(f"{name} is not empty", reason="NOT_EMPTY", resource=name, hint="delete its objects first")
        self._buckets.delete(record, deadline=deadline)
        self._stores.delete(_place(record), deadline=deadline)
        return self._let_go(record, deadline)

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        check_deadline(deadline, self._clock)
        _check_prefix(prefix)
        record = self._buckets.read(bucket, owner=owner, deadline=deadline)
        request = Request(
            slot=GRANT_SLOT, name=f"{bucket}/{prefix}", owner=owner, token=token,
            fingerprint=fingerprint(bucket, prefix, identity, access.value),
            object=_grant_name(owner, bucket, prefix, identity),
        )  # fmt: skip
        if self._grants.made(request, deadline=deadline) is None:
            self._write_grant(request, record, prefix, identity, access, deadline)
        store = StoreAccess(url=f"s3://{_place(record)}/{prefix}", options=self._stores.options(deadline=deadline))
        return Grant(bucket=bucket, prefix=prefix, identity=identity, access=access, store=store)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        record = self._grants.find(CONFIG_MAP, _grant_name(owner, bucket, prefix, identity), deadline=deadline)
        if record is None or not owner.owns(tags_of(record)):
            return Deletion.ALREADY_ABSENT
        return self._grants.delete(record, deadline=deadline)

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        """Return an obstore store; whose the bucket is and what opens it is asked of the API server, not of the store."""
        if prefix:
            _check_prefix(prefix)
        deadline = self._clock.now() + OPENING
        record = self._buckets.read(bucket, owner=owner, deadline=deadline)
        return self._stores.open(f"s3://{_place(record)}/{prefix}", deadline=deadline)

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        import obstore

        check_deadline(deadline, self._clock)
        if not timedelta() < expires_in <= LONGEST_URL:
            raise InvalidRequest(
                f"a URL cannot be good for {expires_in}", reason="FIELD", resource=bucket,
                hint=f"above 0 and at most {LONGEST_URL}",
            )  # fmt: skip
        record = self._buckets.read(bucket, owner=owner, deadline=deadline)
        store = self._stores.open(f"s3://{_place(record)}", deadline=deadline)
        return Secret(str(obstore.sign(store, method.value, key, expires_in)))

    def close(self) -> None:
        self._api.close()

    def _body(self, request: Request, spec: BucketSpec, deadline: datetime) -> dict[str, Any]:
        """Return the record of a bucket that is wanted: ours, or the customer's that was looked at."""
        if spec.adopt is not None:
            return {"data": {"bucket": self._adoptable(spec.adopt, deadline), "adopted": spec.adopt}}
        metadata = request.metadata() | {"finalizers": [FINALIZER]}
        return {"metadata": metadata, "data": {"bucket": request.object_name}}

    def _make(self, record: Body, spec: BucketSpec, deadline: datetime) -> None:
        """Make the bucket of a record, and take it back when a delete came between. Raises Conflict(TOKEN_SPENT) then."""
        place = _place(record)
        self._stores.create(place, deadline=deadline)
        now = self._buckets.find(CONFIG_MAP, record["metadata"]["name"], deadline=deadline)
        if now is None or now["metadata"].get("deletionTimestamp"):
            self._stores.delete(place, deadline=deadline)
            raise token_spent(spec.name)
        self._stores.configure(place, expire_days=spec.expire_days, origins=spec.cors_origins, deadline=deadline)

    def _let_go(self, record: Body, deadline: datetime) -> Deletion:
        """Take our hold off a record whose bucket is gone, so that Kubernetes lets it go."""
        others = [word for word in record["metadata"].get("finalizers") or () if word != FINALIZER]
        patch = {"metadata": {"finalizers": others}}
        try:
            left = self._api.merge(CONFIG_MAP, record["metadata"]["name"], patch, deadline=deadline)
        except NotFound:
            return Deletion.GONE
        return Deletion.GOING if left["metadata"].get("finalizers") else Deletion.GONE

    def _write_grant(
        self, request: Request, bucket: Body, prefix: str, identity: str, access: Access, deadline: datetime
    ) -> None:
        """Record a grant; a READ beside a WRITE takes nothing from it."""
        data = {"bucket": name_of(bucket), "prefix": prefix, "identity": identity, "access": access.value}
        known = self._grants.find(CONFIG_MAP, request.object_name, deadline=deadline)
        if known is None:
            try:
                self._grants.apply(CONFIG_MAP, request, _grant_body(request, bucket, data), deadline=deadline)
                return
            except AlreadyExists as error:
                raise Conflict(
                    "another grant of this right was quicker", reason="BUSY", resource=request.name, vendor=error.vendor
                ) from error
        if known["metadata"].get("deletionTimestamp"):
            raise Conflict("the grant is being taken away", reason="BEING_DELETED", resource=request.name)
        if known["data"]["access"] == Access.WRITE.value:
            data["access"] = Access.WRITE.value
        self._grants.move(CONFIG_MAP, known, request, data, deadline=deadline)

    def _adoptable(self, url: str, deadline: datetime) -> str:
        """Return the name of the customer's bucket. It is looked at and not touched."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.path.strip("/"):
            raise InvalidRequest(f"{url!r} is not a bucket", reason="FIELD", hint="adopt s3://the-bucket")
        if not self._stores.exists(parts.netloc, deadline=deadline):
            raise NotFound(f"there is no bucket {parts.netloc}", reason="REFERENCE", resource=url)
        return parts.netloc

    def _refuse_unsupported(self, spec: BucketSpec) -> None:
        region = self._stores.store.region
        if spec.region and spec.region != region:
            raise InvalidRequest(
                f"the store is in {region}, not in {spec.region}", reason="UNSUPPORTED_VALUE", resource=spec.name,
                hint="leave region out, or mend the setting store.region",
            )  # fmt: skip

    def _shown(self, record: Body) -> Bucket:
        return Bucket(
            name=name_of(record),
            owner=owner_of(tags_of(record)),
            url=f"s3://{_place(record)}/",
            region=self._stores.store.region,
            adopted=is_adopted(record),
        )


def _place(record: Body) -> str:
    return str(record["data"]["bucket"])


def _grant_name(owner: Owner, bucket: str, prefix: str, identity: str) -> str:
    return f"grant-{digest(owner.plane, owner.cloud, bucket, prefix, identity)}"


def _grant_body(request: Request, bucket: Body, data: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of a grant. It goes with its bucket, and its identity's driver finds it by a label."""
    metadata = request.metadata()
    metadata["labels"][IDENTITY_LABEL] = short_name(request.owner, data["identity"], IDENTITY)
    metadata["ownerReferences"] = child_metadata(bucket)["ownerReferences"]
    return {"metadata": metadata, "data": dict(data)}


def _check_prefix(prefix: str) -> None:
    parts = prefix.split("/")
    if parts[-1] or any(part in ("", ".", "..") for part in parts[:-1]):
        raise InvalidRequest(
            f"{prefix!r} is not a prefix", reason="FIELD",
            hint="names joined by '/' and a '/' at the end, none of them empty, '.' or '..'",
        )  # fmt: skip
