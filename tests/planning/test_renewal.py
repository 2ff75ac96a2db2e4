"""Workers are replaced before their certificates end: one at a time, and none while anything else moves."""

from datetime import UTC, datetime, timedelta

import attrs

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import ClusterId, NodeId, Token
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.records import NodeRecord, NodeStatus
from anyscale_core.planning.renewal import Renewal, renewal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def node(name: str, kind: NodeKind = NodeKind.WORKER, phase: NodePhase = NodePhase.READY) -> NodeRecord:
    return NodeRecord(
        id=NodeId(name), cluster_id=ClusterId("clu_1"), name=name, kind=kind, group=kind.value, phase=phase,
        phase_since=NOW, created_at=NOW, launch=Token("tok"), shape="", instance_type="cpu",
        market_type=MarketType.ON_DEMAND, zone="", price_per_hour=1.0, resources={}, labels={},
    )  # fmt: skip


def status(name: str, renew_at: datetime | None) -> tuple[NodeId, NodeStatus]:
    return NodeId(name), NodeStatus(node_id=NodeId(name), registered_at=NOW, seen_at=NOW, renew_at=renew_at)


def test_the_worker_that_is_due_longest_goes_first_and_a_head_never() -> None:
    nodes = [node("a"), node("b"), node("h", NodeKind.HEAD)]
    when = dict([status("a", NOW - HOUR), status("b", NOW - 2 * HOUR), status("h", NOW - 3 * HOUR)])
    assert renewal(nodes, when, now=NOW).node == nodes[1]


def test_nobody_goes_while_another_comes_or_goes() -> None:
    when = dict([status("a", NOW - HOUR)])
    for phase in (NodePhase.DRAINING, NodePhase.STARTING, NodePhase.DELETING, NodePhase.SUSPECT):
        assert renewal([node("a"), node("b", phase=phase)], when, now=NOW) == Renewal()
    assert renewal([node("a"), node("b", phase=NodePhase.GONE)], when, now=NOW).node is not None


def test_before_that_it_is_said_when_to_look_again() -> None:
    when = dict([status("a", NOW + HOUR), status("b", None)])
    assert renewal([node("a"), node("b")], when, now=NOW) == Renewal(look_at=NOW + HOUR)
    assert attrs.asdict(renewal([], {}, now=NOW)) == {"node": None, "look_at": None}
