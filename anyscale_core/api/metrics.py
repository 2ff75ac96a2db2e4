"""What the service counts, in Prometheus' text format. Counting is cheap; the library is loaded by the first scrape."""

import collections
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from anyscale_core.drivers.layers import WireAction
from anyscale_core.models.order import OperatorState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class DriverCalls:
    """Counts driver calls on the wire by action, provider and outcome. Threads may share it."""

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self._lock = threading.Lock()

    def count(self, action: WireAction) -> None:
        """Count one attempt."""
        with self._lock:
            self._counts[action.name, action.provider, action.category or action.outcome] += 1

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return what was counted: (action, provider, outcome or category of error) -> attempts."""
        with self._lock:
            return dict(self._counts)


def render(
    *, clusters: Mapping[str, int], nodes: Mapping[str, int], calls: Mapping[tuple[str, str, str], int], heartbeats: int,
    operators: Mapping[str, OperatorState], orders: Mapping[str, int],
) -> bytes:  # fmt: skip
    """Return the metrics as text. ``clusters`` and ``nodes`` by phase; ``operators`` and their open ``orders`` by cloud."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    def families() -> Iterable[Any]:
        by_phase = GaugeMetricFamily("anyscale_core_clusters", "Live clusters by phase.", labels=["phase"])
        for phase, count in sorted(clusters.items()):
            by_phase.add_metric([phase], count)
        yield by_phase
        by_phase = GaugeMetricFamily("anyscale_core_nodes", "Nodes of live clusters by phase.", labels=["phase"])
        for phase, count in sorted(nodes.items()):
            by_phase.add_metric([phase], count)
        yield by_phase
        states = GaugeMetricFamily(
            "anyscale_core_operators", "1 for the state of each cloud's operator.", labels=["cloud", "state"]
        )
        waiting = GaugeMetricFamily("anyscale_core_operator_orders", "Open orders by cloud.", labels=["cloud"])
        for cloud, found in sorted(operators.items()):
            for state in OperatorState:
                states.add_metric([cloud, state.value], float(state is found))
            waiting.add_metric([cloud], orders.get(cloud, 0))
        yield states
        yield waiting
        family = CounterMetricFamily(
            "anyscale_core_driver_calls", "Driver calls on the wire.", labels=["action", "provider", "outcome"]
        )
        for labels, count in sorted(calls.items()):
            family.add_metric(list(labels), count)
        yield family
        yield CounterMetricFamily("anyscale_core_heartbeats", "Heartbeats that were accepted.", value=heartbeats)

    class Collector:
        def collect(self) -> Iterable[Any]:
            return families()

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)
