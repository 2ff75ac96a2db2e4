"""Names and paths that say all there is to know of a thing, where AWS lists no tags."""

import attrs

from anyscale_aws.tags import digest
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId
from anyscale_core.models.owner import Owner

ROOT = "anyscale-core"
STEM = "ac-"
"""What the names of roles, instance profiles and buckets begin with."""
NONE = "-"


def profile_name(owner: Owner, name: str) -> str:
    """Return what an identity's role and instance profile are called: unique in the account, at most 64 characters."""
    return f"{STEM}{name[:40].rstrip('-')}-{digest(owner.plane, owner.cloud, name)}"


def bucket_name(owner: Owner, name: str) -> str:
    """Return what a bucket is called in the world: all of AWS shares the names of buckets, which have at most 63 characters."""
    return f"{STEM}{name[:36].rstrip('-')}-{digest(owner.plane, owner.cloud, name)}"


@attrs.frozen(kw_only=True)
class Path:
    """The path of a role or an instance profile: whose it is, what it is called, and which call made it.

    IAM lists paths and no tags, and gives both in the creating call alone.
    """

    owner: Owner
    name: str
    token: str
    spec: str

    def __str__(self) -> str:
        return f"{prefix(self.owner)}{self.owner.cluster or NONE}/{self.name}/{self.token}/{self.spec}/"

    @classmethod
    def parse(cls, text: str) -> "Path | None":
        """Return what a path says; None for one that is not ours."""
        parts = text.strip("/").split("/")
        if len(parts) != 7 or parts[0] != ROOT:
            return None
        _, plane, cloud, cluster, name, token, spec = parts
        owner = Owner(
            plane=PlaneId(plane), cloud=CloudName(cloud), cluster=None if cluster == NONE else ClusterId(cluster)
        )
        return cls(owner=owner, name=name, token=token, spec=spec)


def prefix(owner: Owner) -> str:
    """Return what the paths of a cloud begin with."""
    return f"/{ROOT}/{owner.plane}/{owner.cloud}/"
