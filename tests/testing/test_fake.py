"""The fake provider, its clock and its faults: what every test that stands on them relies on."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from anyscale_core.errors import (
    Applied,
    DeadlineExceeded,
    PermissionDenied,
    Throttled,
    Transient,
)
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeCloud, FakeProvider, ManualClock
from tests.testing.rig import OURS, SECOND, Rig

# Clock -----------------------------------------------------------------------------------------------------------


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(datetime(2026, 1, 1, 2, tzinfo=timezone(2 * timedelta(hours=1))))
    assert clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    assert clock.advance(SECOND) == clock.now() == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_a_manual_clock_neither_runs_backwards_nor_without_a_time_zone() -> None:
    with pytest.raises(ValueError, match="cannot advance"):
        ManualClock().advance(-SECOND)
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001


def test_waiting_by_a_manual_clock_takes_no_time() -> None:
    event = threading.Event()
    assert ManualClock().wait(event, timedelta(days=1)) is False
    event.set()
    assert ManualClock().wait(event, timedelta(days=1)) is True


# Provider --------------------------------------------------------------------------------------------------------


def test_the_registry_finds_nothing_wrong_with_it() -> None:
    (found,) = Registry.of(FakeProvider(FakeCloud()).provider()).found()
    assert found.broken == ""
    assert found.provider is not None
    assert found.provider.default_cloud is not None
    assert found.provider.default_cloud.name == "fake"


def test_its_declared_window_is_the_clouds() -> None:
    provider = FakeProvider(FakeCloud(list_window=7 * SECOND)).provider()
    assert provider.capabilities.windows["consistency.list"] == 7 * SECOND


# Faults and journal ----------------------------------------------------------------------------------------------


def test_every_call_is_in_the_journal_with_its_names_token_and_outcome(rig: Rig) -> None:
    instance = rig.launch("w")
    rig.list()
    rig.cloud.refuse("delete", Transient("500", reason="SERVER"))
    with pytest.raises(Transient):
        rig.delete(instance.id)
    assert [(call.action, call.names, call.token, call.outcome, call.applied) for call in rig.cloud.calls] == [
        ("cluster.create", ("w",), "tok_w", "ok", Applied.YES),
        ("cluster.list", (), None, "ok", Applied.YES),
        ("cluster.delete", (instance.id,), None, "Transient", Applied.NO),
    ]
    assert [call.position for call in rig.cloud.calls] == [0, 1, 2]


def test_a_refused_call_does_nothing_and_the_rule_counts(rig: Rig) -> None:
    rule = rig.cloud.refuse("cluster.create", Transient("500"), count=2)
    for _ in range(2):
        with pytest.raises(Transient):
            rig.launch("w")
    assert rig.cloud.inventory() == ()
    rig.launch("w")
    assert rule.fired == 2
    assert rule.spent


def test_a_lost_answer_comes_after_the_deed(rig: Rig) -> None:
    rule = rig.cloud.lose_response("cluster.create", nth=2)
    rig.launch("w-1")
    with pytest.raises(DeadlineExceeded) as caught:
        rig.launch("w-2")
    assert (caught.value.applied, caught.value.reason) == (Applied.UNKNOWN, "REQUEST")
    assert rule.fired == 1
    assert [item.name for item in rig.cloud.inventory("instance")] == ["w-1", "w-2"]
    assert (rig.cloud.calls[-1].outcome, rig.cloud.calls[-1].applied) == ("DeadlineExceeded", Applied.YES)


def test_throttling_says_when_to_come_back(rig: Rig) -> None:
    rig.cloud.throttle(1, retry_after=5 * SECOND)
    with pytest.raises(Throttled) as caught:
        rig.list()
    assert caught.value.retry_after == 5 * SECOND
    assert rig.list() == {}


def test_a_forbidden_verb_is_denied_by_name_until_it_is_allowed(rig: Rig) -> None:
    rig.cloud.forbid("cluster.create")
    with pytest.raises(PermissionDenied, match=r"grant fake:cluster\.create"):
        rig.launch("w")
    rig.list()
    rig.cloud.allow("cluster.create")
    rig.launch("w")


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_a_process_can_be_made_to_crash_on_either_side_of_the_deed(rig: Rig, when: str, made: int) -> None:
    class Crash(BaseException):
        pass

    def crash() -> None:
        raise Crash

    getattr(rig.cloud, when)("cluster.create", crash)
    with pytest.raises(Crash):
        rig.launch("w")
    assert len(rig.cloud.inventory("instance")) == made
    assert rig.cloud.calls[-1].outcome == "crash:Crash"


def test_a_hook_may_use_the_cloud(rig: Rig) -> None:
    rig.launch("w")
    rig.cloud.before("list", lambda: rig.cloud.preempt("w"))
    assert rig.list() == {}


def test_a_fault_that_never_struck_can_be_found_and_one_that_never_could_is_refused(rig: Rig) -> None:
    rule = rig.cloud.refuse("networking.expose", Transient("x"))
    assert rig.cloud.unfired() == (rule,)
    rule.lift()
    assert rig.cloud.unfired() == ()
    with pytest.raises(ValueError, match=r"cluster\.create"):
        rig.cloud.refuse("cluster.creat", Transient("x"))


def test_a_call_after_its_deadline_never_reaches_the_wire(rig: Rig) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        rig.cluster.list(OURS, deadline=rig.clock.now())
    assert caught.value.applied is Applied.NO
    assert rig.cloud.calls == []
