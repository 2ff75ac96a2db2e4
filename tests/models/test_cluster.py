"""Specs: every fault of a bad one is told at once, each with its path, and nothing else is."""

import copy
from typing import Any

import pytest

from anyscale_core.errors import SpecError
from anyscale_core.models import wire
from anyscale_core.models.cluster import NAME, ClusterSpec, HeadRecovery, MarketType

GOOD: dict[str, Any] = {
    "name": "demo",
    "cloud": "fake",
    "head_node": {"instance_type": "cpu-4"},
    "worker_nodes": [
        {"name": "small", "instance_type": "cpu-4", "min_nodes": 1, "max_nodes": 4},
        {"name": "gpu", "required_resources": {"GPU": 1}, "market_type": "PREFER_SPOT"},
    ],
    "zones": ["zone-a", "zone-b"],
}

REMOVE = object()


def bad(changes: dict[str, Any]) -> dict[str, Any]:
    """A good spec with these changes; a key is a path of names and numbers, such as ``worker_nodes.0.min_nodes``."""
    body = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        target: Any = body
        for part in way:
            target = target[part]
        if value is REMOVE:
            del target[last]
        else:
            target[last] = value
    return body


# changes to the good spec -> path: a part of the message, for every fault that there must be
BAD: list[tuple[dict[str, Any], dict[str, str]]] = [
    # names
    ({"name": REMOVE}, {"name": "is required"}),
    ({"cloud": REMOVE}, {"cloud": "is required"}),
    ({"name": ""}, {"name": "is not a name"}),
    ({"name": "Demo"}, {"name": "'Demo' is not a name"}),
    ({"name": "1demo"}, {"name": "a letter first"}),
    ({"name": "demo-"}, {"name": "no '-' at the end"}),
    ({"name": "a" * 64}, {"name": "up to 63"}),
    ({"name": "démo"}, {"name": "is not a name"}),
    ({"name": "demo\n"}, {"name": "is not a name"}),
    ({"name": 7}, {"name": "7 is not a string"}),
    ({"name": None}, {"name": "null is not a string"}),
    ({"cloud": "my cloud"}, {"cloud": "is not a name"}),
    ({"cloud": ["fake"]}, {"cloud": "a list is not a string"}),
    # unknown fields
    ({"worker_groups": []}, {"worker_groups": "unknown field"}),
    ({"wroker_nodes": []}, {"wroker_nodes": "did you mean 'worker_nodes'?"}),
    ({"head_node.instancetype": "x"}, {"head_node.instancetype": "did you mean 'instance_type'?"}),
    ({"worker_nodes.1.max_node": 3}, {"worker_nodes[1].max_node": "did you mean 'max_nodes'?"}),
    ({"head_node.min_nodes": 1}, {"head_node.min_nodes": "unknown field"}),
    # shapes
    ({"head_node": REMOVE}, {"head_node": "is required"}),
    ({"head_node": None}, {"head_node": "null is not an object"}),
    ({"head_node": "cpu-4"}, {"head_node": "'cpu-4' is not an object"}),
    ({"head_node": {}}, {"head_node": "needs instance_type or required_resources"}),
    ({"head_node.instance_type": None}, {"head_node": "needs instance_type or required_resources"}),
    ({"head_node.required_resources": {"CPU": 4}}, {"head_node": "keep one of them"}),
    ({"worker_nodes.0.instance_type": REMOVE}, {"worker_nodes[0]": "needs instance_type or required_resources"}),
    ({"worker_nodes.1.instance_type": "cpu-4"}, {"worker_nodes[1]": "has both instance_type and required_resources"}),
    ({"head_node.instance_type": 4}, {"head_node.instance_type": "4 is not a string"}),
    ({"head_node.labels": {"a": 1}}, {"head_node.labels.a": "1 is not a string"}),
    ({"head_node.labels": []}, {"head_node.labels": "a list is not an object"}),
    ({"head_node.advanced_instance_config": "x"}, {"head_node.advanced_instance_config": "is not an object"}),
    # resources
    ({"worker_nodes.1.required_resources.GPU": -1}, {"worker_nodes[1].required_resources.GPU": "-1 is negative"}),
    ({"worker_nodes.1.required_resources.GPU": "1"}, {"worker_nodes[1].required_resources.GPU": "is not a number"}),
    ({"worker_nodes.1.required_resources.GPU": True}, {"worker_nodes[1].required_resources.GPU": "is not a number"}),
    (
        {"worker_nodes.1.required_resources": {"gpu": 1}},
        {"worker_nodes[1].required_resources.gpu": "Ray writes it 'GPU'"},
    ),
    ({"head_node.resources": {"cpu": 0}}, {"head_node.resources.cpu": "Ray writes it 'CPU'"}),
    ({"head_node.resources": {"Memory": 1}}, {"head_node.resources.Memory": "Ray writes it 'memory'"}),
    ({"head_node.resources": {"CPU": float("nan")}}, {"head_node.resources.CPU": "is not a number"}),
    ({"head_node.resources": {"CPU": float("inf")}}, {"head_node.resources.CPU": "is not a number"}),
    # worker groups
    ({"worker_nodes": {}}, {"worker_nodes": "an object is not a list"}),
    ({"worker_nodes": None}, {"worker_nodes": "null is not a list"}),
    ({"worker_nodes.0": "small"}, {"worker_nodes[0]": "'small' is not an object"}),
    ({"worker_nodes.0.name": REMOVE}, {"worker_nodes[0].name": "is required"}),
    ({"worker_nodes.0.name": "head"}, {"worker_nodes[0].name": "choose another name"}),
    ({"worker_nodes.1.name": "small"}, {"worker_nodes[1].name": "also the name of worker_nodes[0]"}),
    ({"worker_nodes.0.name": "Big One"}, {"worker_nodes[0].name": "is not a name"}),
    ({"worker_nodes.0.min_nodes": 5}, {"worker_nodes[0].max_nodes": "4 is below min_nodes 5"}),
    ({"worker_nodes.1.min_nodes": 11}, {"worker_nodes[1].max_nodes": "10 is below min_nodes 11"}),
    ({"worker_nodes.0.min_nodes": -1}, {"worker_nodes[0].min_nodes": "-1 is negative"}),
    ({"worker_nodes.0.max_nodes": -1}, {"worker_nodes[0].max_nodes": "-1 is negative"}),
    ({"worker_nodes.0.max_nodes": 0}, {"worker_nodes[0].max_nodes": "leave the group out"}),
    ({"worker_nodes.0.min_nodes": "1"}, {"worker_nodes[0].min_nodes": "'1' is not a whole number"}),
    ({"worker_nodes.0.min_nodes": 1.5}, {"worker_nodes[0].min_nodes": "1.5 is not a whole number"}),
    ({"worker_nodes.0.max_nodes": None}, {"worker_nodes[0].max_nodes": "null is not a whole number"}),
    ({"worker_nodes.0.max_nodes": True}, {"worker_nodes[0].max_nodes": "True is not a whole number"}),
    ({"worker_nodes.1.market_type": "spot"}, {"worker_nodes[1].market_type": "did you mean 'SPOT'?"}),
    ({"worker_nodes.1.market_type": "CHEAP"}, {"worker_nodes[1].market_type": "ON_DEMAND, SPOT, PREFER_SPOT"}),
    # zones
    ({"zones": []}, {"zones": "leave it out to let the cloud decide"}),
    ({"zones": ["zone-a", "zone-a"]}, {"zones": "names 'zone-a' more than once"}),
    ({"zones": "zone-a"}, {"zones": "'zone-a' is not a list"}),
    ({"zones": ["zone-a", 2]}, {"zones[1]": "2 is not a string"}),
    ({"enable_cross_zone_scaling": 1}, {"enable_cross_zone_scaling": "1 is not true or false"}),
    # bounds
    (
        {"min_resources": {"CPU": 8}, "max_resources": {"CPU": 4}},
        {"max_resources.CPU": "4 is below min_resources.CPU 8"},
    ),
    ({"max_resources": {"CPU": -4}}, {"max_resources.CPU": "-4 is negative"}),
    ({"min_resources": {"gpu": 1}}, {"min_resources.gpu": "Ray writes it 'GPU'"}),
    ({"max_price_per_hour": -0.5}, {"max_price_per_hour": "leave it out for no ceiling"}),
    ({"max_price_per_hour": "1 USD"}, {"max_price_per_hour": "'1 USD' is not a number"}),
    ({"idle_termination_minutes": -1}, {"idle_termination_minutes": "0 switches it off"}),
    ({"max_uptime_minutes": -1}, {"max_uptime_minutes": "0 switches it off"}),
    ({"idle_worker_seconds": -0.1}, {"idle_worker_seconds": "0 switches it off"}),
    ({"idle_termination_minutes": None}, {"idle_termination_minutes": "null is not a number"}),
    ({"node_overhead_per_hour": -0.1}, {"node_overhead_per_hour": "0 counts prices alone"}),
    ({"rebuild_saving": 1.5}, {"rebuild_saving": "1.5 is no part of a whole: a number from 0 to 1"}),
    ({"rebuild_after_minutes": -1}, {"rebuild_after_minutes": "0 switches it off"}),
    ({"worker_nodes.1.max_spot_share": -0.5}, {"worker_nodes[1].max_spot_share": "a number from 0 to 1"}),
    ({"worker_nodes.1.max_offering_share": "half"}, {"worker_nodes[1].max_offering_share": "is not a number"}),
    (
        {"worker_nodes.0.max_spot_share": 0.5},
        {"worker_nodes[0].max_spot_share": "is for PREFER_SPOT; the group is ON_DEMAND"},
    ),
    (
        {"worker_nodes.0.max_offering_share": 0.5},
        {"worker_nodes[0].max_offering_share": "is for SPOT and PREFER_SPOT; the group is ON_DEMAND"},
    ),
    ({"head_recovery": "restart"}, {"head_recovery": "did you mean 'RESTART'?"}),
    # the rest
    ({"env_vars": {"A": None}}, {"env_vars.A": "null is not a string"}),
    ({"tags": {"team": 3}}, {"tags.team": "3 is not a string"}),
    ({"image_uri": 3}, {"image_uri": "3 is not a string"}),
    # tags that are ours
    ({"tags": {"anyscale-core-plane": "x"}}, {"tags.anyscale-core-plane": "is reserved"}),
    # many at once
    (
        {
            "name": "Demo",
            "cluod": "x",
            "cloud": REMOVE,
            "head_node": {},
            "worker_nodes.0.min_nodes": 9,
            "worker_nodes.1.name": "small",
            "worker_nodes.1.market_type": "spot",
            "zones": [],
            "max_uptime_minutes": -3,
            "env_vars": {"A": 1, "B": 2},
        },
        {
            "name": "is not a name",
            "cluod": "did you mean 'cloud'?",
            "cloud": "is required",
            "head_node": "needs instance_type",
            "worker_nodes[0].max_nodes": "4 is below min_nodes 9",
            "worker_nodes[1].name": "also the name of",
            "worker_nodes[1].market_type": "did you mean 'SPOT'?",
            "zones": "is empty",
            "max_uptime_minutes": "is negative",
            "env_vars.A": "1 is not a string",
            "env_vars.B": "2 is not a string",
        },
    ),
]


