from datetime import UTC, datetime, timedelta

import pytest
from anyscale_azure import offerings, roles
from anyscale_azure.config import Settings, read_settings
from anyscale_azure.errors import TRANSLATE, Failure, translate
from anyscale_azure.roles import Assignment, Held
from anyscale_azure.testing import World
from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.subscription import Trouble

from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    SpecError,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
)
from anyscale_core.models.identity import Access

NOW = datetime(2026, 1, 1, tzinfo=UTC)
# docs/errors.md tells the categories; these are Azure's own words for them.
PROMISED: dict[type[CloudError], tuple[str, ...]] = {
    NotFound: ("ResourceNotFound", "ResourceGroupNotFound", "ParentResourceNotFound", "ContainerNotFound"),
    AlreadyExists: ("RoleAssignmentExists", "ContainerAlreadyExists", "StorageAccountAlreadyTaken"),
    Conflict: ("AnotherOperationInProgress", "PreconditionFailed", "InUseSubnetCannotBeDeleted", "ContainerBeingDeleted"),
    QuotaExceeded: ("QuotaExceeded", "RoleAssignmentLimitExceeded"),
    CapacityUnavailable: ("AllocationFailed", "ZonalAllocationFailed", "SkuNotAvailable", "InsufficientSubnetSize"),
    Throttled: ("TooManyRequests", "ServerBusy"),
    PermissionDenied: ("AuthorizationFailed", "RequestDisallowedByPolicy", "ScopeLocked", "MissingSubscriptionRegistration"),
    Unauthenticated: ("InvalidAuthenticationInfo", "AuthenticationFailed"),
    Transient: ("PrincipalNotFound", "InternalServerError"),
}  # fmt: skip


@pytest.mark.parametrize(("category", "code"), [(c, code) for c, codes in PROMISED.items() for code in codes])
def test_a_code_of_azure_has_its_category(category: type[CloudError], code: str) -> None:
    assert TRANSLATE[code].error is category


@pytest.mark.parametrize(
    ("text", "reason", "metric"),
    [
        ("exceeding approved Total Regional Cores quota", "CORES", "cores"),
        ("exceeding approved standardDSv5Family Cores quota", "FAMILY", "standardDSv5Family"),
        ("exceeding approved LowPriorityCores quota", "SPOT", "lowPriorityCores"),
    ],
)
def test_the_text_of_a_spent_quota_tells_which_how_much_and_how_much_is_used(
    text: str, reason: str, metric: str
) -> None:
    message = f"Operation results in {text}. Additional details - Current Limit: 10, Current Usage: 8, Required: 4"
    error = translate(Failure(action="x/write", message=message, code="OperationNotAllowed", status=409), NOW)
    assert isinstance(error, QuotaExceeded)
    assert (error.reason, error.metric, error.limit, error.used) == (reason, metric, 10, 8)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "17"}, timedelta(seconds=17)),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, timedelta(seconds=30)),
        ({"x-ms-retry-after-ms": "250", "retry-after": "0"}, timedelta(milliseconds=250)),
        ({"retry-after": "soon"}, timedelta(seconds=1)),
    ],
)
def test_retry_after_is_read_in_seconds_as_a_date_and_in_milliseconds(headers: dict[str, str], wait: timedelta) -> None:
    failure = Failure(action="x/write", message="", code="TooManyRequests", status=429, headers=headers)
    assert translate(failure, NOW).retry_after == wait


def test_a_server_error_at_a_write_may_have_been_applied_and_at_a_read_not() -> None:
    write = translate(Failure(action="x/write", message="", status=503), NOW)
    read = translate(Failure(action="x/read", message="", status=503, is_write=False), NOW)
    assert (write.applied, write.retry) == (Applied.UNKNOWN, Retry.WITH_TOKEN)
    assert (read.applied, read.retry) == (Applied.NO, Retry.SAME)


def test_an_unknown_code_is_unclassified_whatever_its_status() -> None:
    error = translate(Failure(action="x/write", message="?", code="NeverSeen", status=409), NOW)
    assert isinstance(error, Unclassified)
    assert error.reason == "NeverSeen"


def test_the_inner_error_of_a_failed_deployment_counts(world: World) -> None:
    details = ({"code": "SkuNotAvailable", "message": "none here"},)
    world.at.troubles.append(Trouble(error=ArmError(409, "DeploymentFailed", "at least one failed", details=details)))
    with pytest.raises(CapacityUnavailable, match="none here"):
        world.azure().send("GET", f"{world.settings.group}/providers/x/y", "2024-05-01", deadline=world.soon())


def test_settings_tell_every_fault_at_once(world: World) -> None:
    world.more |= {"tenant_id": "", "endpoint": "http://plain", "max_calls_at_once": 0, "blob_endpoint": "https://x"}
    with pytest.raises(SpecError) as caught:
        read_settings(world.config())
    assert {fault.path for fault in caught.value.faults} == {
        "tenant_id", "endpoint", "max_calls_at_once", "blob_endpoint",
    }  # fmt: skip


@pytest.mark.parametrize("access", list(Access))
def test_a_condition_is_read_back_as_it_was_written(access: Access) -> None:
    held = (Held(prefix="a/", token="00000001"), Held(prefix="st*r/${id}/", token="00000002"))
    assignment = Assignment(scope="/subscriptions/s/c", principal="p", access=access, held=held)
    body = roles.render(assignment, "/subscriptions/s")
    body["properties"]["scope"] = assignment.scope
    found = roles.parse(body)
    assert found is not None
    assert (found.held, found.access, found.path) == (held, access, assignment.path)
    assert roles.parse({"properties": {**body["properties"], "description": "somebody else's"}}) is None


def test_more_prefixes_than_a_condition_holds_are_refused_with_the_remedy() -> None:
    held = tuple(Held(prefix=f"clusters/{number:04d}/", token="00000001") for number in range(100))
    with pytest.raises(InvalidRequest, match="granular"):
        roles.render(Assignment(scope="/s", principal="p", access=Access.READ, held=held), "/subscriptions/s")


def test_a_size_without_a_price_is_estimated_by_its_cores() -> None:
    price = offerings.price_of("Standard_X10", {"vCPUs": "10"})
    assert 0 < price.spot < price.on_demand
    assert Settings(subscription_id="s", resource_group="g").group == "/subscriptions/s/resourceGroups/g"
