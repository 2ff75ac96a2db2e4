"""Errors: each category says what its catcher does next, and keeps what the cloud said."""

import json
import re
from datetime import timedelta

import pytest

from anyscale_core import errors
from anyscale_core.errors import (
    CATEGORIES,
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    CoreError,
    DeadlineExceeded,
    Fault,
    PermissionDenied,
    PluginError,
    QuotaExceeded,
    Refused,
    Retry,
    Scope,
    SpecError,
    Throttled,
    Transient,
    Unclassified,
    Vendor,
)

NEXT_STEP = {
    "InvalidRequest": Retry.AFTER_FIX,
    "Unauthenticated": Retry.AFTER_FIX,
    "PermissionDenied": Retry.AFTER_FIX,
    "NotFound": Retry.NEVER,
    "AlreadyExists": Retry.AFTER_FIX,
    "Conflict": Retry.NEVER,
    "QuotaExceeded": Retry.ELSEWHERE,
    "CapacityUnavailable": Retry.ELSEWHERE,
    "Throttled": Retry.SAME,
    "Transient": Retry.SAME,
    "DeadlineExceeded": Retry.WITH_TOKEN,
    "Unsupported": Retry.NEVER,
    "Unclassified": Retry.NEVER,
}


def test_every_category_of_the_tree_is_in_the_list_once() -> None:
    defined = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, CloudError)]
    assert sorted(cls.__name__ for cls in defined if cls is not CloudError) == sorted(c.__name__ for c in CATEGORIES)


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda cls: cls.__name__)
def test_each_category_is_named_for_itself_and_has_its_next_step(category: type[CloudError]) -> None:
    error = category("it went wrong")
    assert category.category == category.__name__
    assert error.retry is NEXT_STEP[category.__name__]
    assert isinstance(error, CoreError)
    assert f"{category.__name__}: it went wrong" in str(error)


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda cls: cls.__name__)
def test_each_category_becomes_plain_values(category: type[CloudError]) -> None:
    error = category("x", reason="R", resource="i-1", retry_after=timedelta(seconds=2.5), vendor=Vendor(provider="aws"))
    record = json.loads(json.dumps(error.record()))
    assert record["category"] == category.__name__
    assert record["retry_after_s"] == 2.5
    assert record["vendor"]["provider"] == "aws"
    assert record["resource"] == "i-1"
    assert record["attempts"] == 1


def test_only_a_lost_answer_leaves_it_open_whether_it_was_applied() -> None:
    open_ones = [cls for cls in CATEGORIES if cls("x").applied is Applied.UNKNOWN]
    assert open_ones == [DeadlineExceeded]
    assert DeadlineExceeded("x", applied=Applied.NO).applied is Applied.NO


@pytest.mark.parametrize("reason", ["BUSY", "ETAG", "BEING_DELETED"])
def test_a_conflict_that_passes_by_itself_may_be_repeated_with_its_token(reason: str) -> None:
    assert Conflict("x", reason=reason).retry is Retry.WITH_TOKEN


@pytest.mark.parametrize("reason", ["IN_USE", "TOKEN_MISMATCH", "TOKEN_SPENT", "AMBIGUOUS", "NOT_OWNED", "NOT_EMPTY"])
def test_a_conflict_that_needs_a_decision_is_not_repeated(reason: str) -> None:
    assert Conflict("x", reason=reason).retry is Retry.NEVER


def test_the_documented_reasons_of_conflict_cover_those_that_pass() -> None:
    documented = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", Conflict.__doc__ or ""))
    assert documented >= Conflict.PASSING


def test_a_quota_error_keeps_its_numbers() -> None:
    error = QuotaExceeded("x", metric="CPU", limit=10, used=9.5, reason="CORES", scope=Scope.ACCOUNT)
    assert error.record()["metric"] == "CPU"
    assert (error.record()["limit"], error.record()["used"]) == (10, 9.5)
    assert error.record()["scope"] == "account"


def test_an_error_reads_as_what_happened_what_the_cloud_said_and_the_remedy() -> None:
    error = PermissionDenied(
        "may not create instances",
        reason="POLICY",
        vendor=Vendor(provider="aws", code="UnauthorizedOperation", http_status=403, request_id="req-1"),
        hint="grant ec2:RunInstances",
    )
    assert str(error) == (
        "PermissionDenied(POLICY): may not create instances [aws UnauthorizedOperation 403 req-1] "
        "Remedy: grant ec2:RunInstances"
    )


def test_an_explicit_next_step_wins_over_the_categorys_own() -> None:
    assert Throttled("x", retry=Retry.WITH_TOKEN).retry is Retry.WITH_TOKEN
    assert Transient("x").retry is Retry.SAME


def test_stockouts_and_the_unknown_are_never_repeated_as_they_are() -> None:
    for category in (CapacityUnavailable, QuotaExceeded, Unclassified, PermissionDenied):
        assert category("x").retry not in (Retry.SAME, Retry.WITH_TOKEN)


def test_a_spec_error_lists_every_fault_under_its_subject() -> None:
    error = SpecError([Fault(path="a.b", message="is bad"), Fault(path="", message="is odd")], subject="spec 'x'")
    assert str(error) == "spec 'x' has 2 faults:\n  a.b: is bad\n  is odd"
    assert [fault.path for fault in error.faults] == ["a.b", ""]


def test_a_plugin_error_names_the_plugin_and_the_reason() -> None:
    assert str(PluginError("acme", "no such module")) == "provider 'acme' cannot be used: no such module"


def test_a_refusal_says_why_in_a_word() -> None:
    assert Refused("replayed", "the join token was used before").why == "replayed"
