"""Small builders of valid values, for tests that care about one field of many."""

from typing import Any

import attrs

from anyscale_core.models.cluster import ClusterSpec, HeadNode, MarketType, WorkerGroup
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret


def owner(plane: str = "pln_test", cloud: str = "fake", cluster: str | None = None) -> Owner:
    """Return an owner; without a cluster it stands for the whole plane in the cloud."""
    return Owner(plane=PlaneId(plane), cloud=CloudName(cloud), cluster=None if cluster is None else ClusterId(cluster))


def workers(
    name: str = "workers",
    *,
    instance_type: str = "cpu-4",
    min_nodes: int = 0,
    max_nodes: int = 10,
    market_type: MarketType = MarketType.ON_DEMAND,
    **fields: Any,
) -> WorkerGroup:
    """Return a worker group of an instance type of the fake catalogue."""
    return WorkerGroup(
        name=name, instance_type=instance_type, min_nodes=min_nodes, max_nodes=max_nodes, market_type=market_type,
        **fields,
    )  # fmt: skip


def a_spec(
    name: str = "demo", *groups: WorkerGroup, cloud: str = "fake", head: str = "cpu-4", **fields: Any
) -> ClusterSpec:
    """Return a cluster spec: a head of the fake catalogue and these worker groups."""
    return ClusterSpec(name=name, cloud=cloud, head_node=HeadNode(instance_type=head), worker_nodes=groups, **fields)


def a_bootstrap(node_id: str = "nod_1", *, identity_provider: str = "fake") -> Bootstrap:
    """Return a bootstrap; its join token is made from the node's id."""
    return Bootstrap(
        url="https://plane.invalid",
        ca_pem="",
        node_id=NodeId(node_id),
        join_token=Secret(f"join-{node_id}"),
        identity_provider=identity_provider,
    )


def an_instance_spec(name: str = "demo-worker-1", **fields: Any) -> InstanceSpec:
    """Return an instance spec: a worker of ``owner(cluster="clu_1")``, a cpu-4 of the fake catalogue."""
    spec = InstanceSpec(
        name=name,
        node_id=NodeId(f"nod_{name}"),
        owner=owner(cluster="clu_1"),
        kind=NodeKind.WORKER,
        group="workers",
        instance_type="cpu-4",
    )
    return attrs.evolve(spec, **fields)
