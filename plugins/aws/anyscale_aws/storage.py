"""StorageDriver: S3. A bucket's tags say whose it is (``buckets``); a grant is an inline policy of a role (``grants``)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from anyscale_aws import policies
from anyscale_aws.buckets import ADOPTED, MADE, Buckets, Found
from anyscale_aws.busy import Busy
from anyscale_aws.client import Aws, Sessions
from anyscale_aws.config import read_settings, region_of
from anyscale_aws.errors import check_deadline
from anyscale_aws.grants import GrantName, Grants
from anyscale_aws.names import bucket_name, profile_name
from anyscale_aws.proof import stamp
from anyscale_aws.tags import (
    TAG_KIND,
    TAG_NAME,
    check_name,
    digest,
    fingerprint,
    owner_of,
    tagged,
)
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Retry,
    Transient,
)
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod

SESSION = "anyscale-core-grant"
DURATION = timedelta(hours=1)
"""Of a grant's credentials; a role that another role assumes gives no longer ones (IAM User Guide, "Role chaining")."""
PROPAGATION = timedelta(minutes=2)
"""For so long STS may not know a new role."""
PATIENCE = timedelta(seconds=15)
"""For the one request that ``objects`` makes of a bucket that this driver has not seen."""
URL_MAX = timedelta(days=7)
"""A signed URL lasts no longer (S3 User Guide)."""


