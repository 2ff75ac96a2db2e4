"""Cheaper nodes for the same: only when enough is saved, only for what is idle, and never twice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from anyscale_core.models.actions import DrainNode
from anyscale_core.models.cluster import ClusterSpec, MarketType, WorkerGroup
from anyscale_core.models.ids import ClusterId, NodeId, Token
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import Demand, HeadReport, RayNode
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.records import ClusterRecord, Goal, NodeRecord, Observed, Timing
from anyscale_core.planning.demand import shrink
from anyscale_core.planning.rebuild import Rebuild, rebuild
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.catalogue import OFFERINGS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = ClusterId("clu_1")
SOLD = {(one.instance_type, one.zone, one.market_type): one for one in OFFERINGS}


def node(
    name: str, type: str = "cpu-4", *, group: str = "workers", market: MarketType = MarketType.ON_DEMAND
) -> NodeRecord:
    offering = SOLD[type, "zone-a", market]
    long_ago = NOW - timedelta(hours=2)
    return NodeRecord(
        id=NodeId(name), cluster_id=CLUSTER, name=name, kind=NodeKind.WORKER, group=group, phase=NodePhase.READY,
        phase_since=long_ago, created_at=long_ago, ready_at=long_ago, launch=Token("t"), shape="", instance_type=type,
        market_type=market, zone="zone-a", price_per_hour=offering.price_per_hour, resources=offering.resources, labels={},
    )  # fmt: skip


def report(*idle: NodeRecord, **fields: Any) -> HeadReport:
    shown = tuple(
        RayNode(
            ray_id=one.name, instance_name=one.name, status="IDLE", idle=timedelta(minutes=5), total=one.resources,
            available=one.resources,
        )
        for one in idle
    )  # fmt: skip
    return HeadReport(gcs_address="h:1", ray_nodes=shown, **fields)


def decide(spec: ClusterSpec, nodes: list[NodeRecord], head: HeadReport) -> Rebuild:
    record = ClusterRecord(
        id=CLUSTER, name="demo", cloud="fake", spec=spec, generation=1, goal=Goal.RUN, created_at=NOW, phase_since=NOW
    )
    return rebuild(record, nodes, Observed(offerings=OFFERINGS), head, barred=frozenset(), now=NOW)


SPOT_FIRST = workers(min_nodes=1, max_nodes=4, market_type=MarketType.PREFER_SPOT)
ANY = WorkerGroup(name="workers", required_resources={"CPU": 2.0}, min_nodes=0, max_nodes=9)


def test_an_idle_node_on_demand_that_a_minimum_keeps_is_replaced_by_spot() -> None:
    old = node("a")
    (action,) = decide(a_spec("demo", SPOT_FIRST), [old], report(old)).actions
    assert (action.offering.instance_type, action.offering.market_type) == ("cpu-4", MarketType.SPOT)
    assert (action.count, action.offering.zone) == (1, "zone-a")
    assert "idle a can be replaced: 0.21 -> 0.07 an hour" in action.reason


def test_a_node_that_works_is_never_replaced() -> None:
    assert decide(a_spec("demo", SPOT_FIRST), [node("a")], report()).actions == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"rebuild_saving": 0.9},
        {"rebuild_after_minutes": 180.0},
        {"rebuild_after_minutes": 0.0},
        {"max_price_per_hour": 0.2},
    ],
)
def test_a_saving_below_the_threshold_or_too_early_or_beyond_the_ceiling_moves_nothing(
    changes: dict[str, float],
) -> None:
    old = node("a")
    assert decide(attrs.evolve(a_spec("demo", SPOT_FIRST), **changes), [old], report(old)).actions == ()  # type: ignore[arg-type]


def test_nothing_is_replaced_while_ray_waits_or_another_node_is_on_its_way() -> None:
    old, coming = node("a"), attrs.evolve(node("b"), phase=NodePhase.STARTING)
    spec = a_spec("demo", SPOT_FIRST)
    assert decide(spec, [old], report(old, demand=(Demand(resources={"CPU": 1.0}),))).actions == ()
    assert decide(spec, [old, coming], report(old)).actions == ()


def test_the_successor_counts_so_that_no_second_one_is_started() -> None:
    old, new = node("a"), node("b", market=MarketType.SPOT)
    assert decide(a_spec("demo", SPOT_FIRST), [old, new], report(old, new)).actions == ()


def test_a_share_that_must_not_be_spot_keeps_it_on_demand() -> None:
    old = node("a")
    group = attrs.evolve(SPOT_FIRST, max_spot_share=0.5)
    assert decide(a_spec("demo", group), [old], report(old)).actions == ()


def test_what_holds_a_request_is_replaced_by_what_holds_it_for_less() -> None:
    old = [node("a", "cpu-16"), node("b", "gpu-1")]
    held = (Demand(resources={"CPU": 4.0}, count=6),)
    (action,) = decide(a_spec("demo", ANY), old, report(*old, constraints=held)).actions
    assert (action.offering.instance_type, action.count) == ("cpu-4", 2)
    assert "idle b can be replaced: 0.76 -> 0.42 an hour" in action.reason


def test_a_node_that_holds_nothing_is_left_to_be_drained() -> None:
    old = [node("a", "cpu-16"), node("b", "gpu-1")]
    held = (Demand(resources={"CPU": 4.0}, count=4),)
    assert decide(a_spec("demo", ANY), old, report(*old, constraints=held)).actions == ()


def test_when_it_looks_again_is_known() -> None:
    young = attrs.evolve(node("a"), ready_at=NOW - timedelta(minutes=10))
    assert decide(a_spec("demo", SPOT_FIRST), [young], report(young)).look_at == NOW + timedelta(minutes=50)
    old = node("a", market=MarketType.SPOT)
    assert decide(a_spec("demo", SPOT_FIRST), [old], report(old)).look_at == NOW + timedelta(minutes=60)


def test_idle_nodes_go_the_dearest_first_and_never_so_that_too_much_is_at_risk() -> None:
    nodes = [node("a"), node("b"), node("c", market=MarketType.SPOT), node("d", market=MarketType.SPOT)]
    group = workers(min_nodes=0, max_nodes=4, market_type=MarketType.PREFER_SPOT, max_spot_share=0.5)
    for share, first in ((0.5, ["c", "d"]), (1.0, ["a", "b", "c", "d"])):
        spec = a_spec("demo", attrs.evolve(group, max_spot_share=share))
        record = ClusterRecord(
            id=CLUSTER,
            name="demo",
            cloud="fake",
            spec=spec,
            generation=1,
            goal=Goal.RUN,
            created_at=NOW,
            phase_since=NOW,
        )
        rays = {one.id: one.name for one in nodes}
        gone = [
            action.name
            for action in shrink(record, nodes, rays, report(*nodes), now=NOW, timing=Timing())
            if isinstance(action, DrainNode)
        ]
        assert gone == first
