"""The retry and rate-limit layers: what is repeated, when, how often, and what is held back."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.layers import (
    RateLimit,
    RetryLayer,
    layered,
)
from anyscale_core.errors import (
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
)
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import Created
from anyscale_core.testing import builders as build
from tests.drivers.rig import OWNER, SECOND, TOKEN, Rig

# Retry -------------------------------------------------------------------------------------------------------------


def retrying(world: Rig, chance: Callable[[], float] = lambda: 1.0, **options: Any) -> ClusterDriver:
    return world.cluster(RetryLayer(world.clock, world.sleep, chance=chance, **options))


@pytest.mark.parametrize("error", [Throttled("slow down", reason="RATE"), Transient("500", reason="SERVER")])
def test_a_read_is_repeated_after_what_passes(world: Rig, error: CloudError) -> None:
    rule = world.cloud.refuse("list", error, count=2)
    assert retrying(world).list(OWNER, deadline=world.deadline()) == ()
    assert rule.fired == 2
    assert [call.outcome for call in world.cloud.calls] == [error.category, error.category, "ok"]


NEVER_REPEATED = [
    InvalidRequest("x"),
    Unauthenticated("x"),
    PermissionDenied("x"),
    CapacityUnavailable("x"),
    QuotaExceeded("x"),
    Unclassified("x"),
    Conflict("x", reason="IN_USE"),
    # A plugin that marks these as passing is wrong; they are still not repeated.
    Unclassified("x", retry=Retry.SAME),
    CapacityUnavailable("x", retry=Retry.SAME),
    QuotaExceeded("x", retry=Retry.WITH_TOKEN),
    PermissionDenied("x", retry=Retry.SAME),
]


@pytest.mark.parametrize("error", NEVER_REPEATED, ids=lambda e: f"{e.category}-{e.retry.value}")
def test_what_does_not_pass_by_itself_is_tried_once(world: Rig, error: CloudError) -> None:
    world.cloud.refuse("*", error, count=None)
    with pytest.raises(type(error)) as caught:
        retrying(world).create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert (len(world.cloud.calls), caught.value.attempts, world.naps) == (1, 1, [])


def test_a_write_with_a_token_whose_answer_was_lost_is_repeated_and_makes_one_thing(world: Rig) -> None:
    rule = world.cloud.lose_response("cluster.create")
    (outcome,) = retrying(world).create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert isinstance(outcome, Created)
    assert rule.fired == 1
    assert [call.token for call in world.cloud.calls] == [TOKEN, TOKEN]
    assert len(world.cloud.inventory("instance")) == 1


@pytest.mark.parametrize("reason", ["BUSY", "ETAG", "BEING_DELETED"])
def test_a_write_with_a_token_is_repeated_after_a_conflict_that_passes(world: Rig, reason: str) -> None:
    world.cloud.refuse("cluster.create", Conflict("x", reason=reason))
    (outcome,) = retrying(world).create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert isinstance(outcome, Created)


@pytest.mark.parametrize("error", [Throttled("x"), Transient("x"), DeadlineExceeded("x")], ids=lambda e: e.category)
def test_a_write_without_a_token_is_never_repeated(world: Rig, error: CloudError) -> None:
    world.cloud.refuse("delete", error, count=None)
    with pytest.raises(type(error)):
        retrying(world).delete([InstanceId("i-1")], owner=OWNER, deadline=world.deadline())
    assert len(world.cloud.calls) == 1


def test_attempts_are_bounded_and_counted_on_the_wire(world: Rig) -> None:
    world.cloud.refuse("list", Transient("500"), count=None)
    with pytest.raises(Transient) as caught:
        retrying(world, attempts=5).list(OWNER, deadline=world.deadline())
    assert len(world.cloud.calls) == 5
    assert caught.value.attempts == 5


def test_waits_grow_and_stop_growing_at_the_ceiling(world: Rig) -> None:
    world.cloud.refuse("list", Transient("500"), count=None)
    with pytest.raises(Transient):
        retrying(world, attempts=6, first=SECOND, ceiling=5 * SECOND).list(OWNER, deadline=world.deadline())
    assert world.naps == [SECOND, 2 * SECOND, 4 * SECOND, 5 * SECOND, 5 * SECOND]


def test_waits_lie_between_a_half_and_the_whole_by_chance(world: Rig) -> None:
    world.cloud.refuse("list", Transient("500"), count=None)
    chances = iter([0.0, 0.5, 1.0])
    with pytest.raises(Transient):
        retrying(world, lambda: next(chances), first=SECOND).list(OWNER, deadline=world.deadline())
    assert world.naps == [0.5 * SECOND, 1.5 * SECOND, 4 * SECOND]


def test_retry_after_is_a_lower_bound(world: Rig) -> None:
    world.cloud.throttle(2, retry_after=7 * SECOND)
    retrying(world).list(OWNER, deadline=world.deadline())
    assert world.naps == [7 * SECOND, 7 * SECOND]


def test_no_attempt_begins_at_or_after_the_deadline(world: Rig) -> None:
    world.cloud.throttle(None, retry_after=4 * SECOND)
    start, deadline = world.clock.now(), world.deadline(8 * SECOND)
    with pytest.raises(Throttled) as caught:
        retrying(world, attempts=99).list(OWNER, deadline=deadline)
    assert [call.at - start for call in world.cloud.calls] == [timedelta(), 4 * SECOND]
    assert caught.value.attempts == 2
    assert world.clock.now() < deadline


# Rate limit --------------------------------------------------------------------------------------------------------


def test_a_burst_goes_at_once_and_the_rest_at_the_rate(world: Rig) -> None:
    driver = world.cluster(RateLimit(world.clock, world.sleep, rate=2.0, burst=3))
    start = world.clock.now()
    for _ in range(6):
        driver.list(OWNER, deadline=world.deadline())
    at = [(call.at - start).total_seconds() for call in world.cloud.calls]
    assert at == [0, 0, 0, 0.5, 1.0, 1.5]


def test_idle_time_fills_the_bucket_to_its_burst_and_no_further(world: Rig) -> None:
    driver = world.cluster(RateLimit(world.clock, world.sleep, rate=1.0, burst=2))
    world.clock.advance(timedelta(hours=1))
    for _ in range(3):
        driver.list(OWNER, deadline=world.deadline())
    assert world.naps == [SECOND]


def test_a_turn_that_would_come_after_the_deadline_is_refused_without_a_call(world: Rig) -> None:
    driver = world.cluster(RateLimit(world.clock, world.sleep, rate=0.1, burst=1))
    driver.list(OWNER, deadline=world.deadline())
    with pytest.raises(Throttled) as caught:
        driver.list(OWNER, deadline=world.deadline(5 * SECOND))
    assert caught.value.applied is Applied.NO
    assert caught.value.retry_after == 10 * SECOND
    assert (len(world.cloud.calls), caught.value.attempts, world.naps) == (1, 0, [])
    driver.list(OWNER, deadline=world.deadline(20 * SECOND))
    assert world.naps == [10 * SECOND]


def test_a_throttled_scope_is_closed_for_as_long_as_the_cloud_says(world: Rig) -> None:
    driver = world.cluster(RateLimit(world.clock, world.sleep))
    world.cloud.throttle(1, retry_after=9 * SECOND)
    with pytest.raises(Throttled):
        driver.list(OWNER, deadline=world.deadline())
    with pytest.raises(Throttled) as caught:
        driver.list(OWNER, deadline=world.deadline(3 * SECOND))
    assert caught.value.retry_after == 9 * SECOND
    assert len(world.cloud.calls) == 1
    driver.list(OWNER, deadline=world.deadline())
    assert world.naps == [9 * SECOND]


def test_a_call_that_waits_for_its_turn_also_waits_for_a_gate_that_closed_meanwhile(world: Rig) -> None:
    slept: list[timedelta] = []

    def sleep(duration: timedelta) -> None:
        world.clock.advance(duration)
        slept.append(duration)
        if len(slept) == 1:
            with pytest.raises(Throttled):
                driver.list(OWNER, deadline=world.deadline())

    driver = world.cluster(RateLimit(world.clock, sleep, rate=1.0, burst=1))
    driver.list(OWNER, deadline=world.deadline())
    start = world.clock.now()
    world.cloud.throttle(1, retry_after=10 * SECOND)
    driver.list(OWNER, deadline=world.deadline())
    assert [call.outcome for call in world.cloud.calls] == ["ok", "Throttled", "ok"]
    assert [call.at - start for call in world.cloud.calls[1:]] == [2 * SECOND, 12 * SECOND]


def test_a_throttle_in_one_scope_does_not_stall_another(world: Rig) -> None:
    limit = RateLimit(world.clock, world.sleep)
    prod = world.cluster(limit)
    other = layered(world.drivers["cluster"], limit, cloud="other")
    assert isinstance(other, ClusterDriver)
    world.cloud.throttle(1, retry_after=timedelta(hours=1))
    with pytest.raises(Throttled):
        prod.list(OWNER, deadline=world.deadline())
    other.list(OWNER, deadline=world.deadline())
    prod.create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert world.naps == []


def test_threads_share_one_bucket(world: Rig) -> None:
    driver = world.cluster(RateLimit(world.clock, world.sleep, rate=1.0, burst=8))
    deadline = world.deadline(SECOND / 2)
    refused: list[Throttled] = []

    def call() -> None:
        try:
            driver.list(OWNER, deadline=deadline)
        except Throttled as error:
            refused.append(error)

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(world.cloud.calls), len(refused)) == (8, 12)


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_limit_that_lets_nothing_through_is_refused(world: Rig, rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="would let nothing through"):
        RateLimit(world.clock, world.sleep, rate=rate, burst=burst)


def test_a_local_refusal_is_not_counted_as_a_call_on_the_wire(world: Rig) -> None:
    driver = world.cluster(
        RetryLayer(world.clock, world.sleep), RateLimit(world.clock, world.sleep, rate=0.001, burst=1)
    )
    world.cloud.refuse("list", Transient("500"))
    with pytest.raises(Throttled) as caught:
        driver.list(OWNER, deadline=world.deadline())
    assert caught.value.attempts == len(world.cloud.calls) == 1
