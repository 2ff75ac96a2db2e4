"""What tests of this plugin, and of those who embed it, build from: a namespace of one's own in some cluster."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.clock import Clock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.testing.clock import ManualClock
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.cluster import KubernetesCluster
from anyscale_kubernetes.config import read_settings
from anyscale_kubernetes.identity import KubernetesIdentity
from anyscale_kubernetes.kinds import Kind
from anyscale_kubernetes.networking import KubernetesNetworking
from anyscale_kubernetes.storage import KubernetesStorage

TYPES = {"1CPU-1GB": {"resources": {"CPU": 1, "memory": "1Gi"}, "price_per_hour": {"ON_DEMAND": 0.1, "SPOT": 0.03}}}
OWNER = Owner(plane=PlaneId("pln_1"), cloud=CloudName("kube"), cluster=ClusterId("clu_1"))


@attrs.frozen(kw_only=True)
class Land:
    """A namespace of one's own in a cluster. ``simulated``: the cluster itself, with its hands; None where it is real."""

    folder: Path
    home: Path
    clock: Clock
    settings: dict[str, Any]
    simulated: Any = None

    def config(self, **more: Any) -> DriverConfig:
        """Return a driver's config with these settings added."""
        return DriverConfig(owner=OWNER, home=self.home, settings={**self.settings, **more}, clock=self.clock)

    def cluster(self, **more: Any) -> KubernetesCluster:
        """Return a cluster driver."""
        return KubernetesCluster(self.config(**more))

    def identity(self, **more: Any) -> KubernetesIdentity:
        """Return an identity driver."""
        return KubernetesIdentity(self.config(**more))

    def networking(self, **more: Any) -> KubernetesNetworking:
        """Return a networking driver."""
        return KubernetesNetworking(self.config(**more))

    def storage(self, **more: Any) -> KubernetesStorage:
        """Return a storage driver."""
        return KubernetesStorage(self.config(**more))

    def api(self) -> Api:
        """Return plain requests to the API server."""
        return Api(read_settings(self.config()), self.clock)

    def soon(self) -> datetime:
        """Return a deadline that a test does not reach."""
        return self.clock.now() + timedelta(seconds=60)

    def pass_s(self, seconds: float) -> None:
        """Let time pass where it is moved by hand."""
        if isinstance(self.clock, ManualClock):
            self.clock.advance(timedelta(seconds=seconds))

    def left(self, kind: Kind) -> list[str]:
        """Return the names of what there is of a kind in the namespace."""
        return [item["metadata"]["name"] for item in self.api().list(kind, deadline=self.soon())]


def eventually(true: Callable[[], object], within_s: float = 20.0) -> None:
    """Return as soon as something is true. Raises AssertionError when it does not become so in time."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"it did not happen within {within_s} s"
        time.sleep(0.02)


def specified(name: str = "one", **fields: Any) -> InstanceSpec:
    """Return the smallest valid spec of an instance, with these fields changed."""
    base = InstanceSpec(
        name=name,
        node_id=NodeId(f"nod_{name}"),
        owner=OWNER,
        kind=NodeKind.WORKER,
        group="workers",
        instance_type="1CPU-1GB",
        bootstrap=Bootstrap(
            url="https://127.0.0.1:1", ca_pem="", node_id=NodeId(f"nod_{name}"),
            join_token=Secret(f"join-{name}-canary"), identity_provider="kubernetes",
        ),
    )  # fmt: skip
    return attrs.evolve(base, **fields)
