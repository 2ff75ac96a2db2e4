"""Which nodes are started for which requests: played back by Ray's rules, within every bound, and cheap."""

import random
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering, Quota
from anyscale_core.models.node import Demand, Gang, GangStrategy
from anyscale_core.planning.limits import Budget, Candidate, Limits
from anyscale_core.planning.placement import Bin, Placement, place
from anyscale_core.planning.reasons import Reasons, Withheld
from anyscale_core.planning.requests import selects
from tests.planning import replay

GIB = float(2**30)
GPU_QUOTA = Quota(metric="GPUS", scope="account", limit=4, used=3)


def candidate(
    group: str, cpu: float, price: float, room: int = 100, gpu: float = 0.0, gib: float = 0.0, **labels: str
) -> Candidate:
    resources = {"CPU": cpu} | ({"GPU": gpu} if gpu else {}) | ({"memory": gib * GIB} if gib else {})
    offering = Offering(
        instance_type=group, zone="z", market_type=MarketType.ON_DEMAND, price_per_hour=price, resources=resources,
        takes={"GPUS": gpu} if gpu else {},
    )  # fmt: skip
    return Candidate(group=group, offering=offering, resources=resources, labels={"group": group} | labels, room=room)


SMALL, LARGE, GPU = candidate("small", 4, 0.2), candidate("large", 16, 0.8), candidate("gpu", 8, 3.0, gpu=1)


def cpus(count: int, each: float = 1.0) -> Demand:
    return Demand(resources={"CPU": each}, count=count)


def placed(
    demand: Sequence[Demand], gangs: Sequence[Gang] = (), *, room: Sequence[Bin] = (), candidates: Sequence[Candidate],
    budget: Budget | None = None, overhead: float = 0.0,
) -> Placement:  # fmt: skip
    """Place, and play the answer back."""
    budget = budget or Budget()
    placement = place(demand, gangs, room=room, candidates=candidates, budget=budget, overhead=overhead)
    replay.replay(placement, demand, gangs, room=room, candidates=candidates, budget=budget)
    return placement


def groups(placement: Placement) -> list[str]:
    return sorted(one.group for one in placement.new)


def price(placement: Placement, overhead: float = 0.0) -> float:
    return placement.price_per_hour + overhead * len(placement.new)


# -- free room, then new nodes -----------------------------------------------------------------------------------------


def test_free_room_is_used_before_anything_is_started() -> None:
    room = [Bin(group="small", free={"CPU": 4.0}, labels={}, name="a")]
    assert placed([cpus(4)], room=room, candidates=[SMALL]).new == ()


def test_free_room_goes_to_what_no_new_node_could_hold() -> None:
    room = [Bin(group="x", free={"CPU": 4.0, "TPU": 1.0}, labels={}, name="a")]
    rare = Demand(resources={"CPU": 4.0, "TPU": 1.0})
    placement = placed([cpus(4), rare], room=room, candidates=[SMALL])
    assert placement.unmet == ()
    assert groups(placement) == ["small"]


def test_a_request_for_cpus_does_not_start_a_gpu_node_while_there_is_a_cheaper_one() -> None:
    assert groups(placed([cpus(3)], candidates=[GPU, SMALL])) == ["small"]


def test_tasks_that_need_no_gpu_fill_the_gpu_node_that_is_started_anyway() -> None:
    gpu = Demand(resources={"CPU": 1.0, "GPU": 1.0})
    assert groups(placed([gpu, cpus(7)], candidates=[GPU, SMALL])) == ["gpu"]


def test_of_several_types_for_one_group_the_mix_that_fits_costs_least() -> None:
    types = [candidate("workers", cpu, cpu * 0.05) for cpu in (2, 4, 8, 16)]
    placement = placed([cpus(1, 16), cpus(1, 3), cpus(1, 1)], candidates=types)
    assert sorted(one.resources["CPU"] for one in placement.new) == [4, 16]


