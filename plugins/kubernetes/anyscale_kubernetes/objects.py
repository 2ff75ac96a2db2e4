"""The way to an S3-compatible store: botocore for buckets, obstore for objects. Both are imported at the first use."""

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
    Unsupported,
    Vendor,
)
from anyscale_core.models.secret import Secret
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.config import Store
from anyscale_kubernetes.errors import Meaning, check_deadline, retry_after
from anyscale_kubernetes.kinds import SECRET

TIMEOUT_S = 5.0
"""How long one request to the store may take; its requests are small."""
OBJECT_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
"""Transfers of objects repeat what is safe to repeat; obstore's own default holds a call for three minutes."""
KEYS = {"access_key_id": "access_key_id", "secret_access_key": "secret_access_key", "session_token": "session_token"}

_KEYS_HINT = "mend the keys in the Secret that the setting store.secret names"
TABLE: Mapping[str, Meaning] = {
    # Amazon S3 API reference, "Error responses"; MinIO's own codes begin with XMinio.
    "NoSuchBucket": Meaning(error=NotFound, reason="RESOURCE"),
    "NoSuchKey": Meaning(error=NotFound, reason="RESOURCE"),
    "404": Meaning(error=NotFound, reason="RESOURCE"),
    "BucketAlreadyExists": Meaning(error=AlreadyExists, reason="FOREIGN"),
    "BucketAlreadyOwnedByYou": Meaning(error=AlreadyExists, reason="OWNED"),
    "BucketNotEmpty": Meaning(error=Conflict, reason="NOT_EMPTY", hint="delete its objects first"),
    "OperationAborted": Meaning(error=Conflict, reason="BUSY"),
    "PreconditionFailed": Meaning(error=Conflict, reason="ETAG"),
    "AccessDenied": Meaning(error=PermissionDenied, reason="POLICY", hint="let the store's key do it"),
    "403": Meaning(error=PermissionDenied, reason="POLICY", hint="let the store's key do it"),
    "AllAccessDisabled": Meaning(error=PermissionDenied, reason="LOCK"),
    "InvalidAccessKeyId": Meaning(error=Unauthenticated, reason="EXPIRED", hint=_KEYS_HINT),
    "SignatureDoesNotMatch": Meaning(error=Unauthenticated, reason="FORGED", hint=_KEYS_HINT),
    "ExpiredToken": Meaning(error=Unauthenticated, reason="EXPIRED", hint=_KEYS_HINT),
    "RequestTimeTooSkewed": Meaning(error=Unauthenticated, reason="CLOCK_SKEW", hint="set this machine's clock"),
    "InvalidBucketName": Meaning(error=InvalidRequest, reason="NAME"),
    "InvalidArgument": Meaning(error=InvalidRequest, reason="FIELD"),
    "InvalidRequest": Meaning(error=InvalidRequest, reason="FIELD"),
    "MalformedXML": Meaning(error=InvalidRequest, reason="FIELD"),
    "InvalidLocationConstraint": Meaning(error=InvalidRequest, reason="UNSUPPORTED_VALUE"),
    "IllegalLocationConstraintException": Meaning(error=InvalidRequest, reason="UNSUPPORTED_VALUE"),
    "TooManyBuckets": Meaning(error=QuotaExceeded, reason="COUNT", hint="delete buckets, or raise the store's limit"),
    "QuotaExceeded": Meaning(error=QuotaExceeded, reason="COUNT", hint="delete objects, or raise the store's quota"),
    "XMinioAdminBucketQuotaExceeded": Meaning(error=QuotaExceeded, reason="COUNT"),
    "XMinioStorageFull": Meaning(error=CapacityUnavailable, reason="REGION", hint="add drives to the store"),
    "SlowDown": Meaning(error=Throttled, reason="RATE"),
    "ServiceUnavailable": Meaning(error=Transient, reason="SERVER", applied=Applied.UNKNOWN),
    "InternalError": Meaning(error=Transient, reason="SERVER", applied=Applied.UNKNOWN),
    "XMinioServerNotInitialized": Meaning(error=Transient, reason="PROPAGATION"),
    "RequestTimeout": Meaning(error=DeadlineExceeded, reason="REQUEST", applied=Applied.UNKNOWN),
    "NotImplemented": Meaning(error=Unsupported, reason="storage.create"),
    "MethodNotAllowed": Meaning(error=Unsupported, reason="storage.create"),
}
"""The store's codes. What is not here becomes Unclassified."""


