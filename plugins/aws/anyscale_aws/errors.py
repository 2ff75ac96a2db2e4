"""What AWS's codes mean to a caller: one table, and the one place that reads it.

Sources: botocore's service models and retry lists, the EC2 error-code list, and the error handling of karpenter and
terraform-provider-aws. A code that means one thing in one service is written ``service:Code``.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from anyscale_core.clock import Clock
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
    Scope,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
    Vendor,
)


@attrs.frozen(kw_only=True)
class Meaning:
    """The error of the tree that a code becomes. ``says``: words that the message must have, else the next meaning counts."""

    error: type[CloudError]
    reason: str = ""
    scope: Scope = Scope.RESOURCE
    hint: str = ""
    says: str = ""


def _many(
    words: str, error: type[CloudError], reason: str, scope: Scope = Scope.RESOURCE, hint: str = ""
) -> dict[str, Meaning]:
    return {word: Meaning(error=error, reason=reason, scope=scope, hint=hint) for word in words.split()}


_RAISE = "ask AWS to raise the limit in Service Quotas, or delete what is no longer needed"

TRANSLATE: Mapping[str, Meaning] = {
    **_many(
        "InvalidInstanceID.NotFound InvalidVolume.NotFound InvalidSnapshot.NotFound InvalidVpcID.NotFound "
        "InvalidSubnetID.NotFound InvalidGroup.NotFound InvalidNetworkInterfaceID.NotFound InvalidLaunchTemplateId.NotFound "
        "InvalidLaunchTemplateName.NotFoundException InvalidAMIID.NotFound NatGatewayNotFound InvalidRouteTableID.NotFound "
        "InvalidInternetGatewayID.NotFound InvalidVpcEndpointId.NotFound InvalidInstanceID.Malformed NoSuchEntity "
            "NoSuchBucket "
        "NoSuchKey NoSuchUpload NoSuchTagSet NoSuchBucketPolicy NoSuchLifecycleConfiguration NoSuchCORSConfiguration "
        "NoSuchPublicAccessBlockConfiguration ResourceNotFoundException LoadBalancerNotFound TargetGroupNotFound "
        "ListenerNotFound NotFound 404 Gateway.NotAttached InvalidPermission.NotFound",
        NotFound, "RESOURCE",
    ),
    **_many("EntityAlreadyExists ResourceExistsException DuplicateLoadBalancerName DuplicateTargetGroupName "
            "DuplicateListener "
            "InvalidGroup.Duplicate InvalidPermission.Duplicate RouteAlreadyExists BucketAlreadyOwnedByYou",
            AlreadyExists, "OWNED"),
    "BucketAlreadyExists": Meaning(error=AlreadyExists, reason="FOREIGN", hint="bucket names are shared by all of "
            "AWS: choose another"),
    **_many("DependencyViolation InvalidGroup.InUse VolumeInUse InvalidSnapshot.InUse ResourceInUseException ResourceInUse "
            "DeleteConflict", Conflict, "IN_USE", hint="delete what uses it first"),
    **_many("IncorrectState IncorrectInstanceState ResourceNotReady InvalidStateException EntityTemporarilyUnmodifiable "
            "ConcurrentModification ConcurrentModificationException OperationAborted ScalingActivityInProgress",
            Conflict, "BUSY"),
    "IdempotentParameterMismatch": Meaning(error=Conflict, reason="TOKEN_MISMATCH"),
    "IdempotentInstanceTerminated": Meaning(error=Conflict, reason="TOKEN_SPENT"),
    **_many("PreconditionFailed PrefixListVersionMismatch 412", Conflict, "ETAG"),
    "BucketNotEmpty": Meaning(error=Conflict, reason="NOT_EMPTY", hint="delete its objects first"),
    **_many("VcpuLimitExceeded", QuotaExceeded, "CORES", Scope.REGION, _RAISE),
    **_many("MaxSpotInstanceCountExceeded MaxFleetCountExceeded", QuotaExceeded, "SPOT", Scope.REGION, _RAISE),
    **_many("AddressLimitExceeded", QuotaExceeded, "ADDRESSES", Scope.REGION, _RAISE),
    **_many(
        "InstanceLimitExceeded VolumeLimitExceeded MaxIOPSLimitExceeded SnapshotLimitExceeded AttachmentLimitExceeded "
        "RouteLimitExceeded VpcLimitExceeded SubnetLimitExceeded SecurityGroupLimitExceeded "
            "RulesPerSecurityGroupLimitExceeded "
        "InternetGatewayLimitExceeded VpcEndpointLimitExceeded LimitExceeded ResourceLimitExceededException "
        "FileSystemLimitExceeded TooManyBuckets TooManyLoadBalancers TooManyTargetGroups TooManyListeners TooManyTargets "
        "LimitExceededException",
        QuotaExceeded, "COUNT", Scope.REGION, _RAISE,
    ),
    **_many("InsufficientInstanceCapacity InsufficientHostCapacity InsufficientCapacity UnfulfillableCapacity "
            "SpotMaxPriceTooLow "
            "InsufficientVolumeCapacity InsufficientThroughputCapacity", CapacityUnavailable, "ZONE", Scope.ZONE),
    **_many("Unsupported UnsupportedAvailabilityZoneException", CapacityUnavailable, "SKU", Scope.ZONE),
    **_many("InsufficientAddressCapacity", CapacityUnavailable, "REGION", Scope.REGION),
    **_many("InsufficientFreeAddressesInSubnet", CapacityUnavailable, "SUBNET_ADDRESSES", Scope.SUBNET, "use a larger "
            "subnet, or one more"),
    **_many("ReservationCapacityExceeded", CapacityUnavailable, "RESERVATION", Scope.ZONE),
    **_many(
        "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException "
        "TooManyRequestsException RequestLimitExceeded EC2ThrottledException BandwidthLimitExceeded SlowDown "
        "PriorRequestNotComplete ProvisionedThroughputExceededException SnapshotCreationPerVolumeRateExceeded "
        "TransactionInProgressException",
        Throttled, "RATE", Scope.REGION,
    ),
    **_many("ConcurrentMutationLimitExceeded", Throttled, "CONCURRENT_OPS", Scope.REGION),
    **_many(
        "UnauthorizedOperation AccessDenied AccessDeniedException AllAccessDisabled "
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted "
        "PendingVerification Blocked OperationNotPermitted InvalidOperation.NotPermitted 403 Forbidden NotAuthorized",
        PermissionDenied, "POLICY",
    ),
    "OptInRequired": Meaning(error=PermissionDenied, reason="BILLING_DISABLED", hint="the account is not signed up "
            "for the service"),
    **_many("ExpiredTokenException ExpiredToken RequestExpired TokenRefreshRequired", Unauthenticated, "EXPIRED"),
    **_many("MissingAuthenticationToken", Unauthenticated, "MISSING"),
    **_many("InvalidClientTokenId InvalidAccessKeyId IncompleteSignature InvalidIdentityToken SignatureDoesNotMatch "
            "UnrecognizedClientException AuthFailure InvalidToken", Unauthenticated, "FORGED"),
    **_many("RequestTimeTooSkewed", Unauthenticated, "CLOCK_SKEW", hint="set this machine's clock"),
    **_many("MissingParameter InvalidParameter InvalidParameterValue InvalidParameterException ValidationException "
            "ValidationError "
            "InvalidInput MalformedPolicyDocument MalformedPolicy MalformedXML InvalidAMIID.Malformed "
            "InvalidUserData.Malformed "
            "InvalidPaginationToken PaginationTokenExpiredException InvalidNextToken InvalidArgument InvalidRequest "
            "InvalidSubnet.Range InvalidVpc.Range InvalidConfigurationRequest InvalidTarget UnknownParameter "
            "IllegalLocationConstraintException InvalidLocationConstraint InvalidTagKey.Malformed InvalidTag "
            "MalformedQueryString InvalidAction InvalidGroupId.Malformed InvalidVpcId.Malformed", InvalidRequest, "FIELD"),
    **_many("InvalidParameterCombination", InvalidRequest, "COMBINATION"),
    **_many("InvalidBucketName", InvalidRequest, "NAME", hint="3 to 63 lower-case letters, digits and hyphens"),
    **_many("InvalidSubnet.Conflict", Conflict, "IN_USE"),
    **_many("UnsupportedOperation", InvalidRequest, "UNSUPPORTED_VALUE"),
    **_many("InternalError InternalFailure ServiceUnavailable ServiceUnavailableException Unavailable ServiceFailure "
            "ServerException ServiceException InternalServiceError InternalServiceException 500 502 503 504",
            Transient, "SERVER"),
    **_many("ResourcePropagationDelayException", Transient, "PROPAGATION"),
    **_many("RequestTimeout RequestTimeoutException", DeadlineExceeded, "REQUEST"),
}  # fmt: skip
"""code -> what it means. What is not here becomes Unclassified."""

SPECIAL: tuple[tuple[str, Meaning], ...] = (
    # An instance profile that IAM has made and EC2 does not see yet.
    ("InvalidParameterValue", Meaning(error=Transient, reason="PROPAGATION", says="Invalid IAM Instance Profile")),
    ("InvalidParameterValue", Meaning(error=Transient, reason="PROPAGATION", says="Invalid principal")),
    ("MalformedPolicyDocument", Meaning(error=Transient, reason="PROPAGATION", says="Invalid principal in policy")),
    ("OperationNotPermitted", Meaning(
        error=Conflict, reason="IN_USE", says="disableApiTermination",
        hint="turn termination protection off: aws ec2 modify-instance-attribute --no-disable-api-termination",
    )),
    ("AuthFailure", Meaning(error=PermissionDenied, reason="POLICY", says="not authorized")),
    ("AccessDenied", Meaning(error=Unauthenticated, reason="EXPIRED", says="Request has expired")),
)  # fmt: skip
"""What overloaded codes mean when their message has certain words; asked before the table."""

READING = re.compile(r"Assume|Describe|Get|Head|List")
"""How operations begin that change nothing."""
VCPU_LIMIT = re.compile(r"current vCPU limit of (\d+)")
OPERATION = re.compile(r"perform: (\S+)")


@contextmanager
def translated(clock: Clock, *, resource: str = "") -> Iterator[None]:
    """Let only errors of the tree out of a block that makes requests."""
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError

    try:
        yield
    except sdk.ClientError as error:
        raise from_response(error.response, error.operation_name, clock=clock, resource=resource) from error
    except (sdk.ConnectTimeoutError, sdk.ReadTimeoutError) as error:
        raise DeadlineExceeded(f"no answer from AWS: {error}", reason="REQUEST", resource=resource) from error
    except (sdk.EndpointConnectionError, sdk.ProxyConnectionError, sdk.SSLError) as error:
        raise Transient(
            f"AWS could not be reached: {error}",
            reason="NETWORK",
            applied=Applied.NO,
            retry=Retry.WITH_TOKEN,
            resource=resource,
        ) from error
    except (
        sdk.NoCredentialsError,
        sdk.PartialCredentialsError,
        sdk.CredentialRetrievalError,
        sdk.ProfileNotFound,
    ) as error:
        hint = "give the control plane AWS credentials: an instance profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise Unauthenticated(f"there are no AWS credentials: {error}", reason="MISSING", hint=hint) from error
    except sdk.ParamValidationError as error:
        raise InvalidRequest(f"AWS cannot take it: {error}", reason="FIELD", resource=resource) from error
    except (sdk.HTTPClientError, ResponseParserError, sdk.IncompleteReadError) as error:
        raise Transient(
            f"the connection to AWS broke: {error}",
            reason="NETWORK",
            applied=Applied.UNKNOWN,
            retry=Retry.WITH_TOKEN,
            resource=resource,
        ) from error
    except sdk.BotoCoreError as error:
        raise Unclassified(str(error), reason=type(error).__name__, resource=resource) from error


def from_response(response: Mapping[str, Any], operation: str, *, clock: Clock, resource: str = "") -> CloudError:
    """Return the error of the tree for an error that AWS sent, as botocore has parsed it."""
    found, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, message = str(found.get("Code", "")), str(found.get("Message", "")) or str(found.get("Code", ""))
    status = metadata.get("HTTPStatusCode")
    headers = {key.lower(): value for key, value in metadata.get("HTTPHeaders", {}).items()}
    vendor = Vendor(
        provider="aws", service=operation, code=code, http_status=status, request_id=str(metadata.get("RequestId", "")),
    )  # fmt: skip
    meaning = meaning_of(code, message, status)
    fields: dict[str, Any] = {"vendor": vendor, "resource": resource, "retry_after": retry_after(headers, clock)}
    if meaning is None:
        return Unclassified(f"{operation}: {message}", reason=code, **fields)
    fields |= {"reason": meaning.reason, "hint": meaning.hint, "scope": meaning.scope}
    text = f"{operation}: {message}"
    if meaning.error is PermissionDenied:
        action = OPERATION.search(message)
        fields["hint"] = meaning.hint or f"allow {action.group(1) if action else operation} to the control plane's role"
    if meaning.error is QuotaExceeded and (match := VCPU_LIMIT.search(message)):
        return QuotaExceeded(text, limit=float(match.group(1)), **fields)
    if meaning.error is Transient and meaning.reason == "SERVER" and not READING.match(operation):
        # A 5xx may come after the deed.
        fields |= {"applied": Applied.UNKNOWN, "retry": Retry.WITH_TOKEN}
    if meaning.error is Throttled:
        fields["retry"] = Retry.WITH_TOKEN
    return meaning.error(text, **fields)


def meaning_of(code: str, message: str, status: int | None) -> Meaning | None:
    """Return what a code means: by its words, by itself, then by the kind that its name is of, then by HTTP status."""
    for special, meaning in SPECIAL:
        if special == code and meaning.says in message:
            return meaning
    if code in TRANSLATE:
        return TRANSLATE[code]
    if code.startswith("InvalidParameter"):
        return Meaning(error=InvalidRequest, reason="FIELD")
    if status in (500, 502, 503, 504):
        return TRANSLATE["InternalError"]
    return TRANSLATE["Throttling"] if status == 429 else None


def retry_after(headers: Mapping[str, str], clock: Clock) -> timedelta | None:
    """Return how long an answer asks to wait, in seconds or until a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "")
    if not text:
        return None
    if text.isdigit():
        return timedelta(seconds=int(text))
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(timedelta(), until.astimezone(UTC) - clock.now())


def check_deadline(deadline: datetime, clock: Clock) -> None:
    """Raise DeadlineExceeded(REQUEST) when a call comes too late to be begun."""
    if clock.now() >= deadline:
        raise DeadlineExceeded("the deadline had passed before the request began", reason="REQUEST", applied=Applied.NO)
