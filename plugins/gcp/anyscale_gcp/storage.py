"""StorageDriver: buckets of Cloud Storage, grants as conditions in their policies, objects through obstore.

Threads: changes of policies take turns within a driver, so that its own threads do not overwrite each other; what others
change meanwhile is Conflict(ETAG). Where an adopted bucket really is, is remembered, for it never changes.
"""

import base64
import threading
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Scope,
)
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod
from anyscale_gcp import accounts, buckets, policies
from anyscale_gcp.accounts import Account
from anyscale_gcp.buckets import Kept
from anyscale_gcp.client import Client
from anyscale_gcp.config import read_settings
from anyscale_gcp.policies import Held
from anyscale_gcp.signing import signed_url
from anyscale_gcp.tags import brief, check_name, fingerprint, owner_mark

NOBODY = Secret('{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}')
"""What lets obstore ask for no token."""
OPENING = timedelta(seconds=30)
"""How long opening a bucket that was not looked at before may take."""


class GcpStorage(StorageDriver):
    """Buckets of a project. ``config.settings`` as explained in ``plugin``."""

    provider = "gcp"

    def __init__(self, config: DriverConfig, client: Client | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._region = config.region
        self._client = client or Client(self._settings, config.clock, identity_token=config.identity_token)
        self._lock = threading.Lock()
        self._places: dict[str, str] = {}
        self._turns: dict[str, threading.Lock] = {}

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        check_name(spec.name, "a bucket")
        adopts = self._checked(spec, deadline=deadline) if spec.adopt is not None else ""
        wanted = fingerprint(spec, owner.tags())
        note = buckets.note_for(spec, owner, token=token, wanted=wanted)
        bucket = buckets.bucket_name(owner, spec.name)
        found = self._lookup(bucket, spec.name, token=token, wanted=wanted, owner=owner, deadline=deadline)
        if found is not None:
            return self._show(found)
        region = spec.region or self._region
        body = buckets.body_of(spec, note, bucket=bucket, region=region, adopts=adopts)
        try:
            item = self._client.call(
                "storage.buckets.insert", project=self._settings.project, body=body, about=spec.name, deadline=deadline
            )
        except AlreadyExists as error:
            return self._show(self._taken(spec.name, owner, token=token, wanted=wanted, error=error, deadline=deadline))
        kept = buckets.read({**body, **item})
        if kept is None:  # the answer's labels are the body's
            raise NotFound(f"{bucket} has lost its labels", reason="RESOURCE", resource=spec.name)
        return self._show(kept)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        return self._show(self._owned(name, owner, deadline=deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        every = buckets.every(self._client, owner, deadline=deadline)
        return tuple(self._show(kept) for kept in every if owner.owns(kept.note.tags))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        kept = buckets.find(self._client, name, owner=owner, deadline=deadline)
        if kept is None:
            return Deletion.ALREADY_ABSENT
        if kept.adopts:
            mark = owner_mark(owner)
            self._change(
                kept.place, lambda bindings: policies.without(bindings, lambda g: g.mark == mark), deadline=deadline
            )
        try:
            self._client.call("storage.buckets.delete", bucket=kept.bucket, about=name, deadline=deadline)
        except NotFound:
            return Deletion.ALREADY_ABSENT
        except AlreadyExists as error:  # 409 conflict: of a delete it means that something is in it
            raise Conflict(
                f"the bucket {name} is not empty", reason="NOT_EMPTY", resource=name, vendor=error.vendor,
                hint="delete its objects first",
            ) from error  # fmt: skip
        with self._lock:
            self._places.pop(kept.bucket, None)
        return Deletion.GONE

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        _check_prefix(prefix)
        kept = self._owned(bucket, owner, deadline=deadline)
        account = accounts.find(self._client, identity, owner=owner, deadline=deadline)
        if account is None or not owner.owns(account.owner.tags()):
            raise NotFound(f"there is no identity {identity}", reason="REFERENCE", resource=identity)
        held = Held(
            member=account.member,
            bucket=kept.place,
            prefix=prefix,
            access=access,
            mark=owner_mark(owner),
            token=brief(token),
        )
        self._change(kept.place, partial(_granted, held), deadline=deadline)
        store = self._access(kept, held, account, deadline=deadline)
        return Grant(bucket=bucket, prefix=prefix, identity=identity, access=access, store=store)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        kept = buckets.find(self._client, bucket, owner=owner, deadline=deadline)
        if kept is None:
            return Deletion.ALREADY_ABSENT
        account = accounts.find(self._client, identity, owner=owner, deadline=deadline)
        email = accounts.email(self._settings.project, owner, identity)
        member = f"serviceAccount:{email}" if account is None else account.member
        is_changed = self._change(
            kept.place, lambda bindings: policies.without(bindings, lambda g: g.is_of(member) and g.prefix == prefix),
            deadline=deadline,
        )  # fmt: skip
        return Deletion.GONE if is_changed else Deletion.ALREADY_ABSENT

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        """Return a store. A bucket that this driver has not met is looked up first, for it may stand for an adopted one."""
        from anyscale_gcp.objects import Objects

        place = self._place(bucket, owner, deadline=self._clock.now() + OPENING)
        config: Any = {"base_url": self._settings.endpoint("objects")}
        if self._settings.anonymous:
            config["service_account_key"] = NOBODY.reveal()
        return Objects(
            place, prefix=prefix.rstrip("/") or None, config=config, client_options=self._client_options(),
            retry_config={"max_retries": 0}, credential_provider=None if self._settings.anonymous else self._credential,
        )  # fmt: skip

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        kept = self._owned(bucket, owner, deadline=deadline)
        signer = self._client.signer()
        if not signer:
            raise InvalidRequest("nothing says who signs URLs", reason="FIELD", hint="set service_account")
        return signed_url(
            self._settings.endpoint("objects"), kept.place, key, method=method.value, expires_in=expires_in,
            now=self._clock.now(), signer=signer, sign=partial(self._sign, signer, deadline=deadline),
        )  # fmt: skip

    def close(self) -> None:
        self._client.close()

    def _checked(self, spec: BucketSpec, *, deadline: datetime) -> str:
        """Return the name of the bucket to adopt. Raises NotFound, and InvalidRequest for one that grants do not work in."""
        found = buckets.URL.fullmatch(spec.adopt or "")
        if found is None:
            raise InvalidRequest(f"{spec.adopt!r} is not the URL of a bucket", reason="FIELD", hint="write gs://NAME")
        try:
            item = self._client.call(
                "storage.buckets.get", bucket=found["name"], fields=buckets.FIELDS, about=spec.name, deadline=deadline
            )
        except NotFound as error:
            raise NotFound(
                f"there is no bucket {found['name']}", reason="REFERENCE", resource=spec.name, vendor=error.vendor
            ) from error
        if not item.get("iamConfiguration", {}).get("uniformBucketLevelAccess", {}).get("enabled"):
            raise InvalidRequest(
                f"{found['name']} has no uniform bucket-level access, which grants need", reason="UNSUPPORTED_VALUE",
                resource=spec.name, hint="switch it on: gcloud storage buckets update --uniform-bucket-level-access",
            )  # fmt: skip
        policy = policies.of_bucket(self._client, found["name"], deadline=deadline)
        if buckets.is_public(item, policy):
            raise InvalidRequest(
                f"anybody can read {found['name']}", reason="UNSUPPORTED_VALUE", resource=spec.name,
                hint="take allUsers and allAuthenticatedUsers out of its policy, or prevent public access",
            )  # fmt: skip
        return str(found["name"])

    def _lookup(
        self, bucket: str, name: str, *, token: Token, wanted: str, owner: Owner, deadline: datetime
    ) -> Kept | None:
        """Return what an earlier call with this token made. Raises Conflict and AlreadyExists."""
        every = tuple(buckets.every(self._client, owner, deadline=deadline))
        for kept in every:
            if kept.note.token == brief(token) and kept.note.wanted != wanted:
                raise _mismatch(name)
        same = next((kept for kept in every if kept.bucket == bucket), None)
        if same is not None and same.note.token != brief(token):
            raise _already(name, "OWNED")
        return same

    def _taken(
        self, name: str, owner: Owner, *, token: Token, wanted: str, error: CloudError, deadline: datetime
    ) -> Kept:
        """Return the bucket of a name that is taken when it is this call's own, whose answer was lost."""
        kept = buckets.find(self._client, name, owner=Owner(plane=owner.plane, cloud=owner.cloud), deadline=deadline)
        if kept is None:
            raise _already(name, "FOREIGN") from error
        if kept.note.token != brief(token):
            raise _already(name, "OWNED") from error
        if kept.note.wanted != wanted:
            raise _mismatch(name) from error
        return kept

    def _owned(self, name: str, owner: Owner, *, deadline: datetime) -> Kept:
        kept = buckets.find(self._client, name, owner=owner, deadline=deadline)
        if kept is None:
            raise NotFound(f"there is no bucket {name}", reason="RESOURCE", resource=name)
        return kept

    def _place(self, name: str, owner: Owner, *, deadline: datetime) -> str:
        with self._lock:
            known = self._places.get(buckets.bucket_name(owner, name))
        if known is not None:
            return known
        kept = self._owned(name, owner, deadline=deadline)
        self._show(kept)
        return kept.place

    def _show(self, kept: Kept) -> Bucket:
        with self._lock:
            self._places[kept.bucket] = kept.place
        return Bucket(
            name=kept.note.name, owner=kept.note.owner(), url=f"gs://{kept.place}", region=kept.region,
            adopted=bool(kept.adopts),
        )  # fmt: skip

    def _change(self, bucket: str, edit: policies.Edit, *, deadline: datetime) -> bool:
        left_s = (deadline - self._clock.now()).total_seconds()
        if not self._turn(bucket).acquire(timeout=max(left_s, 0.0)):
            raise DeadlineExceeded(f"others change the policy of {bucket}", reason="REQUEST", applied=Applied.NO)
        try:
            return policies.change_bucket(self._client, bucket, edit, deadline=deadline)
        finally:
            self._turn(bucket).release()

    def _turn(self, bucket: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(bucket, threading.Lock())

    def _access(self, kept: Kept, held: Held, account: Account, *, deadline: datetime) -> StoreAccess:
        """Return how whoever is given it reaches a prefix, wherever he is: by a token that is good for that and an hour."""
        prefix = held.prefix
        options: dict[str, Secret[str]] = {}
        if "objects" in self._settings.endpoints:
            options["base_url"] = Secret(self._settings.endpoint("objects"))
        if self._settings.anonymous:
            return StoreAccess(url=f"gs://{kept.place}/{prefix}", options=options | {"service_account_key": NOBODY})
        whole, expires_at = accounts.access_token(self._client, account.acting, deadline=deadline)
        boundary = policies.boundary(kept.place, prefix, held.access)
        token = accounts.narrowed(self._client, whole, boundary, about=account.acting, deadline=deadline)
        return StoreAccess(
            url=f"gs://{kept.place}/{prefix}", options=options | {"bearer_token": Secret(token)}, expires_at=expires_at
        )

    def _client_options(self) -> Any:
        return {"allow_http": self._settings.endpoint("objects").startswith("http://")}

    def _credential(self) -> Any:
        token, expires_at = self._client.access_token()
        return {"token": token, "expires_at": expires_at}

    def _sign(self, signer: str, blob: bytes, *, deadline: datetime) -> bytes:
        answer = self._client.call(
            "iamcredentials.projects.serviceAccounts.signBlob", name=accounts.path("-", signer), about=signer,
            body={"payload": base64.b64encode(blob).decode()}, deadline=deadline,
        )  # fmt: skip
        return base64.b64decode(answer["signedBlob"])


def _granted(held: Held, bindings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return bindings with a grant in them. Raises Conflict(TOKEN_MISMATCH) when its token stands for another grant."""
    there = [each for binding in bindings for each in policies.read(binding)]
    for each in there:
        same = (each.member, each.prefix, each.access) == (held.member, held.prefix, held.access)
        if same:
            return bindings
        if each.token == held.token:
            raise _mismatch(held.prefix)
    return policies.with_grant(bindings, held)


def _check_prefix(prefix: str) -> None:
    if not prefix.endswith("/") or prefix.startswith("/"):
        raise InvalidRequest(
            f"{prefix!r} is not a prefix to grant",
            reason="FIELD",
            hint="let it end in '/', and begin with something else",
        )


def _mismatch(name: str) -> Conflict:
    return Conflict(
        "the token stands for another request",
        reason="TOKEN_MISMATCH",
        resource=name,
        hint="mint a token for each request",
    )


def _already(name: str, reason: str) -> AlreadyExists:
    return AlreadyExists(
        f"there is a bucket {name} already",
        reason=reason,
        resource=name,
        scope=Scope.RESOURCE,
        hint="delete it, or use another name",
    )
