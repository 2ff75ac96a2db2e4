"""What Azure's codes mean to a caller: one table by code, and the texts that tell overloaded codes apart.

Never by class: azure-core calls every 409 a ResourceExistsError, quotas and stockouts among them.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
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
    Scope,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
    Unsupported,
    Vendor,
)


@attrs.frozen(kw_only=True)
class Failure:
    """What was answered, or not: ``status`` and ``code`` of the innermost error. ``action`` is what was asked."""

    action: str
    message: str
    code: str = ""
    status: int | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    is_write: bool = True
    resource: str = ""


@attrs.frozen(kw_only=True)
class Meaning:
    """The error of the tree that a code becomes, how far it reaches, and the remedy."""

    error: type[CloudError]
    reason: str
    scope: Scope = Scope.RESOURCE
    hint: str = ""


_GRANT = "grant {action} to the control plane's identity at the resource group (docs/azure.md has the custom role)"
_REGISTER = "register the resource provider with the subscription: az provider register --namespace ..."
_SIGN_IN = "check tenant_id, client_id and the credential of the settings, and the clock of this machine"


def _all(
    codes: str, error: type[CloudError], reason: str, scope: Scope = Scope.RESOURCE, hint: str = ""
) -> dict[str, Meaning]:
    return dict.fromkeys(codes.split(), Meaning(error=error, reason=reason, scope=scope, hint=hint))


# Sources: ARM's common error codes, the REST reference of compute, network, storage and authorization, the code tables of
# cloud-provider-azure, karpenter-provider-azure and cluster-api-provider-azure.
TRANSLATE: Mapping[str, Meaning] = {
    **_all(
        "ResourceNotFound ResourceGroupNotFound SubscriptionNotFound DeploymentNotFound ContainerNotFound BlobNotFound "
        "ShareNotFound NotFound RoleAssignmentNotFound",
        NotFound, "RESOURCE",
    ),
    **_all("ParentResourceNotFound", NotFound, "PARENT"),
    **_all(
        "ImageNotFound InvalidResourceReference LinkedInvalidPropertyId PlatformImageNotFound",
        NotFound, "REFERENCE",
    ),
    **_all("RoleAssignmentExists", AlreadyExists, "OWNED"),
    **_all(
        "ContainerAlreadyExists BlobAlreadyExists AccountAlreadyExists StorageAccountAlreadyTaken StorageAccountAlreadyExists "
        "DnsRecordInUse PrivateIPAddressIsAllocated",
        AlreadyExists, "FOREIGN", hint="use another name",
    ),
    **_all(
        "AnotherOperationInProgress StorageAccountOperationInProgress AccountBeingCreated StorageAccountIsNotProvisioned "
        "ReferencedResourceNotProvisioned DeploymentActive OperationPreempted RetryableErrorDueToAnotherOperation "
        "CanceledAndSupersededDueToAnotherOperation",
        Conflict, "BUSY",
    ),
    **_all("PreconditionFailed PreconditionFailedEtagMismatch ConditionNotMet", Conflict, "ETAG"),
    **_all("ContainerBeingDeleted ResourceGroupBeingDeleted AccountIsBeingDeleted", Conflict, "BEING_DELETED"),
    **_all(
        "InUseSubnetCannotBeDeleted PublicIPAddressCannotBeDeleted NicReservedForAnotherVm NicInUse ResourceInUse "
        "InUseNetworkSecurityGroupCannotBeDeleted NetworkSecurityGroupInUseByVirtualMachineScaleSet SubnetInUse "
        "OperationNotAllowedOnProtectedResource CannotDeleteResource LoadBalancerInUse",
        Conflict, "IN_USE", hint="delete what uses it first",
    ),
    **_all("BlobImmutableDueToPolicy", Conflict, "IN_USE", hint="wait until the immutability policy has ended"),
    **_all("ConflictingUserInput", Conflict, "AMBIGUOUS", hint="delete what has the name already"),
    **_all(
        "RoleAssignmentLimitExceeded DeploymentQuotaExceeded QuotaExceeded ResourceQuotaExceeded",
        QuotaExceeded, "COUNT", Scope.ACCOUNT, "ask for a higher limit",
    ),
    **_all(
        "PublicIPCountLimitReached",
        QuotaExceeded, "ADDRESSES", Scope.ACCOUNT, "ask for a higher limit, or release addresses",
    ),
    **_all("AllocationFailed OverconstrainedAllocationRequest", CapacityUnavailable, "REGION", Scope.REGION),
    **_all("ZonalAllocationFailed OverconstrainedZonalAllocationRequest", CapacityUnavailable, "ZONE", Scope.ZONE),
    **_all("SkuNotAvailable NotAvailableForSubscription", CapacityUnavailable, "SKU", Scope.REGION),
    **_all(
        "InsufficientSubnetSize SubnetIsFull",
        CapacityUnavailable, "SUBNET_ADDRESSES", Scope.SUBNET, "use a larger subnet",
    ),
    **_all(
        "TooManyRequests SubscriptionRequestsThrottled OperationsThrottled ServerBusy",
        Throttled, "RATE", Scope.ACCOUNT,
    ),
    **_all(
        "AuthorizationFailed LinkedAuthorizationFailed Forbidden AuthorizationPermissionMismatch AuthorizationFailure",
        PermissionDenied, "POLICY", hint=_GRANT,
    ),
    **_all(
        "RequestDisallowedByPolicy",
        PermissionDenied, "ORG_POLICY", hint="ask the owner of the Azure Policy that refuses it",
    ),
    **_all("ScopeLocked", PermissionDenied, "LOCK", hint="remove the lock from the resource or its group"),
    **_all(
        "ReadOnlyDisabledSubscription SubscriptionDisabled",
        PermissionDenied, "BILLING_DISABLED", Scope.ACCOUNT, "enable the subscription",
    ),
    **_all(
        "MissingSubscriptionRegistration NoRegisteredProviderFound",
        PermissionDenied, "POLICY", Scope.ACCOUNT, _REGISTER,
    ),
    **_all(
        "AuthenticationFailed NoAuthenticationInformation InvalidAuthenticationTokenTenant "
        "InvalidAuthenticationToken",
        Unauthenticated, "MISSING", Scope.ACCOUNT, _SIGN_IN,
    ),
    **_all("ExpiredAuthenticationToken InvalidAuthenticationInfo", Unauthenticated, "EXPIRED", Scope.ACCOUNT, _SIGN_IN),
    **_all(
        "InvalidParameter InvalidTemplateDeployment DeploymentFailed BadRequest InvalidRequestContent InvalidRequestFormat "
        "InvalidResourceName PropertyChangeNotAllowed InvalidApiVersionParameter MissingApiVersionParameter "
        "InvalidResourceLocation LocationNotAvailableForResourceType UnsupportedHeader InvalidHeaderValue InvalidInput "
        "VMSizeDoesntSupportPremiumStorage RoleAssignmentUpdateNotPermitted InvalidAvailabilityZone "
        "LocationNotSupportAvailabilityZones UnsupportedResourceOperation",
        InvalidRequest, "FIELD", hint="mend what the message names",
    ),
    **_all(
        "NetcfgInvalidSubnet NetcfgSubnetRangesOverlap VirtualNetworkAddressSpaceOverlaps",
        Conflict, "IN_USE", hint="use a free range",
    ),
    **_all("SecurityRuleConflict SecurityRulePriorityConflict", Conflict, "BUSY"),
    **_all(
        "InternalServerError InternalError RetryableError OperationTimedOut ServerTimeout ServiceUnavailable",
        Transient, "SERVER",
    ),
    **_all("PrincipalNotFound", Transient, "PROPAGATION"),
    **_all("GatewayTimeout", DeadlineExceeded, "OPERATION"),
    **_all("MethodNotAllowed", Unsupported, "method"),
}  # fmt: skip
"""Azure's code -> what it means. What is not here becomes Unclassified, unless its status or text says enough."""