class AwsStorage(StorageDriver):
    """Buckets of S3. ``config.settings`` as explained in ``plugin``; ``sessions`` makes sessions of botocore."""

    provider = "aws"

    def __init__(self, config: DriverConfig, sessions: Sessions | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._region = region_of(config)
        self._aws = Aws.shared(self._settings, self._region, config.clock, sessions)
        self._buckets, self._grants = Buckets(self._aws), Grants(self._aws)
        self._busy = Busy()
        self._seen: dict[tuple[str, str, str], Found] = {}

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "a bucket")
        mark = digest(token)
        tags = tagged(
            spec.tags,
            owner,
            spec.name,
            token=mark,
            spec=fingerprint(spec),
            kind=MADE if spec.adopt is None else ADOPTED,
        )
        with self._busy.holding((spec.name, mark)):
            there = self._buckets.there(spec, owner, tags, deadline)
            if there is not None:
                if not there.adopted:
                    self._buckets.complete(spec, there.bucket, deadline)
                return self._show(there)
            if spec.region not in ("", self._region):
                raise InvalidRequest(
                    f"this cloud is in {self._region}, not in {spec.region}", reason="UNSUPPORTED_VALUE", resource=spec.name,
                    hint="make the bucket in the cloud's region",
                )  # fmt: skip
            if spec.adopt is not None:
                return self._show(self._buckets.adopt(spec, tags, deadline))
            return self._show(self._buckets.make(spec, owner, tags, deadline))

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        return self._show(self._read(name, owner, deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        found = {each.bucket: each for each in self._buckets.tagged(owner.tags(), deadline)}
        return tuple(self._show(each) for each in found.values())

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with self._busy.holding((name,)):
            try:
                found = self._read(name, owner, deadline)
            except NotFound:
                return Deletion.ALREADY_ABSENT
            if not found.adopted and self._buckets.holds_something(found.bucket, deadline):
                raise Conflict(
                    f"{name} is not empty", reason="NOT_EMPTY", resource=name, hint="delete its objects first"
                )
            self._grants.drop_all_on(found.bucket, owner, deadline)
            self._seen.pop((owner.plane, owner.cloud, name), None)
            if found.adopted:
                self._buckets.let_go(found.bucket, deadline)
            else:
                self._buckets.ask("delete_bucket", deadline, found.bucket)
            return Deletion.GONE

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        check_deadline(deadline, self._clock)
        check_prefix(prefix)
        found = self._read(bucket, owner, deadline)
        held = self._grants.holder(identity, owner, deadline)
        role = str(held["RoleName"])
        name = GrantName.of(
            bucket=found.bucket, prefix=prefix, access=access, token=token, profile=profile_name(owner, identity)
        )
        with self._busy.holding((str(name), digest(token))):
            self._grants.put(role, name, policies.grant(found.bucket, prefix, access), deadline)
        store = self._access(held, found.bucket, prefix, access, deadline)
        return Grant(bucket=bucket, prefix=prefix, identity=identity, access=access, store=store)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        try:
            found = self._read(bucket, owner, deadline)
            role = str(self._grants.holder(identity, owner, deadline)["RoleName"])
        except NotFound:
            return Deletion.ALREADY_ABSENT
        place = GrantName.of(
            bucket=found.bucket, prefix=prefix, access=Access.READ, token="", profile=profile_name(owner, identity)
        )
        doomed = [each for each in self._grants.of(role, deadline) if each.at(place)]
        for each in doomed:
            self._grants.drop(role, each, deadline)
        return Deletion.GONE if doomed else Deletion.ALREADY_ABSENT

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        """Return an obstore store with the control plane's own rights; it asks for them when it is used.

        A bucket that this driver has not seen is looked up first, so that nothing of anybody else is opened.
        """
        from obstore.store import S3Store

        found = self._known(bucket, owner, self._clock.now() + PATIENCE)
        options: dict[str, Any] = {key: value.reveal() for key, value in self._options().items()}
        provider: Any = self._credentials
        if self._settings.endpoint_url.startswith("http://"):
            options["client_options"] = {"allow_http": True}
        return S3Store(found.bucket, prefix=check_prefix(prefix) or None, credential_provider=provider, **options)

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest

        found = self._known(bucket, owner, deadline)
        if not key or not timedelta() < expires_in <= URL_MAX:
            raise InvalidRequest(
                "a signed URL needs a key, and ends within a week", reason="FIELD", resource=bucket,
                hint="give a key, and a time above zero and up to 7 days",
            )  # fmt: skip
        auth = S3SigV4QueryAuth(
            self._aws.credentials(deadline), "s3", self._region, expires=int(expires_in.total_seconds())
        )
        request = AWSRequest(method=method.value, url=f"{self._place(found.bucket)}/{quote(key, safe='/~')}")
        stamp(auth, request, self._clock.now())
        return Secret(str(request.url))

    def close(self) -> None:
        self._aws.close()

    # What is there --------------------------------------------------------------------------------------------------

    def _read(self, name: str, owner: Owner, deadline: datetime) -> Found:
        check_deadline(deadline, self._clock)
        missing = NotFound(f"there is no bucket {name}", reason="RESOURCE", resource=name)
        try:
            check_name(name, "a bucket")
        except InvalidRequest:
            raise missing from None
        bucket = bucket_name(owner, name)
        tags = self._buckets.tags_of(bucket, deadline)
        if tags and owner.owns(tags) and tags.get(TAG_NAME) == name and tags.get(TAG_KIND) == MADE:
            return self._remembered(Found(name=name, bucket=bucket, tags=tags))
        for found in self._buckets.tagged({**owner.tags(), TAG_NAME: name, TAG_KIND: ADOPTED}, deadline):
            return self._remembered(found)
        raise missing

    def _known(self, name: str, owner: Owner, deadline: datetime) -> Found:
        seen = self._seen.get((owner.plane, owner.cloud, name))
        if seen is not None and owner.owns(seen.tags):
            return seen
        return self._read(name, owner, deadline)

    def _remembered(self, found: Found) -> Found:
        owner = owner_of(found.tags)
        self._seen[owner.plane, owner.cloud, found.name] = found
        return found

    def _show(self, found: Found) -> Bucket:
        self._remembered(found)
        return Bucket(
            name=found.name, owner=owner_of(found.tags), url=f"s3://{found.bucket}", region=self._region,
            adopted=found.adopted, public=False,
        )  # fmt: skip

    # Reaching objects -----------------------------------------------------------------------------------------------

    def _access(
        self, role: Mapping[str, Any], bucket: str, prefix: str, access: Access, deadline: datetime
    ) -> StoreAccess:
        """Return how a prefix is reached, from anywhere: with short-lived credentials of the identity for it and nothing else."""
        try:
            found = self._aws.request(
                "sts", "assume_role", deadline, RoleArn=role["Arn"], RoleSessionName=SESSION,
                DurationSeconds=int(DURATION.total_seconds()), Policy=policies.grant(bucket, prefix, access),
            )["Credentials"]  # fmt: skip
        except PermissionDenied as error:
            if self._clock.now() - role["CreateDate"] > PROPAGATION:
                raise
            raise Transient(
                f"STS does not know the new role {role['RoleName']} yet: {error.message}", reason="PROPAGATION",
                vendor=error.vendor, retry=Retry.WITH_TOKEN,
            ) from error  # fmt: skip
        credentials = {
            "access_key_id": Secret(str(found["AccessKeyId"])),
            "secret_access_key": Secret(str(found["SecretAccessKey"])),
            "token": Secret(str(found["SessionToken"])),
        }
        expires_at = found["Expiration"].astimezone(UTC)
        return StoreAccess(
            url=f"s3://{bucket}/{prefix}", options={**self._options(), **credentials}, expires_at=expires_at
        )

    def _options(self) -> dict[str, Secret[str]]:
        options = {"region": Secret(self._region)}
        if self._settings.endpoint_url:
            options["endpoint"] = Secret(self._settings.endpoint_url)
            options["virtual_hosted_style_request"] = Secret("false")
        return options

    def _credentials(self) -> dict[str, Any]:
        """Return what the control plane may do, as obstore asks for it."""
        frozen = self._aws.credentials(self._clock.now() + PATIENCE)
        return {
            "access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token,
            "expires_at": self._aws.credentials_end(),
        }  # fmt: skip

    def _place(self, bucket: str) -> str:
        if self._settings.endpoint_url:
            return f"{self._settings.endpoint_url.rstrip('/')}/{bucket}"
        suffix = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        return f"https://{bucket}.s3.{self._region}.{suffix}"


def check_prefix(prefix: str) -> str:
    """Return a prefix as it is. Raises InvalidRequest(FIELD) for one that does not end in '/'."""
    if prefix and (not prefix.endswith("/") or prefix.startswith("/") or "//" in prefix):
        raise InvalidRequest(
            f"{prefix!r} is not a prefix",
            reason="FIELD",
            hint="names joined by '/' and a '/' at the end; or nothing at all",
        )
    return prefix