@attrs.frozen(kw_only=True)
class Keys:
    """What opens the store."""

    access_key_id: str
    secret_access_key: Secret[str]
    session_token: Secret[str] | None = None


class ObjectStores:
    """An S3-compatible store, its keys read from their Secret at the first use. Threads may share it."""

    def __init__(self, store: Store, api: Api, session: Any = None) -> None:
        self.store = store
        self._api = api
        self._session = session
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._client: Any = None

    def create(self, bucket: str, *, deadline: datetime) -> None:
        """Make a bucket, private, unless it is ours already."""
        place = {"LocationConstraint": self.store.region}
        extra = {} if self.store.region == "us-east-1" else {"CreateBucketConfiguration": place}
        try:
            self._call("create_bucket", bucket, deadline, is_write=True, **extra)
        except AlreadyExists as error:
            if error.reason != "OWNED":
                raise

    def exists(self, bucket: str, *, deadline: datetime) -> bool:
        """Tell whether a bucket is there; raises PermissionDenied for somebody else's."""
        try:
            self._call("head_bucket", bucket, deadline, is_write=False)
        except NotFound:
            return False
        return True

    def is_empty(self, bucket: str, *, deadline: datetime) -> bool:
        """Tell whether a bucket has no object; one that is gone has none."""
        try:
            found = self._call("list_objects_v2", bucket, deadline, is_write=False, MaxKeys=1)
        except NotFound:
            return True
        return not found.get("Contents")

    def configure(self, bucket: str, *, expire_days: int, origins: tuple[str, ...], deadline: datetime) -> None:
        """Let objects expire, and let browsers of these origins use signed URLs."""
        if expire_days:
            rule = {"ID": "expire", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": expire_days}}
            rules = {"Rules": [rule]}
            self._call(
                "put_bucket_lifecycle_configuration", bucket, deadline, is_write=True, LifecycleConfiguration=rules
            )
        if origins:
            cors = {
                "AllowedMethods": ["GET", "PUT", "HEAD"], "AllowedOrigins": list(origins), "AllowedHeaders": ["*"],
                "ExposeHeaders": ["ETag", "Accept-Ranges", "Content-Range", "Content-Length"],
            }  # fmt: skip
            self._call("put_bucket_cors", bucket, deadline, is_write=True, CORSConfiguration={"CORSRules": [cors]})

    def delete(self, bucket: str, *, deadline: datetime) -> None:
        """Delete an empty bucket; one that is gone is no error. Raises Conflict(NOT_EMPTY)."""
        try:
            self._call("delete_bucket", bucket, deadline, is_write=True)
        except NotFound:
            return

    def options(self, *, deadline: datetime) -> dict[str, Secret[str]]:
        """Return what obstore needs to reach the store, by its own keys."""
        keys = self.keys(deadline=deadline)
        out = {
            "endpoint": Secret(self.store.endpoint),
            "region": Secret(self.store.region),
            "virtual_hosted_style_request": Secret("false" if self.store.path_style else "true"),
            "access_key_id": Secret(keys.access_key_id),
            "secret_access_key": keys.secret_access_key,
        }
        return out | ({"session_token": keys.session_token} if keys.session_token else {})

    def open(self, url: str, *, deadline: datetime) -> Any:
        """Return an obstore store rooted at a URL (``s3://bucket/prefix``)."""
        from obstore.store import from_url

        options: dict[str, Any] = {key: value.reveal() for key, value in self.options(deadline=deadline).items()}
        if self.store.endpoint.startswith("http://"):
            options["client_options"] = {"allow_http": True}
        return from_url(url, **options, retry_config=OBJECT_RETRIES)

    def keys(self, *, deadline: datetime) -> Keys:
        """Return the keys. Raises NotFound(REFERENCE) for a Secret that is not there, InvalidRequest for one without them."""
        with self._lock:
            if self._keys is None:
                self._keys = self._read_keys(deadline)
            return self._keys

    def _read_keys(self, deadline: datetime) -> Keys:
        name = self.store.secret
        try:
            data = self._api.get(SECRET, name, deadline=deadline).get("data") or {}
        except NotFound as error:
            raise NotFound(
                f"there is no Secret {name} with the store's keys", reason="REFERENCE", resource=name,
                vendor=error.vendor, hint="make it with access_key_id and secret_access_key",
            ) from error  # fmt: skip
        found = {key: base64.b64decode(data[key]).decode() for key in KEYS if key in data}
        missing = [key for key in ("access_key_id", "secret_access_key") if not found.get(key)]
        if missing:
            raise InvalidRequest(
                f"the Secret {name} has no {' and no '.join(missing)}", reason="FIELD", resource=name,
                hint="put the keys of the store there",
            )  # fmt: skip
        token = found.get("session_token")
        return Keys(
            access_key_id=found["access_key_id"], secret_access_key=Secret(found["secret_access_key"]),
            session_token=Secret(token) if token else None,
        )  # fmt: skip

    def _call(self, operation: str, bucket: str, deadline: datetime, *, is_write: bool, **arguments: Any) -> Any:
        client = self._s3(deadline)
        check_deadline(deadline, self._api.clock)
        with self._told(bucket, is_write=is_write):
            return getattr(client, operation)(Bucket=bucket, **arguments)

    def _s3(self, deadline: datetime) -> Any:
        keys = self.keys(deadline=deadline)
        with self._lock:
            if self._client is None:
                from botocore.config import Config
                from botocore.session import Session

                session = self._session or Session()
                config = Config(
                    connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": 1},
                    s3={"addressing_style": "path" if self.store.path_style else "virtual"},
                    max_pool_connections=16,
                )  # fmt: skip
                self._client = session.create_client(
                    "s3", endpoint_url=self.store.endpoint, region_name=self.store.region, config=config,
                    aws_access_key_id=keys.access_key_id, aws_secret_access_key=keys.secret_access_key.reveal(),
                    aws_session_token=keys.session_token.reveal() if keys.session_token else None,
                )  # fmt: skip
            return self._client

    @contextmanager
    def _told(self, bucket: str, *, is_write: bool) -> Iterator[None]:
        from botocore import exceptions as wire

        unknown = Applied.UNKNOWN if is_write else Applied.NO
        vendor = Vendor(provider="s3", service="transport")
        try:
            yield
        except wire.ClientError as error:
            raise self._translated(error, bucket) from error
        except wire.ReadTimeoutError as error:
            raise DeadlineExceeded(
                str(error), reason="REQUEST", applied=unknown, vendor=vendor, resource=bucket
            ) from error
        except (wire.ConnectTimeoutError, wire.EndpointConnectionError) as error:
            raise Transient(str(error), reason="NETWORK", vendor=vendor, resource=bucket) from error
        except wire.HTTPClientError as error:
            raise Transient(
                str(error), reason="NETWORK", applied=unknown, retry=Retry.WITH_TOKEN, vendor=vendor, resource=bucket
            ) from error
        except wire.BotoCoreError as error:
            raise InvalidRequest(
                str(error), reason="FIELD", resource=bucket, hint="mend the setting 'store'"
            ) from error

    def _translated(self, error: Any, bucket: str) -> CloudError:
        told, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        code, message = str(told.get("Code", "")), str(told.get("Message", ""))
        vendor = Vendor(
            provider="s3", service="s3", code=code, http_status=meta.get("HTTPStatusCode"),
            request_id=str(meta.get("RequestId", "")),
        )  # fmt: skip
        meaning = TABLE.get(code)
        if meaning is None:
            return Unclassified(message, reason=code, applied=Applied.UNKNOWN, vendor=vendor, resource=bucket)
        fields: dict[str, Any] = {
            "reason": meaning.reason, "hint": meaning.hint, "scope": meaning.scope, "applied": meaning.applied,
            "vendor": vendor, "resource": bucket,
        }  # fmt: skip
        wait = retry_after(str(meta.get("HTTPHeaders", {}).get("retry-after", "")), self._api.clock.now())
        if wait is not None:
            fields["retry_after"] = wait
        if meaning.error is Transient and meaning.applied is Applied.UNKNOWN:
            fields["retry"] = Retry.WITH_TOKEN
        return meaning.error(message, **fields)