def test_the_overhead_of_nodes_makes_fewer_larger_ones_cheaper() -> None:
    small, large = candidate("small", 4, 0.20), candidate("large", 16, 0.82)
    assert groups(placed([cpus(16)], candidates=[small, large])) == ["small"] * 4
    assert groups(placed([cpus(16)], candidates=[small, large], overhead=0.01)) == ["large"]


def test_equal_prices_go_to_the_smaller_node() -> None:
    free, dear = candidate("free", 4, 0.0), candidate("big", 64, 0.0)
    assert groups(placed([cpus(2)], candidates=[dear, free])) == ["free"]


def test_three_requests_for_a_part_of_a_gpu_that_two_cannot_give_get_three() -> None:
    part = Demand(resources={"GPU": 0.6}, count=3)
    assert len(place([part], (), room=(), candidates=[GPU], budget=Budget()).new) == 3
    half = Demand(resources={"GPU": 0.5}, count=4)
    assert len(placed([half], candidates=[GPU]).new) == 2


def test_a_request_for_nothing_is_met_by_any_node() -> None:
    assert len(placed([Demand(resources={}, count=5)], candidates=[SMALL]).new) == 1
    assert placed([], candidates=[SMALL]) == Placement()


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_choose_the_group() -> None:
    demand = Demand(resources={"CPU": 1.0}, labels={"group": "large"})
    assert groups(placed([demand], candidates=[SMALL, LARGE])) == ["large"]


@pytest.mark.parametrize(
    ("selector", "value", "met"),
    [
        ("a", "a", True), ("a", "b", False), ("a", None, False), ("!a", "b", True), ("!a", "a", False), ("!a", None, True),
        ("in(a, b)", "b", True), ("in(a,b)", "c", False), ("!in(a,b)", "c", True), ("!in(a,b)", "a", False),
    ],
)  # fmt: skip
def test_label_selectors_mean_what_they_mean_to_ray(selector: str, value: str | None, met: bool) -> None:
    assert selects(selector, value) is met
    assert replay.meets(selector, value) is met