PROTECTED = Meaning(error=Conflict, reason="IN_USE", hint="remove the lock from the resource or its group")
"""A lock that refuses a delete is what protects a thing; one that refuses a change is a right that is missing."""

STATUSES: Mapping[int, Meaning] = {
    401: TRANSLATE["InvalidAuthenticationInfo"],
    403: TRANSLATE["AuthorizationFailed"],
    404: TRANSLATE["ResourceNotFound"],
    405: TRANSLATE["MethodNotAllowed"],
    408: TRANSLATE["InternalServerError"],
    412: TRANSLATE["PreconditionFailed"],
    429: TRANSLATE["TooManyRequests"],
    500: TRANSLATE["InternalServerError"],
    502: TRANSLATE["InternalServerError"],
    503: TRANSLATE["InternalServerError"],
    504: TRANSLATE["GatewayTimeout"],
}
"""For answers without a code, as of HEAD and of proxies. 404 of a HEAD is as good as one with a code."""

TEXTS: tuple[tuple[str, re.Pattern[str], Meaning], ...] = tuple(
    (code, re.compile(text, re.IGNORECASE), Meaning(error=error, reason=reason, scope=scope, hint=hint))
    for code, text, error, reason, scope, hint in (
        ("OperationNotAllowed", "LowPriorityCores", QuotaExceeded, "SPOT", Scope.ACCOUNT, "ask for more spot cores"),
        ("OperationNotAllowed", r"Total Regional Cores", QuotaExceeded, "CORES", Scope.REGION, "ask for more cores"),
        ("OperationNotAllowed", r"Family Cores", QuotaExceeded, "FAMILY", Scope.REGION, "ask for more cores of the family"),
        ("OperationNotAllowed", r"quota", QuotaExceeded, "COUNT", Scope.ACCOUNT, "ask for a higher limit"),
        ("OperationNotAllowed", "", Conflict, "BUSY", Scope.RESOURCE, ""),
        ("", "superseded due to another operation|preempted by a more recent operation|conflict with a concurrent request",
         Conflict, "BUSY", Scope.RESOURCE, ""),
    )
)  # fmt: skip
"""Code (empty: any that is not in the table), what its message says, and what that means; the first that fits counts."""

