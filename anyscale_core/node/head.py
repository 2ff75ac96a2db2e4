"""What only a head can see: Ray's demand and nodes, read from its GCS. Runs in the launcher, where Ray is imported."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from ray.core.generated import autoscaler_pb2, autoscaler_pb2_grpc, common_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from anyscale_core.models import wire
from anyscale_core.models.node import Demand, Gang, GangStrategy, RayNode
from anyscale_core.node.rayargs import TLS_VARIABLES
from anyscale_core.node.view import HeadView

POLL = 0.1
"""Seconds between two looks; one costs the GCS 0.4 ms."""
REFRESH = 1.0
"""Seconds after which a view is told although only idle durations in it have grown."""
DEADLINE = 2.0
"""Seconds for one call."""


class Gcs:
    """Ray's GCS through its gRPC services. Calls raise grpc.RpcError."""

    def __init__(self, address: str, *, token: str, tls: grpc.ChannelCredentials) -> None:
        # A GCS that is started again is to be seen at once, not after the second that gRPC waits before its next try.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 100)]
        channel = grpc.secure_channel(address, tls, options=options)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._autoscaler = autoscaler_pb2_grpc.AutoscalerStateServiceStub(channel)
        self._nodes = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)

    def answers(self) -> bool:
        """Tell whether the GCS answers now."""
        try:
            self.view()
        except grpc.RpcError:
            return False
        return True

    def view(self) -> HeadView:
        """Return the state as it is now."""
        request = autoscaler_pb2.GetClusterResourceStateRequest()
        return read_state(self._call(self._autoscaler.GetClusterResourceState, request).cluster_resource_state)

    def drain(self, *, ray_id: str, idle: bool, deadline_ms: int, reason: str) -> bool:
        """Ask Ray to drain a node; ``idle``: only if it is. Return whether Ray accepted.

        Ray does not enforce a deadline: whoever gave the order ends the node then.
        """
        kind = "DRAIN_NODE_REASON_IDLE_TERMINATION" if idle else "DRAIN_NODE_REASON_PREEMPTION"
        request = autoscaler_pb2.DrainNodeRequest(
            node_id=bytes.fromhex(ray_id),
            reason=getattr(autoscaler_pb2, kind),
            reason_message=reason,
            deadline_timestamp_ms=0 if idle else deadline_ms,
        )
        return bool(self._call(self._autoscaler.DrainNode, request).is_accepted)

    def unregister(self, ray_id: str, reason: str) -> None:
        """Tell Ray that a node is lost: it reacts in milliseconds instead of finding out by itself."""
        death = common_pb2.NodeDeathInfo(
            reason=common_pb2.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED, reason_message=reason
        )
        request = gcs_service_pb2.UnregisterNodeRequest(node_id=bytes.fromhex(ray_id), node_death_info=death)
        self._call(self._nodes.UnregisterNode, request)

    def describe(self, groups: Mapping[str, Mapping[str, float]]) -> None:
        """Tell Ray which groups there are, for ``ray status`` and for libraries that ask how far they could scale."""
        config = autoscaler_pb2.ClusterConfig()
        for name, resources in groups.items():
            whole = {key: int(amount) for key, amount in resources.items()}
            config.node_group_configs.add(name=name, resources=whole, min_count=0, max_count=-1)
        request = autoscaler_pb2.ReportClusterConfigRequest(cluster_config=config)
        self._call(self._autoscaler.ReportClusterConfig, request)

    def watch(self, groups: Mapping[str, Mapping[str, float]], tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Tell ``view`` whenever it changes, for ever; a GCS that does not answer is asked again."""
        never = threading.Event()
        told: HeadView | None = None
        told_at = 0.0
        described = False
        while not never.wait(POLL if told else 0):
            try:
                if not described:
                    self.describe(groups)
                    described = True
                view = self.view()
            except grpc.RpcError:
                # The agent watches the GCS process itself and reports its end; here there is nothing to see meanwhile.
                told = told or HeadView()
                continue
            now = time.monotonic()
            if told and view.shape() == told.shape() and (view == told or now - told_at < REFRESH):
                continue
            tell("view", wire.unstructure(view))
            told, told_at = view, now

    def _call(self, method: Callable[..., Any], request: object) -> Any:
        return method(request, timeout=DEADLINE, metadata=self._metadata)


def credentials(env: Mapping[str, str]) -> grpc.ChannelCredentials:
    """Return what the environment of a node's process says to show to Ray, and to trust."""
    cert, key, ca = (Path(env[name]).read_bytes() for name in TLS_VARIABLES)
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def read_state(state: Any) -> HeadView:
    """Translate a ClusterResourceState message."""
    demand = [read_request(item.request, item.count) for item in state.pending_resource_requests]
    constraints = [
        read_request(item.request, item.count)
        for constraint in state.cluster_resource_constraints
        for item in constraint.resource_requests
    ]
    return HeadView(
        demand=tuple(sorted(demand, key=_order)),
        gangs=tuple(sorted((read_gang(item) for item in state.pending_gang_resource_requests), key=repr)),
        constraints=tuple(sorted(constraints, key=_order)),
        ray_nodes=tuple(sorted((read_node(item) for item in state.node_states), key=lambda node: node.ray_id)),
    )


def read_request(request: Any, count: int = 1) -> Demand:
    """Translate a ResourceRequest; of alternative label selectors the first is what the task prefers."""
    labels: dict[str, str] = {}
    for selector in request.label_selectors[:1]:
        for constraint in selector.label_constraints:
            values = ",".join(constraint.label_values)
            excludes = constraint.operator == common_pb2.LabelSelectorOperator.LABEL_OPERATOR_NOT_IN
            inner = f"in({values})" if len(constraint.label_values) > 1 else values
            labels[constraint.label_key] = f"!{inner}" if excludes else inner
    return Demand(resources=dict(request.resources_bundle), count=max(1, count), labels=labels)


def read_gang(gang: Any) -> Gang:
    """Translate a GangResourceRequest; ``details`` reads ``<placement group>:<STRATEGY>|<state>``."""
    words = gang.details.rpartition(":")[2].split("|")
    strategy = next((GangStrategy(word) for word in words if word in GangStrategy.__members__), GangStrategy.PACK)
    requests = list(gang.requests)
    if not requests and gang.bundle_selectors:
        requests = list(gang.bundle_selectors[0].resource_requests)
    return Gang(bundles=tuple(read_request(request) for request in requests), strategy=strategy)


def read_node(node: Any) -> RayNode:
    """Translate a NodeState."""
    return RayNode(
        ray_id=node.node_id.hex(),
        instance_name=node.instance_id,
        status=autoscaler_pb2.NodeStatus.Name(node.status),
        idle=timedelta(milliseconds=node.idle_duration_ms),
        total=dict(node.total_resources),
        available=dict(node.available_resources),
    )


def _order(demand: Demand) -> str:
    return repr((sorted(demand.resources.items()), sorted(demand.labels.items()), demand.count))
