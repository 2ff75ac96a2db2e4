"""Errors survive the wire: render and parse are twins."""

import json
from datetime import timedelta

import pytest

from anyscale_core import errors
from anyscale_core.api.problems import STATUS, ServerError, TooLarge, body_of, error_of, internal, problem_of
from anyscale_core.api.protocol import Problem
from anyscale_core.errors import CATEGORIES, CloudError, CoreError, Fault, SpecError
from anyscale_core.models import wire


def _through_the_wire(error: CoreError) -> CoreError:
    return error_of(wire.structure(json.loads(json.dumps(body_of(problem_of(error)))), Problem))


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.category)
def test_a_cloud_error_keeps_its_category_its_record_and_its_words(category: type[CloudError]) -> None:
    error = category(
        "no more cores", reason="CORES", applied=errors.Applied.UNKNOWN, scope=errors.Scope.ZONE,
        retry_after=timedelta(seconds=7), resource="vm-1", attempts=3, hint="ask for a larger quota",
        vendor=errors.Vendor(provider="aws", code="VcpuLimitExceeded", http_status=400, request_id="r-1"),
    )  # fmt: skip
    back = _through_the_wire(error)
    assert type(back) is category
    assert isinstance(back, CloudError)
    assert (back.record(), str(back)) == (error.record(), str(error))


@pytest.mark.parametrize(
    "error",
    [
        SpecError(
            [Fault(path="a.b[2]", message="is wrong"), Fault(path="", message="is empty")], subject="cluster 'x'"
        ),
        errors.UnknownName("no cluster 'x' (did you mean 'y'?)"),
        errors.NameTaken("'x' is alive"),
        errors.LeaseLost("another one works on it"),
        errors.PluginError("aws", "it is not installed"),
        errors.Refused("replayed", "the join token has been used already"),
        errors.QuotaExceeded("too many", metric="vcpus", limit=8.0, used=8.0),
        TooLarge("5 MB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_plane_keeps_its_class_and_its_words(error: CoreError) -> None:
    back = _through_the_wire(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {**vars(back), "args": ()} == {**vars(error), "args": ()}


def test_every_category_has_a_status_of_its_own_choice() -> None:
    assert set(CATEGORIES) <= set(STATUS)


def test_an_error_that_is_not_in_the_table_tells_nothing_of_itself() -> None:
    problem = problem_of(CoreError("the password is 123"))
    assert problem.status == 500
    assert "123" not in str(body_of(problem))
    assert isinstance(error_of(internal("err_1")), ServerError)
    assert "err_1" in str(error_of(internal("err_1")))
