"""Which nodes are started for which requests, within which bounds."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering
from anyscale_core.models.node import Demand, Gang, GangStrategy
from anyscale_core.planning.placement import Bin, Budget, Candidate, Placement, place, selects


def candidate(group: str, cpu: float, price: float, room: int = 100, gpu: float = 0.0) -> Candidate:
    resources = {"CPU": cpu} | ({"GPU": gpu} if gpu else {})
    offering = Offering(
        instance_type=group, zone="z", market_type=MarketType.ON_DEMAND, price_per_hour=price, resources=resources
    )
    return Candidate(group=group, offering=offering, resources=resources, labels={"group": group}, room=room)


SMALL, LARGE, GPU = candidate("small", 4, 0.2), candidate("large", 16, 0.8), candidate("gpu", 8, 3.0, gpu=1)


def cpus(count: int, each: float = 1.0) -> Demand:
    return Demand(resources={"CPU": each}, count=count)


def groups(placement: Placement) -> list[str]:
    return sorted(one.group for one in placement.new)


def test_free_room_is_used_before_anything_is_started() -> None:
    room = [Bin(group="small", free={"CPU": 4.0}, labels={})]
    assert place([cpus(4)], (), room=room, candidates=[SMALL], budget=Budget()).new == ()


def test_a_request_for_cpus_does_not_start_a_gpu_node_while_there_is_a_cheaper_one() -> None:
    assert groups(place([cpus(3)], (), room=(), candidates=[GPU, SMALL], budget=Budget())) == ["small"]


def test_labels_choose_the_group() -> None:
    demand = Demand(resources={"CPU": 1.0}, labels={"group": "large"})
    assert groups(place([demand], (), room=(), candidates=[SMALL, LARGE], budget=Budget())) == ["large"]


@pytest.mark.parametrize(
    ("selector", "value", "met"),
    [
        ("a", "a", True), ("a", "b", False), ("a", None, False), ("!a", "b", True), ("!a", "a", False), ("!a", None, True),
        ("in(a, b)", "b", True), ("in(a,b)", "c", False), ("!in(a,b)", "c", True), ("!in(a,b)", "a", False),
    ],
)  # fmt: skip
def test_label_selectors_mean_what_they_mean_to_ray(selector: str, value: str | None, met: bool) -> None:
    assert selects(selector, value) is met


def test_equal_prices_go_to_the_smaller_node() -> None:
    free, dear = candidate("free", 4, 0.0), candidate("big", 64, 0.0)
    assert groups(place([cpus(1)], (), room=(), candidates=[dear, free], budget=Budget())) == ["free"]


@pytest.mark.parametrize(
    ("demand", "candidates", "budget", "why"),
    [
        (cpus(1, 64.0), [SMALL], Budget(), "no worker group that may grow has a node so large"),
        (cpus(9), [candidate("small", 4, 0.2, room=2)], Budget(), "max_nodes"),
        (cpus(9), [SMALL], Budget(price=0.4), "max_price_per_hour"),
        (cpus(9), [SMALL], Budget(resources={"CPU": 8.0}), "max_resources"),
        (cpus(1), [], Budget(), "no worker group may grow now"),
        (Demand(resources={"CPU": 1.0}, labels={"a": "b"}), [SMALL], Budget(), "no worker group has these labels"),
    ],
)
def test_what_cannot_be_met_says_why(demand: Demand, candidates: list[Candidate], budget: Budget, why: str) -> None:
    (reason,) = place([demand], (), room=(), candidates=candidates, budget=budget).unmet
    assert why in reason


def test_a_gang_that_cannot_start_whole_starts_nothing() -> None:
    gang = Gang(bundles=(cpus(1), cpus(1), cpus(1)), strategy=GangStrategy.STRICT_SPREAD)
    two = candidate("small", 4, 0.2, room=2)
    placement = place((), [gang], room=(), candidates=[two], budget=Budget())
    assert placement.new == ()
    assert "STRICT_SPREAD" in placement.unmet[0]


@pytest.mark.parametrize(("strategy", "nodes"), [(GangStrategy.STRICT_PACK, 1), (GangStrategy.STRICT_SPREAD, 4)])
def test_strict_strategies_are_kept(strategy: GangStrategy, nodes: int) -> None:
    gang = Gang(bundles=(cpus(1),) * 4, strategy=strategy)
    assert len(place((), [gang], room=(), candidates=[SMALL, LARGE], budget=Budget()).new) == nodes


demands = st.lists(
    st.builds(
        lambda cpu, gpu, count: Demand(resources={"CPU": cpu} | ({"GPU": 1.0} if gpu else {}), count=count),
        st.sampled_from([0.5, 1.0, 2.0, 3.0, 8.0]),
        st.booleans(),
        st.integers(1, 12),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(demands)
def test_every_bound_holds_and_equal_input_gives_an_equal_answer(wanted: list[Demand]) -> None:
    candidates = [candidate("small", 4, 0.2, room=3), candidate("gpu", 8, 3.0, room=2, gpu=1)]
    placement = place(wanted, (), room=(), candidates=candidates, budget=Budget(price=5.0))
    assert sum(one.offering.price_per_hour for one in placement.new) <= 5.0 + 1e-9
    for one in candidates:
        assert sum(1 for new in placement.new if new.group == one.group) <= one.room
    shuffled = random.Random(1).sample(wanted, len(wanted))
    assert sorted(
        map(repr, place(shuffled, (), room=(), candidates=candidates, budget=Budget(price=5.0)).new)
    ) == sorted(map(repr, placement.new))
    if not placement.unmet:
        requests = [dict(one.resources) for one in wanted for _ in range(one.count)]
        capacity = [dict(new.resources) for new in placement.new]
        total = {key: sum(node.get(key, 0.0) for node in capacity) for key in ("CPU", "GPU")}
        assert sum(request["CPU"] for request in requests) <= total["CPU"] + 1e-9
        assert sum(request.get("GPU", 0.0) for request in requests) <= total["GPU"] + 1e-9
