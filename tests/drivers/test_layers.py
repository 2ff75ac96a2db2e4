"""Layers: what goes through them, what is refused, traced and recorded, and that no driver can tell."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from anyscale_core.drivers.base import Driver
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.layers import (
    Call,
    DeadlineLayer,
    Layer,
    Next,
    Record,
    RetryLayer,
    Trace,
    WireAction,
    layered,
    standard,
)
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import (
    Applied,
    DeadlineExceeded,
    InvalidRequest,
    Throttled,
    Transient,
    Unclassified,
)
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Instance
from anyscale_core.testing import builders as build
from tests.drivers.rig import OWNER, SECOND, TOKEN, Rig

# The proxy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", [ClusterDriver, IdentityDriver, StorageDriver, NetworkingDriver])
def test_a_layered_driver_is_still_a_driver_of_its_interface(world: Rig, interface: type[Driver]) -> None:
    driver = layered(world.drivers[interface.slot])
    assert isinstance(driver, interface)
    assert (driver.provider, driver.slot) == ("fake", interface.slot)
    assert type(driver).__abstractmethods__ == frozenset()  # type: ignore[attr-defined]


def test_every_method_of_every_interface_goes_through_the_layers_but_the_offline_ones(world: Rig) -> None:
    seen: list[str] = []

    def refuse(call: Call, next: Next, /) -> Any:
        seen.append(call.action)
        raise InvalidRequest("not today")

    expected = []
    for interface in (ClusterDriver, IdentityDriver, StorageDriver, NetworkingDriver):
        wrapped = layered(world.drivers[interface.slot], refuse)
        for verb in sorted(interface.__abstractmethods__ - {"permissions", "objects"}):
            expected.append(f"{interface.slot}.{verb}")
            with pytest.raises(InvalidRequest):
                getattr(wrapped, verb)()
    assert seen == expected
    assert len(seen) == 27


def test_offline_methods_pass_no_layer_and_make_no_call(world: Rig) -> None:
    def refuse(call: Call, next: Next, /) -> Any:
        raise AssertionError(call.action)

    identity = world.drivers["identity"]
    assert isinstance(identity, IdentityDriver)
    assert layered(identity, refuse).permissions(["cluster.create"])[0].action == "fake:cluster.create"
    layered(identity, refuse).close()
    assert world.cloud.calls == []


def test_the_first_layer_is_the_outermost(world: Rig) -> None:
    order: list[str] = []

    def named(name: str) -> Layer:
        def layer(call: Call, next: Next, /) -> Any:
            order.append(f"{name} in")
            try:
                return next(call)
            finally:
                order.append(f"{name} out")

        return layer

    world.cluster(named("a"), named("b")).list(OWNER, deadline=world.deadline())
    assert order == ["a in", "b in", "b out", "a out"]


def test_layers_change_no_answer(world: Rig) -> None:
    driver = world.cluster(*standard(world.clock, world.sleep))
    (outcome,) = driver.create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert isinstance(outcome, Created)
    assert driver.list(OWNER, deadline=world.deadline()) == (outcome.instance,)
    assert driver.get(outcome.instance.id, owner=OWNER, deadline=world.deadline()) == outcome.instance
    assert world.naps == []


def test_a_plugins_own_exception_becomes_unclassified_with_the_original_as_its_cause(world: Rig) -> None:
    bug = KeyError("secret-canary")
    world.cloud.refuse("cluster.create", bug)
    driver = world.cluster(*standard(world.clock, world.sleep))
    with pytest.raises(Unclassified, match=r"KeyError escaped from cluster\.create") as caught:
        driver.create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.applied is Applied.UNKNOWN
    assert "secret-canary" not in str(caught.value)
    assert len(world.cloud.calls) == 1


def test_a_crash_of_the_process_passes_through_untouched(world: Rig) -> None:
    def crash() -> None:
        raise SystemExit(9)

    world.cloud.after("cluster.create", crash)
    with pytest.raises(SystemExit):
        world.cluster(*standard(world.clock, world.sleep)).create(
            [build.an_instance_spec()], token=TOKEN, deadline=world.deadline()
        )
    assert len(world.cloud.inventory("instance")) == 1


def test_what_is_no_driver_is_not_wrapped() -> None:
    with pytest.raises(TypeError, match="implements none of the driver interfaces"):
        layered(Driver())


def test_a_call_shows_none_of_what_it_carries(world: Rig) -> None:
    shown: list[str] = []

    def look(call: Call, next: Next, /) -> Any:
        shown.append(repr(call))
        return next(call)

    world.cluster(look).list(build.owner(plane="pln_canary"), deadline=world.deadline())
    assert "cluster" in shown[0]
    assert "canary" not in shown[0]


def test_a_third_partys_driver_is_wrapped_without_being_known(world: Rig) -> None:
    class Theirs(ClusterDriver):
        provider = "acme"

        def create(self, specs: Any, *, token: Token, deadline: datetime) -> Any:
            return "made"

        def get(self, id: InstanceId, *, owner: Any, deadline: datetime) -> Instance:
            raise ZeroDivisionError

        def list(self, owner: Any, *, deadline: datetime) -> Any:
            return ()

        def delete(self, ids: Any, *, owner: Any, deadline: datetime) -> Any:
            return {}

        def offerings(self, *, deadline: datetime) -> Any:
            return ()

        def quotas(self, *, deadline: datetime) -> Any:
            return ()

    driver = layered(Theirs(), *standard(world.clock, world.sleep))
    assert driver.create([], token=TOKEN, deadline=world.deadline()) == "made"
    with pytest.raises(Unclassified, match="'acme'") as caught:
        driver.get(InstanceId("i"), owner=OWNER, deadline=world.deadline())
    assert caught.value.applied is Applied.NO


# Deadline ----------------------------------------------------------------------------------------------------------


def test_a_call_whose_deadline_has_passed_is_never_made(world: Rig) -> None:
    driver = world.cluster(DeadlineLayer(world.clock))
    with pytest.raises(DeadlineExceeded) as caught:
        driver.create([build.an_instance_spec()], token=TOKEN, deadline=world.clock.now())
    assert caught.value.applied is Applied.NO
    assert caught.value.attempts == 0
    assert world.cloud.calls == []


def test_a_budget_shortens_the_callers_deadline_and_never_lengthens_it(world: Rig) -> None:
    seen: list[datetime | None] = []

    def look(call: Call, next: Next, /) -> Any:
        seen.append(call.deadline)
        return next(call)

    driver = world.cluster(DeadlineLayer(world.clock, {"list": 5 * SECOND}), look)
    driver.list(OWNER, deadline=world.deadline(60 * SECOND))
    driver.list(OWNER, deadline=world.deadline(2 * SECOND))
    driver.offerings(deadline=world.deadline(60 * SECOND))
    now = world.clock.now()
    assert seen == [now + 5 * SECOND, now + 2 * SECOND, now + 60 * SECOND]


def test_a_call_that_came_back_late_is_logged_once(world: Rig, caplog: pytest.LogCaptureFixture) -> None:
    world.cloud.before("list", lambda: world.clock.advance(3 * SECOND))
    driver = world.cluster(DeadlineLayer(world.clock))
    with caplog.at_level(logging.DEBUG):
        driver.list(OWNER, deadline=world.deadline(SECOND))
        driver.list(OWNER, deadline=world.deadline(SECOND))
    assert [record.getMessage() for record in caplog.records] == [
        "cluster.list of provider 'fake' ended 2.000 s after its deadline"
    ]


# Trace and record --------------------------------------------------------------------------------------------------


class Tracer:
    """Stands where OpenTelemetry's tracer does and keeps what it was told."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    @contextmanager
    def start_as_current_span(self, name: str, **options: Any) -> Iterator[Any]:
        span = {"name": name, **options["attributes"]}
        self.spans.append(span)
        assert options["record_exception"] is False

        class Span:
            def set_attribute(self, key: str, value: object) -> None:
                span[key] = value

        yield Span()


