"""Every code of the table, through botocore's own parsing of what AWS would send."""

import functools
from datetime import timedelta
from typing import Any

import botocore.session
import pytest
from anyscale_aws.errors import SPECIAL, TRANSLATE, from_response, retry_after, translated
from anyscale_conformance.faults.http import Answer
from anyscale_conformance.faults.http_botocore import rendered
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, HTTPClientError, NoCredentialsError
from botocore.parsers import create_parser

from anyscale_core.errors import (
    Applied,
    CloudError,
    DeadlineExceeded,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Transient,
    Unauthenticated,
    Unclassified,
)
from anyscale_core.testing.clock import ManualClock

PROTOCOLS = ("ec2", "query", "rest-xml", "json")


@functools.cache
def _shape() -> Any:
    return botocore.session.get_session().get_service_model("sts").operation_model("GetCallerIdentity").output_shape


def parsed(protocol: str, code: str, message: str, status: int = 400) -> dict[str, Any]:
    """Return an error as botocore parses it from the wire."""
    headers, body = rendered(protocol, Answer(status=status, code=code, message=message))
    answer = {"headers": headers, "body": body, "status_code": status, "context": {}}
    found: dict[str, Any] = create_parser(protocol).parse(answer, _shape())
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_code_means_what_the_table_says(protocol: str) -> None:
    for code, meaning in TRANSLATE.items():
        error = from_response(parsed(protocol, code, "it is so"), "Operation", clock=ManualClock())
        assert (type(error), error.reason, error.scope) == (meaning.error, meaning.reason, meaning.scope), code
        assert error.vendor is not None
        assert (error.vendor.code, error.vendor.http_status) == (code, 400)
        assert error.vendor.request_id


def test_overloaded_codes_are_told_apart_by_their_words() -> None:
    for code, meaning in SPECIAL:
        error = from_response(parsed("ec2", code, f"so: {meaning.says}"), "Operation", clock=ManualClock())
        assert (type(error), error.reason) == (meaning.error, meaning.reason), (code, meaning.says)


def test_a_code_that_nobody_knows_is_unclassified_unless_its_status_says_more() -> None:
    kinds = {400: Unclassified, 500: Transient, 503: Transient}
    for status, kind in kinds.items():
        error = from_response(parsed("ec2", "Novel", "new", status), "RunInstances", clock=ManualClock())
        assert type(error) is kind
    error = from_response(parsed("ec2", "Novel", "new", 500), "RunInstances", clock=ManualClock())
    assert (error.applied, error.retry) == (Applied.UNKNOWN, Retry.WITH_TOKEN)
    error = from_response(parsed("ec2", "Novel", "new", 500), "DescribeInstances", clock=ManualClock())
    assert (error.applied, error.retry) == (Applied.NO, Retry.SAME)


def test_a_refused_permission_names_the_action_and_a_quota_its_limit() -> None:
    message = "User: arn:aws:iam::1:user/x is not authorized to perform: ec2:RunInstances on resource: *"
    denied = from_response(parsed("ec2", "UnauthorizedOperation", message), "RunInstances", clock=ManualClock())
    assert isinstance(denied, PermissionDenied)
    assert "ec2:RunInstances" in denied.hint
    message = "You have requested more vCPU capacity than your current vCPU limit of 64 allows for"
    spent = from_response(parsed("ec2", "VcpuLimitExceeded", message), "RunInstances", clock=ManualClock())
    assert isinstance(spent, QuotaExceeded)
    assert spent.limit == 64


def test_retry_after_is_read_in_both_forms() -> None:
    clock = ManualClock()
    assert retry_after({"retry-after": "7"}, clock) == timedelta(seconds=7)
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, clock) == timedelta(seconds=30)
    assert retry_after({"retry-after": "soon"}, clock) is None
    assert retry_after({}, clock) is None


@pytest.mark.parametrize(
    ("raised", "kind", "applied"),
    [
        (ConnectTimeoutError(endpoint_url="x"), DeadlineExceeded, Applied.UNKNOWN),
        (EndpointConnectionError(endpoint_url="x"), Transient, Applied.NO),
        (HTTPClientError(error="broken"), Transient, Applied.UNKNOWN),
        (NoCredentialsError(), Unauthenticated, Applied.NO),
    ],
)
def test_what_never_was_an_answer_says_whether_it_may_have_been_carried_out(
    raised: Exception, kind: type[CloudError], applied: Applied
) -> None:
    with pytest.raises(kind) as caught, translated(ManualClock()):
        raise raised
    assert caught.value.applied is applied
