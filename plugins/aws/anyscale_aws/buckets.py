"""Buckets of S3: whose they are by their tags, what one is made of, and how the customer's is adopted and let go.

S3's own list shows no tags, so buckets are listed by the tagging service, which knows what was tagged within a minute.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_aws import policies
from anyscale_aws.client import Aws
from anyscale_aws.names import bucket_name
from anyscale_aws.tags import TAG_KIND, TAG_NAME, TAG_SPEC, TAG_TOKEN, mapping, pairs
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.owner import RESERVED_TAGS, TAG_CLOUD, TAG_PLANE, Owner
from anyscale_core.models.storage import BucketSpec

ADOPTED = "adopted"
MADE = "made"
ABORT_DAYS = 1
"""Parts of an upload that never ended go after so many days."""
PAGE = 100


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


class Buckets:
    """The buckets of one cloud."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def ask(self, operation: str, deadline: datetime, bucket: str, **fields: Any) -> Any:
        """Make one request about a bucket."""
        return self._aws.request("s3", operation, deadline, resource=bucket, Bucket=bucket, **fields)

    def there(self, spec: BucketSpec, owner: Owner, tags: Mapping[str, str], deadline: datetime) -> Found | None:
        """Return what an earlier call with this token made, if any. Raises AlreadyExists and Conflict(TOKEN_MISMATCH)."""
        own = {TAG_PLANE: owner.plane, TAG_CLOUD: owner.cloud}
        candidates = list(self.tagged({**own, TAG_TOKEN: tags[TAG_TOKEN]}, deadline))
        bucket = bucket_name(owner, spec.name)
        named = self.tags_of(bucket, deadline)
        if not named:
            candidates += self.tagged({**own, TAG_NAME: spec.name}, deadline)
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

    def tags_of(self, bucket: str, deadline: datetime) -> dict[str, str] | None:
        """Return a bucket's tags; None when there is no such bucket."""
        try:
            return mapping(self.ask("get_bucket_tagging", deadline, bucket)["TagSet"])
        except NotFound as error:
            return {} if error.vendor is not None and error.vendor.code == "NoSuchTagSet" else None

    def tagged(self, tags: Mapping[str, str], deadline: datetime) -> Iterator[Found]:
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

    def holds_something(self, bucket: str, deadline: datetime) -> bool:
        """Tell whether there is an object in a bucket."""
        return bool(self.ask("list_objects_v2", deadline, bucket, MaxKeys=1).get("KeyCount"))

    def make(self, spec: BucketSpec, owner: Owner, tags: Mapping[str, str], deadline: datetime) -> Found:
        """Make a bucket with all that belongs to it."""
        bucket, region = bucket_name(owner, spec.name), self._aws.region
        where = {} if region == "us-east-1" else {"LocationConstraint": region}
        try:
            self.ask("create_bucket", deadline, bucket, CreateBucketConfiguration={**where, "Tags": pairs(tags)})
        except AlreadyExists as error:
            if error.reason != "OWNED" or self.tags_of(bucket, deadline):
                raise
        if self.tags_of(bucket, deadline) == {}:
            # Some that speak S3 take no tags in the creating call; the name alone says that such a bucket is ours.
            self.ask("put_bucket_tagging", deadline, bucket, Tagging={"TagSet": pairs(tags)})
        for _, put in self._steps(spec, bucket, deadline):
            put()
        return Found(name=spec.name, bucket=bucket, tags=tags)

    def complete(self, spec: BucketSpec, bucket: str, deadline: datetime) -> None:
        """Put what an earlier call did not get to."""
        for get, put in self._steps(spec, bucket, deadline):
            try:
                get()
            except NotFound:
                put()

    def adopt(self, spec: BucketSpec, tags: Mapping[str, str], deadline: datetime) -> Found:
        """Tag the customer's bucket as ours to use, beside its own tags. Raises AlreadyExists for one that is used already."""
        bucket = (spec.adopt or "").removeprefix("s3://").strip("/")
        if not bucket or "/" in bucket:
            raise InvalidRequest(f"{spec.adopt!r} is not a bucket", reason="FIELD", hint="adopt s3://NAME")
        there = self.tags_of(bucket, deadline)
        if there is None:
            raise NotFound(f"there is no bucket {bucket}", reason="REFERENCE", resource=bucket)
        if TAG_PLANE in there:
            raise AlreadyExists(
                f"the bucket {bucket} is used by {there[TAG_PLANE]}/{there.get(TAG_CLOUD)}",
                reason="FOREIGN",
                resource=bucket,
            )
        region = self.ask("get_bucket_location", deadline, bucket).get("LocationConstraint") or "us-east-1"
        if region != self._aws.region:
            raise InvalidRequest(
                f"the bucket {bucket} is in {region}, and this cloud is in {self._aws.region}", reason="UNSUPPORTED_VALUE",
                resource=bucket, hint="adopt a bucket of the cloud's region",
            )  # fmt: skip
        merged = {**there, **{key: value for key, value in tags.items() if key not in there or key != TAG_NAME}}
        self.ask("put_bucket_tagging", deadline, bucket, Tagging={"TagSet": pairs(merged)})
        return Found(name=spec.name, bucket=bucket, tags=merged)

    def let_go(self, bucket: str, deadline: datetime) -> None:
        """Take our tags off a bucket of the customer's."""
        there = self.tags_of(bucket, deadline) or {}
        ours = {TAG_TOKEN, TAG_SPEC, TAG_KIND, *RESERVED_TAGS}
        left = {key: value for key, value in there.items() if key not in ours}
        if left:
            self.ask("put_bucket_tagging", deadline, bucket, Tagging={"TagSet": pairs(left)})
        else:
            self.ask("delete_bucket_tagging", deadline, bucket)

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
            return lambda: self.ask(get, deadline, bucket), lambda: self.ask(put, deadline, bucket, **fields)

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


def _foreign(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"the bucket {name} is somebody else's", reason="FOREIGN", resource=name,
        hint="bucket names are shared by all of AWS: choose another name",
    )  # fmt: skip
