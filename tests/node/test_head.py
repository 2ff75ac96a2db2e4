"""Ray's messages in our words."""

from datetime import timedelta

from ray.core.generated import autoscaler_pb2, common_pb2

from anyscale_core.models.node import Demand, Gang, GangStrategy
from anyscale_core.node.head import read_gang, read_request, read_state


def test_demand_gangs_constraints_and_nodes_are_read() -> None:
    state = autoscaler_pb2.ClusterResourceState()
    task = state.pending_resource_requests.add(count=3)
    task.request.resources_bundle.update({"CPU": 2.0})
    gang = state.pending_gang_resource_requests.add(details="abc:STRICT_SPREAD|PENDING")
    gang.requests.add(resources_bundle={"GPU": 1.0})
    gang.requests.add(resources_bundle={"GPU": 1.0})
    held = state.cluster_resource_constraints.add().resource_requests.add(count=2)
    held.request.resources_bundle.update({"CPU": 8.0})
    node = state.node_states.add(node_id=b"\x01\x02", instance_id="c-w-1", idle_duration_ms=1500)
    node.status = autoscaler_pb2.NodeStatus.IDLE
    node.total_resources.update({"CPU": 4.0})
    node.available_resources.update({"CPU": 4.0})
    view = read_state(state)
    assert view.demand == (Demand(resources={"CPU": 2.0}, count=3),)
    one = Demand(resources={"GPU": 1.0})
    assert view.gangs == (Gang(bundles=(one, one), strategy=GangStrategy.STRICT_SPREAD),)
    assert view.constraints == (Demand(resources={"CPU": 8.0}, count=2),)
    seen = view.ray_nodes[0]
    assert (seen.ray_id, seen.instance_name, seen.status) == ("0102", "c-w-1", "IDLE")
    assert (seen.idle, seen.total, seen.available) == (timedelta(seconds=1.5), {"CPU": 4.0}, {"CPU": 4.0})


def test_label_selectors_are_read_in_rays_own_syntax() -> None:
    request = autoscaler_pb2.ResourceRequest()
    selector = request.label_selectors.add()
    operators = common_pb2.LabelSelectorOperator
    selector.label_constraints.add(label_key="a", operator=operators.LABEL_OPERATOR_IN, label_values=["x"])
    selector.label_constraints.add(label_key="b", operator=operators.LABEL_OPERATOR_IN, label_values=["x", "y"])
    selector.label_constraints.add(label_key="c", operator=operators.LABEL_OPERATOR_NOT_IN, label_values=["z"])
    request.label_selectors.add().label_constraints.add(label_key="fallback")
    assert read_request(request).labels == {"a": "x", "b": "in(x,y)", "c": "!z"}


def test_a_gang_of_an_unknown_strategy_is_packed() -> None:
    assert read_gang(autoscaler_pb2.GangResourceRequest(details="odd")).strategy is GangStrategy.PACK


def test_only_the_ticking_of_idle_clocks_is_no_news() -> None:
    state = autoscaler_pb2.ClusterResourceState()
    node = state.node_states.add(node_id=b"\x01", status=autoscaler_pb2.NodeStatus.IDLE, idle_duration_ms=1)
    before = read_state(state)
    node.idle_duration_ms = 1001
    assert read_state(state).shape() == before.shape()
    node.status = autoscaler_pb2.NodeStatus.RUNNING
    assert read_state(state).shape() != before.shape()
