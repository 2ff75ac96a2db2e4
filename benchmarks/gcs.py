"""Ray's own view of a cluster: what every figure on real Ray is judged by."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from ray.core.generated import autoscaler_pb2, autoscaler_pb2_grpc

from anyscale_core.node.head import credentials

LOOK = 0.02
"""Seconds between two looks at something that is about to happen."""
LIMIT = 120.0
"""Seconds after which something counts as failed."""


class Gcs:
    """One head's GCS. Methods wait for one that does not listen yet, and raise grpc.RpcError when it never does."""

    def __init__(self, address: str, token: str, *, env: Mapping[str, str] | None = None) -> None:
        """``env``: of a process of that Ray, which says where its certificate is; without it there is none."""
        # Without the second one a first refused connection is tried again only after a second.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 50)]
        self._channel = (
            grpc.secure_channel(address, credentials(env), options=options)
            if env is not None
            else grpc.insecure_channel(address, options=options)
        )
        self._call: Any = autoscaler_pb2_grpc.AutoscalerStateServiceStub(self._channel).GetClusterResourceState
        self._request = autoscaler_pb2.GetClusterResourceStateRequest()
        self._dead = autoscaler_pb2.NodeStatus.Value("DEAD")
        self._metadata = (("authorization", f"Bearer {token}"),)

    def alive(self) -> frozenset[str]:
        """Return the ids (hex) of the nodes that Ray holds for alive."""
        state = self._state()
        return frozenset(node.node_id.hex() for node in state.node_states if node.status != self._dead)

    def demanded(self) -> bool:
        """Tell whether Ray asks for room that it has not."""
        return bool(self._state().pending_resource_requests)

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def _state(self) -> Any:
        # No answer is not the same as no nodes: on a machine whose CPUs are all taken one may need seconds.
        answer = self._call(self._request, timeout=LIMIT, metadata=self._metadata, wait_for_ready=True)
        return answer.cluster_resource_state


def until(holds: Callable[[], bool], otherwise: str) -> None:
    """Return as soon as it holds. Raises RuntimeError after two minutes."""
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} after {LIMIT:.0f} s")
        time.sleep(LOOK)
