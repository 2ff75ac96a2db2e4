"""How kinds of Kubernetes say which market a node is of, and which accelerator it has: one table.

Sources: the vendors' node labels and taints. GKE cloud.google.com/gke-spot; EKS managed groups
eks.amazonaws.com/capacityType; Karpenter karpenter.sh/capacity-type; AKS kubernetes.azure.com/scalesetpriority.
"""

from collections.abc import Mapping

import attrs

from anyscale_core.models.cluster import MarketType

CAPACITY_TAINT = "node.anyscale.com/capacity-type"
ACCELERATOR_TAINT = "node.anyscale.com/accelerator-type"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"


@attrs.frozen(kw_only=True)
class Flavor:
    """Node labels of the markets and of accelerators, the taints that come with SPOT, and annotations of lasting Pods."""

    markets: Mapping[MarketType, Mapping[str, str]]
    accelerator: str = "nvidia.com/gpu.product"
    spot_taints: tuple[str, ...] = ()
    lasting: Mapping[str, str] = attrs.field(factory=dict)
    """Annotations of ON_DEMAND Pods: nobody may move them to save money."""


FLAVORS: Mapping[str, Flavor] = {
    "generic": Flavor(markets={MarketType.SPOT: {CAPACITY_TAINT: "SPOT"}, MarketType.ON_DEMAND: {}}),
    "aks": Flavor(
        markets={MarketType.SPOT: {"kubernetes.azure.com/scalesetpriority": "spot"}, MarketType.ON_DEMAND: {}},
        spot_taints=("kubernetes.azure.com/scalesetpriority",),
    ),
    "eks": Flavor(
        markets={
            MarketType.SPOT: {"eks.amazonaws.com/capacityType": "SPOT"},
            MarketType.ON_DEMAND: {"eks.amazonaws.com/capacityType": "ON_DEMAND"},
        },
        lasting={SAFE_TO_EVICT: "false"},
    ),
    "gke": Flavor(
        markets={MarketType.SPOT: {"cloud.google.com/gke-spot": "true"}, MarketType.ON_DEMAND: {}},
        accelerator="cloud.google.com/gke-accelerator",
        spot_taints=("cloud.google.com/gke-spot",),
    ),
    "karpenter": Flavor(
        markets={
            MarketType.SPOT: {"karpenter.sh/capacity-type": "spot"},
            MarketType.ON_DEMAND: {"karpenter.sh/capacity-type": "on-demand"},
        },
        lasting={SAFE_TO_EVICT: "false", "karpenter.sh/do-not-disrupt": "true"},
    ),
}
"""By the setting ``flavor``."""
