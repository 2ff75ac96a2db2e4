"""StorageDriver: S3. A bucket's tags say whose it is; a grant is an inline policy of the identity's role.

S3's own list shows no tags, so buckets are listed by the tagging service, which knows what was tagged within a minute.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import attrs

from anyscale_aws import policies
from anyscale_aws.busy import Busy
from anyscale_aws.client import Aws, Sessions
from anyscale_aws.config import read_settings, region_of
from anyscale_aws.errors import check_deadline
from anyscale_aws.grants import GrantName
from anyscale_aws.names import Path, bucket_name, profile_name
from anyscale_aws.names import prefix as path_prefix
from anyscale_aws.proof import stamp
from anyscale_aws.tags import (
    TAG_KIND,
    TAG_NAME,
    TAG_SPEC,
    TAG_TOKEN,
    check_name,
    digest,
    fingerprint,
    mapping,
    owner_of,
    pairs,
    tagged,
)
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import (
    AlreadyExists,
    CloudError,
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
from anyscale_core.models.owner import RESERVED_TAGS, TAG_CLOUD, TAG_PLANE, Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod

ADOPTED = "adopted"
MADE = "made"
ABORT_DAYS = 1
"""Parts of an upload that never ended go after so many days."""
PAGE = 100
SESSION = "anyscale-core-grant"
DURATION = timedelta(hours=1)
"""Of a grant's credentials; a role that another role assumes gives no longer ones (IAM User Guide, "Role chaining")."""
PROPAGATION = timedelta(minutes=2)
"""For so long STS may not know a new role."""
PATIENCE = timedelta(seconds=15)
"""For the one request that ``objects`` makes of a bucket that this driver has not seen."""
URL_MAX = timedelta(days=7)
"""A signed URL lasts no longer (S3 User Guide)."""


@attrs.frozen(kw_only=True)
class Found:
    """A bucket that is ours: the contract's name, S3's name, and its tags."""

    name: str
    bucket: str
    tags: Mapping[str, str]

    @property
    def adopted(self) -> bool:
        """Whether it was the customer's before."""
        return self.tags.get(TAG_KIND) == ADOPTED