@pytest.mark.parametrize(("changes", "expected"), BAD, ids=[", ".join(changes) for changes, _ in BAD])
def test_a_bad_spec_is_refused_with_all_its_faults_and_no_others(
    changes: dict[str, Any], expected: dict[str, str]
) -> None:
    with pytest.raises(SpecError) as caught:
        wire.structure(bad(changes), ClusterSpec)
    told = {fault.path: fault.message for fault in caught.value.faults}
    assert sorted(told) == sorted(expected)
    assert len(caught.value.faults) == len(expected)
    for path, part in expected.items():
        assert part in told[path]
        assert path in str(caught.value)


def test_the_good_spec_has_none() -> None:
    spec = wire.structure(GOOD, ClusterSpec)
    assert [group.name for group in spec.worker_nodes] == ["small", "gpu"]
    assert spec.worker_nodes[1].market_type is MarketType.PREFER_SPOT
    assert spec.head_recovery is HeadRecovery.RESTART
    assert spec.zones == ("zone-a", "zone-b")


def test_a_spec_needs_three_fields_and_defaults_the_rest() -> None:
    spec = wire.structure({"name": "a", "cloud": "local", "head_node": {"required_resources": {"CPU": 1}}}, ClusterSpec)
    assert spec.worker_nodes == ()
    assert spec.idle_termination_minutes == 120
    assert spec.zones is None


def test_reading_a_spec_does_not_change_the_body() -> None:
    body = copy.deepcopy(GOOD)
    wire.structure(body, ClusterSpec)
    assert body == GOOD


def test_a_group_is_found_by_its_name() -> None:
    spec = wire.structure(GOOD, ClusterSpec)
    assert spec.group("gpu") is spec.worker_nodes[1]
    assert spec.group("none") is None


@pytest.mark.parametrize("name", ["a", "a1", "a-b", "a" * 63])
def test_a_dns_label_that_starts_with_a_letter_is_a_name(name: str) -> None:
    assert NAME.fullmatch(name)
