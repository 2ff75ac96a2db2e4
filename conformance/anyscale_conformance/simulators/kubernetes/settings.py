"""How a simulated cluster is made, and what its journal holds."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs


@attrs.frozen(kw_only=True)
class NodeSpec:
    """One node: what it can carry (canonical quantities by resource), its labels and its taints (``key=value:effect``)."""

    name: str
    zone: str = "zone-a"
    capacity: Mapping[str, str] = attrs.field(factory=lambda: {"cpu": "64", "memory": "256Gi", "pods": "1100"})
    labels: Mapping[str, str] = attrs.field(factory=dict)
    taints: tuple[str, ...] = ()


def three_nodes() -> tuple[NodeSpec, ...]:
    """Return a large node in each of three zones."""
    return tuple(NodeSpec(name=f"node-{zone}", zone=f"zone-{zone}") for zone in "abc")


@attrs.frozen(kw_only=True)
class Settings:
    """What a cluster is like. Times are by the cluster's clock.

    ``starts``: from a Pod's binding until its containers run. ``stops``: from its deletion until it is gone, if its grace is
    not shorter. ``boots``: run the Pods' commands as processes of this machine. ``gateway_controller`` and
    ``ingress_controller``: give Gateways, routes and Ingresses addresses and conditions after ``provisions``;
    ``load_balancers`` do so for Services.
    """

    nodes: tuple[NodeSpec, ...] = attrs.field(factory=three_nodes)
    starts: timedelta = timedelta(seconds=1)
    stops: timedelta = timedelta(seconds=1)
    provisions: timedelta = timedelta(seconds=2)
    gateway_api: bool = True
    gateway_controller: str = "simulated"
    ingress_controller: str = "simulated"
    load_balancers: bool = True
    boots: bool = False
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    seed: int = 1


@attrs.frozen(kw_only=True)
class Request:
    """One request that was made."""

    method: str
    path: str
    query: Mapping[str, str]
    user: str
    status: int
    at: datetime