class AwsStorage(StorageDriver):
    """Buckets of S3. ``config.settings`` as explained in ``plugin``; ``sessions`` makes sessions of botocore."""

    provider = "aws"

    def __init__(self, config: DriverConfig, sessions: Sessions | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._region = region_of(config)
        self._aws = Aws.shared(self._settings, self._region, config.clock, sessions)
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
            there = self._there(spec, owner, tags, deadline)
            if there is not None:
                if not there.adopted:
                    self._complete(spec, there.bucket, deadline)
                return self._show(there)
            if spec.region not in ("", self._region):
                raise InvalidRequest(
                    f"this cloud is in {self._region}, not in {spec.region}", reason="UNSUPPORTED_VALUE", resource=spec.name,
                    hint="make the bucket in the cloud's region",
                )  # fmt: skip
            if spec.adopt is not None:
                return self._show(self._adopt(spec, tags, deadline))
            bucket = bucket_name(owner, spec.name)
            self._add(bucket, tags, deadline)
            for _, put in self._steps(spec, bucket, deadline):
                put()
            return self._show(Found(name=spec.name, bucket=bucket, tags=tags))

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        return self._show(self._read(name, owner, deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        found = {each.bucket: each for each in self._tagged(owner.tags(), deadline)}
        return tuple(self._show(each) for each in found.values())

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with self._busy.holding((name,)):
            try:
                found = self._read(name, owner, deadline)
            except NotFound:
                return Deletion.ALREADY_ABSENT
            if not found.adopted and self._holds_something(found.bucket, deadline):
                raise Conflict(
                    f"{name} is not empty", reason="NOT_EMPTY", resource=name, hint="delete its objects first"
                )
            self._remove_grants(found.bucket, owner, deadline)
            self._seen.pop((owner.plane, owner.cloud, name), None)
            if found.adopted:
                self._let_go(found.bucket, deadline)
            else:
                self._s3("delete_bucket", deadline, found.bucket)
            return Deletion.GONE

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        check_deadline(deadline, self._clock)
        check_prefix(prefix)
        found = self._read(bucket, owner, deadline)
        held = self._role(identity, owner, deadline)
        role = str(held["RoleName"])
        name = GrantName.of(
            bucket=found.bucket, prefix=prefix, access=access, token=token, profile=profile_name(owner, identity)
        )
        with self._busy.holding((str(name), digest(token))):
            there = self._grants(role, deadline)
            if any(each.token == name.token and (not each.at(name) or each.access is not access) for each in there):
                raise Conflict(
                    "the token has made another grant", reason="TOKEN_MISMATCH", resource=f"{bucket}/{prefix}"
                )
            if not any(each.at(name) and each.access is access for each in there):
                self._aws.request(
                    "iam", "put_role_policy", deadline, resource=identity, RoleName=role, PolicyName=str(name),
                    PolicyDocument=policies.grant(found.bucket, prefix, access),
                )  # fmt: skip
        store = self._access(held, found.bucket, prefix, access, deadline)
        return Grant(bucket=bucket, prefix=prefix, identity=identity, access=access, store=store)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        try:
            found = self._read(bucket, owner, deadline)
            role = str(self._role(identity, owner, deadline)["RoleName"])
        except NotFound:
            return Deletion.ALREADY_ABSENT
        place = GrantName.of(
            bucket=found.bucket, prefix=prefix, access=Access.READ, token="", profile=profile_name(owner, identity)
        )
        doomed = [each for each in self._grants(role, deadline) if each.at(place)]
        for each in doomed:
            self._drop_grant(role, each, deadline)
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

    def _s3(self, operation: str, deadline: datetime, bucket: str, **fields: Any) -> Any:
        return self._aws.request("s3", operation, deadline, resource=bucket, Bucket=bucket, **fields)

    def _there(self, spec: BucketSpec, owner: Owner, tags: Mapping[str, str], deadline: datetime) -> Found | None:
        """Return what an earlier call with this token made, if any. Raises AlreadyExists and Conflict(TOKEN_MISMATCH)."""
        own = {TAG_PLANE: owner.plane, TAG_CLOUD: owner.cloud}
        candidates = list(self._tagged({**own, TAG_TOKEN: tags[TAG_TOKEN]}, deadline))
        bucket = bucket_name(owner, spec.name)
        named = self._tags(bucket, deadline)
        if named is None:
            candidates += self._tagged({**own, TAG_NAME: spec.name}, deadline)
        elif all(named.get(key) == value for key, value in own.items()):
            candidates.append(Found(name=named.get(TAG_NAME, ""), bucket=bucket, tags=named))
        else:
            raise _foreign(bucket)
        for each in candidates:
            same = each.name == spec.name and each.tags.get(TAG_SPEC) == tags[TAG_SPEC] and owner.owns(each.tags)
            if each.tags.get(TAG_TOKEN) == tags[TAG_TOKEN]:
                if same:
                    return each
                raise Conflict(
                    f"the token has made the bucket {each.name} otherwise", reason="TOKEN_MISMATCH", resource=spec.name
                )
            if each.name == spec.name:
                raise AlreadyExists(
                    f"there is a bucket {spec.name}", reason="OWNED", resource=spec.name, hint="choose another name"
                )
        return None

    def _tags(self, bucket: str, deadline: datetime) -> dict[str, str] | None:
        """Return a bucket's tags; None when there is no such bucket."""
        try:
            return mapping(self._s3("get_bucket_tagging", deadline, bucket)["TagSet"])
        except NotFound as error:
            return {} if error.vendor is not None and error.vendor.code == "NoSuchTagSet" else None

    def _tagged(self, tags: Mapping[str, str], deadline: datetime) -> Iterator[Found]:
        """Yield the buckets that have all of these tags."""
        wanted = [{"Key": key, "Values": [value]} for key, value in tags.items()]
        pages = self._aws.pages(
            "resourcegroupstaggingapi", "get_resources", deadline, next=("PaginationToken", "PaginationToken"),
            ResourceTypeFilters=["s3"], TagFilters=wanted, ResourcesPerPage=PAGE,
        )  # fmt: skip
        for page in pages:
            for each in page["ResourceTagMappingList"]:
                found = mapping(each["Tags"])
                yield Found(name=found.get(TAG_NAME, ""), bucket=each["ResourceARN"].rpartition(":::")[2], tags=found)

    def _read(self, name: str, owner: Owner, deadline: datetime) -> Found:
        check_deadline(deadline, self._clock)
        missing = NotFound(f"there is no bucket {name}", reason="RESOURCE", resource=name)
        try:
            check_name(name, "a bucket")
        except InvalidRequest:
            raise missing from None
        bucket = bucket_name(owner, name)
        tags = self._tags(bucket, deadline)
        if tags and owner.owns(tags) and tags.get(TAG_NAME) == name and tags.get(TAG_KIND) == MADE:
            return self._remembered(Found(name=name, bucket=bucket, tags=tags))
        for found in self._tagged({**owner.tags(), TAG_NAME: name, TAG_KIND: ADOPTED}, deadline):
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

    def _holds_something(self, bucket: str, deadline: datetime) -> bool:
        return bool(self._s3("list_objects_v2", deadline, bucket, MaxKeys=1).get("KeyCount"))

    # What is made ---------------------------------------------------------------------------------------------------

    def _add(self, name: str, tags: Mapping[str, str], deadline: datetime) -> None:
        where = {} if self._region == "us-east-1" else {"LocationConstraint": self._region}
        self._s3("create_bucket", deadline, name, CreateBucketConfiguration={**where, "Tags": pairs(tags)})

    def _steps(
        self, spec: BucketSpec, bucket: str, deadline: datetime
    ) -> tuple[tuple[Callable[[], Any], Callable[[], Any]], ...]:
        """Return what a bucket needs beyond being there: how to look for it, and how to put it. S3 encrypts by itself."""
        closed = dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        )
        rules: list[dict[str, Any]] = [
            {"ID": "abort", "Status": "Enabled", "Filter": {"Prefix": ""},
             "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS}},
        ]  # fmt: skip
        if spec.expire_days:
            rules.append(
                {
                    "ID": "expire",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "Expiration": {"Days": spec.expire_days},
                }
            )
        cors = [
            {
                "AllowedMethods": ["GET", "HEAD", "PUT"],
                "AllowedOrigins": list(spec.cors_origins),
                "AllowedHeaders": ["*"],
            }
        ]

        def step(get: str, put: str, **fields: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
            return lambda: self._s3(get, deadline, bucket), lambda: self._s3(put, deadline, bucket, **fields)

        steps = [
            step("get_public_access_block", "put_public_access_block", PublicAccessBlockConfiguration=closed),
            step("get_bucket_policy", "put_bucket_policy", Policy=policies.tls_only(bucket)),
            step(
                "get_bucket_lifecycle_configuration", "put_bucket_lifecycle_configuration",
                LifecycleConfiguration={"Rules": rules},
            ),
        ]  # fmt: skip
        if spec.cors_origins:
            steps.append(step("get_bucket_cors", "put_bucket_cors", CORSConfiguration={"CORSRules": cors}))
        return tuple(steps)

    def _complete(self, spec: BucketSpec, bucket: str, deadline: datetime) -> None:
        """Put what an earlier call did not get to."""
        for get, put in self._steps(spec, bucket, deadline):
            try:
                get()
            except NotFound:
                put()

    def _adopt(self, spec: BucketSpec, tags: Mapping[str, str], deadline: datetime) -> Found:
        """Tag the customer's bucket as ours to use, beside its own tags. Raises AlreadyExists for one that is used already."""
        bucket = (spec.adopt or "").removeprefix("s3://").strip("/")
        if not bucket or "/" in bucket:
            raise InvalidRequest(f"{spec.adopt!r} is not a bucket", reason="FIELD", hint="adopt s3://NAME")
        there = self._tags(bucket, deadline)
        if there is None:
            raise NotFound(f"there is no bucket {bucket}", reason="REFERENCE", resource=bucket)
        if TAG_PLANE in there:
            raise AlreadyExists(
                f"the bucket {bucket} is used by {there[TAG_PLANE]}/{there.get(TAG_CLOUD)}",
                reason="FOREIGN",
                resource=bucket,
            )
        region = self._s3("get_bucket_location", deadline, bucket).get("LocationConstraint") or "us-east-1"
        if region != self._region:
            raise InvalidRequest(
                f"the bucket {bucket} is in {region}, and this cloud is in {self._region}", reason="UNSUPPORTED_VALUE",
                resource=bucket, hint="adopt a bucket of the cloud's region",
            )  # fmt: skip
        merged = {**there, **{key: value for key, value in tags.items() if key not in there or key != TAG_NAME}}
        self._s3("put_bucket_tagging", deadline, bucket, Tagging={"TagSet": pairs(merged)})
        return Found(name=spec.name, bucket=bucket, tags=merged)

    def _let_go(self, bucket: str, deadline: datetime) -> None:
        """Take our tags off a bucket of the customer's."""
        there = self._tags(bucket, deadline) or {}
        ours = {TAG_TOKEN, TAG_SPEC, TAG_KIND, *RESERVED_TAGS}
        left = {key: value for key, value in there.items() if key not in ours}
        if left:
            self._s3("put_bucket_tagging", deadline, bucket, Tagging={"TagSet": pairs(left)})
        else:
            self._s3("delete_bucket_tagging", deadline, bucket)

    # Grants ---------------------------------------------------------------------------------------------------------

    def _role(self, identity: str, owner: Owner, deadline: datetime) -> Mapping[str, Any]:
        """Return the role of an identity. Raises NotFound(REFERENCE)."""
        missing = NotFound(f"there is no identity {identity}", reason="REFERENCE", resource=identity)
        try:
            found = self._aws.request(
                "iam", "get_instance_profile", deadline, InstanceProfileName=profile_name(owner, identity)
            )["InstanceProfile"]
        except NotFound:
            raise missing from None
        path = Path.parse(found["Path"])
        cloud = {TAG_PLANE: owner.plane, TAG_CLOUD: owner.cloud}
        if path is None or path.name != identity or not found["Roles"]:
            raise missing
        if any(path.owner.tags().get(key) != value for key, value in cloud.items()):
            raise missing
        role: Mapping[str, Any] = found["Roles"][0]
        return role

    def _grants(self, role: str, deadline: datetime) -> Sequence[GrantName]:
        pages = self._aws.pages("iam", "list_role_policies", deadline, next=("Marker", "Marker"), RoleName=role)
        parsed = (GrantName.parse(name) for page in pages for name in page["PolicyNames"])
        return [each for each in parsed if each is not None]

    def _drop_grant(self, role: str, name: GrantName, deadline: datetime) -> None:
        try:
            self._aws.request("iam", "delete_role_policy", deadline, RoleName=role, PolicyName=str(name))
        except NotFound:
            return

    def _remove_grants(self, bucket: str, owner: Owner, deadline: datetime) -> None:
        """Remove every grant of the cloud's identities on a bucket."""
        pages = self._aws.pages(
            "iam", "list_instance_profiles", deadline, next=("Marker", "Marker"), PathPrefix=path_prefix(owner)
        )
        roles = {role["RoleName"] for page in pages for each in page["InstanceProfiles"] for role in each["Roles"]}
        for role in sorted(roles):
            for name in self._grants(role, deadline):
                if name.bucket == digest(bucket):
                    self._drop_grant(role, name, deadline)

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


def _foreign(name: str) -> CloudError:
    return AlreadyExists(
        f"the bucket {name} is somebody else's", reason="FOREIGN", resource=name,
        hint="bucket names are shared by all of AWS: choose another name",
    )  # fmt: skip