# -- bounds, and why something is not met ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "candidates", "budget", "why"),
    [
        (cpus(1, 64.0), [SMALL], Budget(), "no worker group that may grow has a node so large; add a group with huge"),
        (cpus(1, 640.0), [SMALL], Budget(), "the cloud sells none"),
        (cpus(9), [candidate("small", 4, 0.2, room=2)], Budget(), "max_nodes of 'small' is reached; raise it"),
        (cpus(9), [SMALL], Budget(price=0.4), "max_price_per_hour has no room for a small at 0.2; raise it"),
        (cpus(9), [SMALL], Budget(resources={"CPU": 8.0}), "max_resources.CPU is reached; raise it"),
        (Demand(resources={"GPU": 1.0}, count=2), [GPU], Budget(quotas=(GPU_QUOTA,)), "the quota GPUS of account is used up"),
        (cpus(1), [], Budget(), "no worker group may grow now"),
        (Demand(resources={"CPU": 1.0}, labels={"a": "b"}), [SMALL], Budget(), "no worker group has these labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_says_why(demand: Demand, candidates: list[Candidate], budget: Budget, why: str) -> None:
    assert why in reason(placed([demand], candidates=candidates, budget=budget), candidates, budget)


def test_what_the_cloud_refuses_for_now_is_named_with_its_reason() -> None:
    withheld = Withheld(candidate=GPU, why="the cloud refused it lately: none left")
    placement = placed([Demand(resources={"GPU": 1.0})], candidates=[SMALL])
    assert "gpu of 'gpu' would do, but the cloud refused it" in reason(placement, [SMALL], Budget(), [withheld])


def reason(
    placement: Placement, candidates: Sequence[Candidate], budget: Budget, withheld: Sequence[Withheld] = ()
) -> str:
    limits = Limits(candidates, budget)
    left = limits.after((one, 1) for one in placement.new)
    huge = candidate("huge", 128, 9.0).offering
    (unmet,) = placement.unmet
    return Reasons(candidates=candidates, withheld=withheld, limits=limits, left=left, catalogue=[huge]).of(unmet)


def test_where_a_limit_binds_as_much_as_possible_is_met_on_the_nodes_that_hold_most() -> None:
    small, large = candidate("workers", 4, 0.2, room=2), candidate("workers", 16, 1.0, room=2)
    assert placed([cpus(32)], candidates=[small, large]).unmet == ()
    placement = placed([cpus(40)], candidates=[small, large])
    assert [one.count for one in placement.unmet] == [8]


# -- gangs -------------------------------------------------------------------------------------------------------------


def test_a_gang_that_cannot_start_whole_starts_nothing() -> None:
    gang = Gang(bundles=(cpus(1), cpus(1), cpus(1)), strategy=GangStrategy.STRICT_SPREAD)
    two = candidate("small", 4, 0.2, room=2)
    placement = placed((), [gang], candidates=[two])
    assert placement.new == ()
    assert "STRICT_SPREAD" in reason(placement, [two], Budget())


@pytest.mark.parametrize("strategy", [GangStrategy.PACK, GangStrategy.SPREAD])
def test_of_gangs_that_do_not_all_fit_some_start_whole_and_come_before_single_requests(strategy: GangStrategy) -> None:
    gang = Gang(bundles=(cpus(1, 4.0),) * 3, strategy=strategy)
    placement = placed([cpus(8)], [gang, gang], candidates=[candidate("small", 4, 0.2, room=5)])
    assert [one.gang for one in placement.unmet] == [gang]
    assert len(placement.new) == 5
    placement = placed([cpus(8)], [gang], candidates=[candidate("small", 4, 0.2, room=2)])
    assert [one.gang for one in placement.unmet] == [gang]
    assert len(placement.new) == 2


@pytest.mark.parametrize(("strategy", "nodes"), [(GangStrategy.STRICT_PACK, 1), (GangStrategy.STRICT_SPREAD, 4)])
def test_strict_strategies_are_kept(strategy: GangStrategy, nodes: int) -> None:
    gang = Gang(bundles=(cpus(1),) * 4, strategy=strategy)
    assert len(placed((), [gang], candidates=[SMALL, LARGE]).new) == nodes


def test_bundles_that_must_be_apart_take_the_room_of_nodes_that_are_started_for_others() -> None:
    gang = Gang(bundles=(cpus(1),) * 3, strategy=GangStrategy.STRICT_SPREAD)
    placement = placed([cpus(3, 3.0)], [gang], candidates=[SMALL, LARGE])
    assert groups(placement) == ["small"] * 3


def test_bundles_on_one_node_need_one_that_meets_all_their_labels() -> None:
    bundles = (Demand(resources={"CPU": 1.0}, labels={"a": "x"}), Demand(resources={"CPU": 1.0}, labels={"b": "y"}))
    gang = Gang(bundles=bundles, strategy=GangStrategy.STRICT_PACK)
    half, both = candidate("half", 4, 0.1, a="x"), candidate("both", 4, 0.3, a="x", b="y")
    assert groups(placed((), [gang], candidates=[half, both])) == ["both"]


# -- properties --------------------------------------------------------------------------------------------------------

SHAPES = [
    {"CPU": 0.5}, {"CPU": 1.0}, {"CPU": 3.0, "memory": 4 * GIB}, {"CPU": 2.0, "memory": 20 * GIB},
    {"CPU": 1.0, "GPU": 1.0}, {"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0, "memory": 8 * GIB},
]  # fmt: skip
KINDS = [(2, 0, 8), (4, 0, 8), (4, 0, 32), (16, 0, 64), (8, 1, 32), (32, 4, 128)]

demands = st.lists(
    st.builds(lambda shape, n: Demand(resources=shape, count=n), st.sampled_from(SHAPES), st.integers(1, 12)),
    max_size=6,
)
small_demands = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6).map(
    lambda shapes: [Demand(resources=shape) for shape in shapes]
)
catalogues = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(5, 300), st.integers(1, 9)), min_size=1, max_size=5
).map(lambda drawn: [candidate(f"g{i}", *args(one)) for i, one in enumerate(drawn)])
ample = catalogues.map(lambda drawn: [attrs.evolve(one, room=100) for one in drawn])
gang_lists = st.lists(
    st.builds(
        lambda shape, n, strategy: Gang(bundles=(Demand(resources=shape),) * n, strategy=strategy),
        st.sampled_from(SHAPES[:5]), st.integers(1, 4), st.sampled_from(list(GangStrategy)),
    ),
    max_size=3,
)  # fmt: skip
bins = st.lists(st.tuples(st.sampled_from(KINDS)), max_size=4).map(
    lambda drawn: [
        Bin(group="old", free=candidate("old", k[0], 0, gpu=k[1], gib=k[2]).resources, labels={}, name=f"b{i}")
        for i, (k,) in enumerate(drawn)
    ]
)
budgets = st.builds(
    lambda price, cpu: Budget(price=price, resources=None if cpu is None else {"CPU": cpu}, quotas=(GPU_QUOTA,)),
    st.none() | st.floats(0, 8), st.none() | st.floats(0, 60),
)  # fmt: skip


