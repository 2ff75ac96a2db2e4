"""Whose a resource is, and the tags that say so."""

from collections.abc import Mapping

import attrs

from anyscale_core.models.ids import CloudName, ClusterId, PlaneId


@attrs.frozen(kw_only=True)
class Owner:
    """Whose a resource is: tagged on it in the call that makes it, and the filter of every list.

    With ``cluster`` unset it stands for all that the control plane owns in the cloud.
    """

    plane: PlaneId
    cloud: CloudName
    cluster: ClusterId | None = None

    def tags(self) -> dict[str, str]:
        """Return the reserved tags; drivers translate the keys where a cloud forbids them, and back."""
        tags = {TAG_PLANE: self.plane, TAG_CLOUD: self.cloud}
        return tags if self.cluster is None else tags | {TAG_CLUSTER: self.cluster}

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Tell whether something with these tags belongs to this owner."""
        return all(tags.get(key) == value for key, value in self.tags().items())


TAG_PLANE = "anyscale-core-plane"
TAG_CLOUD = "anyscale-core-cloud"
TAG_CLUSTER = "anyscale-core-cluster"
TAG_NODE = "anyscale-core-node"
TAG_NAME = "Name"
RESERVED_TAGS = frozenset({TAG_PLANE, TAG_CLOUD, TAG_CLUSTER, TAG_NODE, TAG_NAME})