def test_each_attempt_is_a_span_with_its_outcome_and_without_arguments(world: Rig) -> None:
    tracer = Tracer()
    world.cloud.refuse("list", Transient("500"))
    world.cluster(RetryLayer(world.clock, world.sleep), Trace(tracer)).list(
        build.owner(plane="pln_canary"), deadline=world.deadline()
    )
    assert [
        (span["name"], span["anyscale_core.attempt"], span["anyscale_core.outcome"], span["anyscale_core.cloud"])
        for span in tracer.spans
    ] == [("cluster.list", 1, "Transient", "prod"), ("cluster.list", 2, "ok", "prod")]
    assert "canary" not in str(tracer.spans)


def test_without_a_tracer_of_its_own_a_trace_lets_calls_through(world: Rig) -> None:
    assert world.cluster(Trace()).list(OWNER, deadline=world.deadline()) == ()


def test_each_attempt_is_recorded_with_its_token_outcome_and_duration(world: Rig) -> None:
    actions: list[WireAction] = []
    world.cloud.refuse("create", Throttled("x"))
    world.cloud.before("create", lambda: world.clock.advance(2 * SECOND))
    driver = world.cluster(*standard(world.clock, world.sleep, Record(world.clock, actions.append)))
    driver.create([build.an_instance_spec()], token=TOKEN, deadline=world.deadline())
    assert [(a.name, a.token, a.attempt, a.outcome, a.category, a.duration) for a in actions] == [
        ("cluster.create", TOKEN, 1, "error", "Throttled", timedelta()),
        ("cluster.create", TOKEN, 2, "ok", "", 2 * SECOND),
    ]
    assert actions[1].at > actions[0].at


def test_a_crash_is_recorded_too(world: Rig) -> None:
    def crash() -> None:
        raise SystemExit

    actions: list[WireAction] = []
    world.cloud.before("list", crash)
    with pytest.raises(SystemExit):
        world.cluster(Record(world.clock, actions.append)).list(OWNER, deadline=world.deadline())
    assert [action.outcome for action in actions] == ["crash"]