def args(one: tuple[tuple[int, int, int], int, int]) -> tuple[float, float, int, float, float]:
    (cpu, gpu, gib), cents, room = one
    return float(cpu), cents / 100, room, float(gpu), float(gib)


@settings(max_examples=120, deadline=None)
@given(demands, gang_lists, bins, catalogues, budgets)
def test_every_answer_holds_when_it_is_played_back(
    wanted: list[Demand], gangs: list[Gang], room: list[Bin], candidates: list[Candidate], budget: Budget
) -> None:
    placement = placed(wanted, gangs, room=room, candidates=candidates, budget=budget)
    rng = random.Random(1)
    again = place(
        rng.sample(wanted, len(wanted)), gangs, room=rng.sample(room, len(room)),
        candidates=rng.sample(candidates, len(candidates)), budget=budget,
    )  # fmt: skip
    assert repr(again) == repr(placement)


@settings(max_examples=60, deadline=None)
@given(small_demands, ample, st.sampled_from([0.0, 0.05]))
def test_small_cases_cost_what_trying_every_fleet_finds(
    wanted: list[Demand], candidates: list[Candidate], overhead: float
) -> None:
    placement = placed(wanted, candidates=candidates, overhead=overhead)
    best = replay.cheapest(replay.expanded(wanted), candidates, overhead=overhead)
    if best == float("inf"):
        assert placement.unmet
    else:
        assert not placement.unmet
        assert price(placement, overhead) == pytest.approx(best, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(demands, ample)
def test_no_fleet_of_a_single_kind_is_cheaper(wanted: list[Demand], candidates: list[Candidate]) -> None:
    placement = placed(wanted, candidates=candidates)
    single = replay.single_kinds(replay.expanded(wanted), candidates)
    if single < float("inf"):
        assert not placement.unmet
        assert price(placement) <= single + 1e-3


@settings(max_examples=60, deadline=None)
@given(small_demands, ample, st.sampled_from(KINDS), st.integers(5, 300))
def test_another_offering_or_a_lower_price_never_raises_the_cost_of_a_small_case(
    wanted: list[Demand], candidates: list[Candidate], kind: tuple[int, int, int], cents: int
) -> None:
    before = placed(wanted, candidates=candidates)
    more = [*candidates, candidate("more", *args((kind, cents, 100)))]
    cheaper = [attrs.evolve(candidates[0], price=candidates[0].price_per_hour / 2), *candidates[1:]]
    for offered in (more, cheaper):
        after = placed(wanted, candidates=offered)
        assert len(after.unmet) <= len(before.unmet)
        if not before.unmet:
            assert after.price_per_hour <= before.price_per_hour + 1e-3
