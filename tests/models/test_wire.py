"""The wire: what goes out comes back equal, and everything wrong with a body is told at once, with its path."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anyscale_core.models
from anyscale_core.errors import CapacityUnavailable, CloudError, Fault, QuotaExceeded, Scope, SpecError, Vendor
from anyscale_core.models import wire
from anyscale_core.models.actions import Plan
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.cluster import ClusterSpec, HeadNode, MarketType, WorkerGroup
from anyscale_core.models.identity import Credentials
from anyscale_core.models.instance import NotCreated, Offering
from anyscale_core.models.job import JobSpec
from anyscale_core.models.node import HeadReport, NodeDrain, Orders, RayNode
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.selector import Selector, Term

NOT_FOR_THE_WIRE = {
    NotCreated: "an outcome travels with its error beside it; see drivers/speech.py",
    Selector: "its text travels",
    Term: "its text travels",
    Plan: "it is printed, never read back",
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DURATIONS = st.integers(0, 10**9).map(lambda ms: timedelta(milliseconds=ms))
INSTANTS = st.integers(0, 4 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))

st.register_type_strategy(float, FINITE)
st.register_type_strategy(timedelta, DURATIONS)
st.register_type_strategy(datetime, INSTANTS)
ERRORS = st.builds(
    CapacityUnavailable, st.text(max_size=5), reason=st.sampled_from(["ZONE", "SKU"]), scope=st.sampled_from(Scope),
    retry_after=st.none() | DURATIONS, vendor=st.none() | st.builds(Vendor, provider=st.text(max_size=3)),
) | st.builds(QuotaExceeded, st.text(max_size=5), metric=st.text(max_size=5), limit=st.none() | FINITE)  # fmt: skip
st.register_type_strategy(CloudError, ERRORS)
st.register_type_strategy(Secret, st.text(max_size=5).map(Secret))


def values() -> list[type]:
    """Every attrs class of the models."""
    found: list[type] = []
    for info in pkgutil.iter_modules(anyscale_core.models.__path__):
        module = importlib.import_module(f"anyscale_core.models.{info.name}")
        found += [
            cls
            for cls in vars(module).values()
            if inspect.isclass(cls) and attrs.has(cls) and cls.__module__ == module.__name__
        ]
    return [cls for cls in found if cls not in NOT_FOR_THE_WIRE]


def any_value(cls: type) -> st.SearchStrategy[Any]:
    """Values of a class; where a field holds Any, it holds JSON."""
    loose = {
        field.name: st.dictionaries(st.text(max_size=3), JSON, max_size=2)
        for field in attrs.fields(cls)
        if field.type == Mapping[str, Any]
    }
    deep = {
        field.name: st.dictionaries(st.text(max_size=3), st.dictionaries(st.text(max_size=3), JSON), max_size=2)
        for field in attrs.fields(cls)
        if field.type == Mapping[str, Mapping[str, Any]]
    }
    return st.builds(cls, **loose, **deep)


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
SPECS = st.builds(
    ClusterSpec,
    name=NAMES,
    cloud=NAMES,
    head_node=st.builds(HeadNode, instance_type=NAMES, labels=st.dictionaries(NAMES, NAMES, max_size=2)),
    worker_nodes=st.lists(
        st.builds(
            WorkerGroup,
            name=NAMES.filter(lambda name: name != "head"),
            required_resources=st.dictionaries(
                st.sampled_from(["CPU", "GPU", "custom"]), st.integers(1, 9).map(float), min_size=1
            ),
            min_nodes=st.integers(0, 3),
            max_nodes=st.integers(3, 9),
            market_type=st.sampled_from(MarketType),
            advanced_instance_config=st.dictionaries(NAMES, JSON, max_size=2),
        ),
        max_size=3,
        unique_by=lambda group: group.name,
    ).map(tuple),
    zones=st.none() | st.just(("a", "b")),
    max_resources=st.none() | st.just({"CPU": 9.0}),
    idle_termination_minutes=st.integers(0, 9).map(float),
    env_vars=st.dictionaries(NAMES, st.text(max_size=4), max_size=2),
)
"""Specs without contradictions, for only those can be read."""
st.register_type_strategy(ClusterSpec, SPECS)
QUOTAS = st.builds(
    QuotaSpec, name=NAMES, cloud=st.none() | NAMES, project=st.none() | NAMES, user=st.none() | st.just("alice@example.com"),
    nodes=st.integers(0, 1000), resources=st.just({}) | st.just({"CPU": 9.0}), price_per_hour=st.none() | st.floats(0, 1e6),
    budget=st.none() | st.floats(0, 1e6), warn_at=st.floats(0.01, 1),
)  # fmt: skip
st.register_type_strategy(QuotaSpec, QUOTAS)
CHECKED = {ClusterSpec: SPECS, QuotaSpec: QUOTAS}

for _cls in values():
    if _cls not in CHECKED and any("typing.Any" in str(field.type) for field in attrs.fields(_cls)):
        st.register_type_strategy(_cls, any_value(_cls))


@pytest.mark.parametrize("cls", values(), ids=lambda cls: cls.__name__)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_every_value_of_the_models_comes_back_equal_through_json(cls: type, data: st.DataObject) -> None:
    value = data.draw(CHECKED[cls] if cls in CHECKED else any_value(cls))
    body = json.loads(json.dumps(wire.unstructure_revealed(value)))
    assert wire.structure(body, cls) == value


def faults_of(body: object, cls: type) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        wire.structure(body, cls)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_there_are_values_of_every_module_under_test() -> None:
    assert len(values()) >= 60


def test_secrets_come_out_masked_unless_they_are_asked_for_in_clear() -> None:
    credentials = Credentials(values={"key": Secret("canary")}, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert wire.unstructure(credentials)["values"] == {"key": "***"}
    assert "canary" not in repr(credentials)
    assert wire.unstructure_revealed(credentials)["values"] == {"key": "canary"}


def test_a_secret_of_the_wrong_type_is_refused_without_showing_it() -> None:
    body = {"values": {"key": 123456}, "expires_at": "2026-01-01T00:00:00Z"}
    faults = faults_of(body, Credentials)
    assert list(faults) == ["values.key"]
    assert "123456" not in faults["values.key"]


def test_durations_travel_in_seconds_under_a_name_that_says_so() -> None:
    assert wire.unstructure(HeadReport(gcs_address="x", demand_age=timedelta(milliseconds=1500)))["demand_age_s"] == 1.5
    node = {
        "ray_id": "a", "instance_name": "b", "status": "IDLE", "idle_s": True, "total": {}, "available": {"CPU": "4"},
    }  # fmt: skip
    assert faults_of(node, RayNode) == {"idle_s": "True is not a number", "available.CPU": "'4' is not a number"}


def test_a_missing_duration_is_named_as_the_wire_names_it() -> None:
    node = {"ray_id": "a", "instance_name": "b", "status": "IDLE", "total": {}, "available": {}}
    assert faults_of(node, RayNode) == {"idle_s": "is required"}


@pytest.mark.parametrize("seconds", [1e300, -1e300, float("nan"), float("inf")])
def test_a_duration_that_no_clock_can_hold_is_a_fault_and_not_a_crash(seconds: float) -> None:
    node = {"ray_id": "a", "instance_name": "b", "status": "IDLE", "idle_s": seconds, "total": {}, "available": {}}
    assert list(faults_of(node, RayNode)) == ["idle_s"]


def test_an_instant_without_an_offset_is_refused() -> None:
    body = {"ray_id": "a", "mode": "idle", "deadline": "2026-01-01T00:00:00", "reason": ""}
    assert faults_of(body, NodeDrain) == {"deadline": "'2026-01-01T00:00:00' has no offset; write it in UTC with a Z"}


@pytest.mark.parametrize("value", [None, 7, "soon", [], "2026-13-01T00:00:00Z"])
def test_what_is_not_an_instant_is_refused(value: object) -> None:
    body = {"ray_id": "a", "mode": "idle", "deadline": value, "reason": ""}
    assert list(faults_of(body, NodeDrain)) == ["deadline"]


def test_instants_with_another_offset_come_out_the_same_moment() -> None:
    body = {"ray_id": "a", "mode": "idle", "deadline": "2026-01-01T02:00:00+02:00", "reason": ""}
    assert wire.structure(body, NodeDrain).deadline == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("body", [None, 3, "x", [], True])
def test_a_body_that_is_no_object_is_one_fault_at_the_root(body: object) -> None:
    faults = faults_of(body, JobSpec)
    assert list(faults) == [""]
    assert "is not an object" in faults[""]


def test_nothing_is_coerced() -> None:
    body = {"entrypoint": 3, "max_retries": "3", "env_vars": {"A": 1}, "after": "KEEP"}
    assert faults_of(body, JobSpec) == {
        "entrypoint": "3 is not a string",
        "max_retries": "'3' is not a whole number",
        "env_vars.A": "1 is not a string",
        "after": "'KEEP' is not one of keep, terminate (did you mean 'keep'?)",
    }
    assert faults_of({"entrypoint": "x", "max_retries": True}, JobSpec) == {"max_retries": "True is not a whole number"}
    assert faults_of({"entrypoint": "x", "max_retries": 3.0}, JobSpec) == {"max_retries": "3.0 is not a whole number"}


@pytest.mark.parametrize("value", [[], {}, ["keep"], {"a": 1}])
def test_an_enum_that_is_given_a_container_is_a_fault_and_not_a_crash(value: object) -> None:
    assert list(faults_of({"entrypoint": "x", "after": value}, JobSpec)) == ["after"]


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    faults = faults_of({"entrypoint": "x", "max_retires": 3}, JobSpec)
    assert faults == {"max_retires": "unknown field (did you mean 'max_retries'?)"}


def test_faults_deep_inside_have_their_whole_path() -> None:
    body = {"jobs": [{"job_id": "j", "submission_id": "s"}, {"job_id": 1, "submission_id": "s", "entrypoint": "x"}]}
    assert faults_of(body, Orders) == {"jobs[0].entrypoint": "is required", "jobs[1].job_id": "1 is not a string"}


def test_a_key_that_is_missing_in_a_mapping_of_the_providers_own_is_not_ours_to_judge() -> None:
    spec = wire.structure({"name": "a", "provider": "aws", "settings": {"aws": {"deep": [1, {"x": None}]}}}, CloudSpec)
    assert spec.settings == {"aws": {"deep": [1, {"x": None}]}}


def test_a_value_holds_no_part_of_the_body_that_it_was_made_from() -> None:
    deep = {"role": ["x"]}
    spec = wire.structure({"name": "a", "provider": "aws", "settings": {"aws": deep}}, CloudSpec)
    deep["role"].append("changed")
    assert spec.settings == {"aws": {"role": ["x"]}}


def test_a_fault_is_told_once_and_as_a_sentence() -> None:
    body = {"instance_type": "a", "zone": "b", "market_type": "SPOT", "resources": {}}
    with pytest.raises(SpecError, match=r"offer has 1 fault:\n  price_per_hour: is required"):
        wire.structure(body, Offering, subject="offer")
    assert str(Fault(path="", message="x")) == "x"