_METRIC = re.compile(r"approved (?:Total Regional )?(\w+?)(?: ?Cores)? quota", re.IGNORECASE)
_NUMBER = re.compile(r"Current (Limit|Usage): (\d+(?:\.\d+)?)")


def translate(failure: Failure, now: datetime) -> CloudError:
    """Return the error of the tree for an answer that is none of success; Azure's code, status and request id are kept."""
    vendor = Vendor(
        provider="azure", service=failure.action, code=failure.code, http_status=failure.status,
        request_id=failure.headers.get("x-ms-request-id") or failure.headers.get("x-ms-correlation-request-id") or "",
    )  # fmt: skip
    meaning = _meaning(failure)
    common: dict[str, Any] = {
        "vendor": vendor,
        "resource": failure.resource,
        "retry_after": _retry_after(failure.headers, now),
    }
    if meaning is None:
        code = failure.code or str(failure.status)
        return Unclassified(failure.message, reason=code, scope=Scope.REQUEST, applied=Applied.UNKNOWN, **common)
    hint = meaning.hint.format(action=failure.action)
    fields = common | {"reason": meaning.reason, "scope": meaning.scope, "hint": hint}
    if meaning.error is QuotaExceeded:
        return QuotaExceeded(failure.message, **_numbers(failure.message, meaning), **fields)
    if meaning.error is Throttled and fields["retry_after"] is None:
        fields["retry_after"] = timedelta(seconds=1)
    unknown = meaning.error is DeadlineExceeded or (meaning.error is Transient and meaning.reason == "SERVER")
    if unknown and failure.is_write:
        fields |= {"applied": Applied.UNKNOWN, "retry": Retry.WITH_TOKEN}
    elif meaning.error is DeadlineExceeded:
        fields |= {"applied": Applied.NO, "retry": Retry.SAME}
    return meaning.error(failure.message, **fields)


def shown(code: str, message: str, *, resource: str) -> CloudError:
    """Return the error of a machine that was accepted and failed then, by what it shows: what its create would have raised."""
    failure = Failure(action="Microsoft.Compute/virtualMachines/write", message=message, code=code, resource=resource)
    return translate(failure, datetime.min.replace(tzinfo=UTC))  # the time counts for headers alone, and there are none


def unsent(failure: Failure) -> CloudError:
    """Return the error for a request that never left: nothing was done."""
    return Transient(
        failure.message, reason="NETWORK", applied=Applied.NO, resource=failure.resource,
        hint="check that this machine reaches the endpoint of the settings",
        vendor=Vendor(provider="azure", service=failure.action),
    )  # fmt: skip


def unanswered(failure: Failure) -> CloudError:
    """Return the error for a request that was sent and whose answer was lost or broke off."""
    fields: dict[str, Any] = {
        "resource": failure.resource,
        "vendor": Vendor(provider="azure", service=failure.action),
    }
    if not failure.is_write:
        return Transient(failure.message, reason="NETWORK", applied=Applied.NO, **fields)
    return Transient(failure.message, reason="NETWORK", applied=Applied.UNKNOWN, retry=Retry.WITH_TOKEN, **fields)


def _meaning(failure: Failure) -> Meaning | None:
    if failure.code == "ScopeLocked" and failure.action.endswith("/delete"):
        return PROTECTED
    if failure.code in TRANSLATE:
        return TRANSLATE[failure.code]
    for code, text, meaning in TEXTS:
        if code in ("", failure.code) and text.search(failure.message):
            return meaning
    if failure.status == 429 or (failure.status or 0) >= 500 or not failure.code:
        return STATUSES.get(failure.status or 0)
    return None


def _numbers(message: str, meaning: Meaning) -> dict[str, Any]:
    """Return metric, limit and use as the text of a spent quota tells them."""
    found = {name: float(number) for name, number in _NUMBER.findall(message)}
    match = _METRIC.search(message)
    word = match.group(1) if match else ""
    metric = {"CORES": "cores", "SPOT": "lowPriorityCores"}.get(meaning.reason, word)
    return {"metric": metric, "limit": found.get("Limit"), "used": found.get("Usage")}


def _retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return what Retry-After asks for: milliseconds (Azure's own header), seconds, or until a date (RFC 9110, 10.2.3)."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if headers.get(name, "").isdigit():
            return timedelta(milliseconds=int(headers[name]))
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdigit():
        return timedelta(seconds=int(value))
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(until - now, timedelta())
