"""Grants on the clouds' buckets: asked for by the reconciler and by people, only looked up by heartbeats.

Heartbeats call no cloud, so what nodes are told of the bucket has to be at hand before the nodes are.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from anyscale_core.clock import Clock
from anyscale_core.controlplane.clouds import Cloud, Clouds
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import ClusterId, Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.phases import CLUSTER_ENDED, JOB_ENDED
from anyscale_core.models.records import ClusterRecord
from anyscale_core.models.storage import Grant, StoreAccess

PACKAGES = "packages/"
"""Where uploaded working directories lie in a cloud's bucket."""
FADES = timedelta(minutes=15)
"""An access is asked for anew when it has less than this left: a node may be in the middle of a long upload."""


def cluster_prefix(cluster_id: ClusterId) -> str:
    """Return a cluster's own prefix in its cloud's bucket; nothing of another cluster is below it."""
    return f"clusters/{cluster_id}/"


class Grants:
    """The grants of this plane's clusters, kept while their clusters live. Threads may share it."""

    def __init__(self, *, clouds: Clouds, clock: Clock) -> None:
        self._clouds, self._clock = clouds, clock
        self._kept: dict[ClusterId, dict[tuple[Access, str], Grant]] = {}
        self._wanted: dict[ClusterId, None] = {}

    def ensure(self, record: ClusterRecord) -> datetime | None:
        """Have all that the cluster's nodes need; return when some of it has to be asked for anew. Raises CloudError."""
        stores = [self.access(record, access, prefix) for access, prefix in _needed(record)]
        return min((store.expires_at - FADES for store in stores if store.expires_at is not None), default=None)

    def access(self, record: ClusterRecord, access: Access, prefix: str = "") -> StoreAccess:
        """Return an access to a prefix of the cloud's bucket (the cluster's own by default). Raises CloudError."""
        prefix = prefix or cluster_prefix(record.id)
        grant = self._kept.get(record.id, {}).get((access, prefix))
        if grant is None or not self._is_fresh(grant.store):
            grant = self._asked(record, access, prefix)
        return grant.store

    def handed(self, record: ClusterRecord, access: Access) -> StoreAccess:
        """Return an access to the cluster's prefix for a person, who runs as nobody of the cloud's. Raises CloudError."""
        grant = self._kept.get(record.id, {}).get((access, cluster_prefix(record.id)))
        if grant is None or not self._is_fresh(grant.handed):
            grant = self._asked(record, access, cluster_prefix(record.id))
        return grant.handed

    def known(self, record: ClusterRecord, access: Access, prefix: str = "") -> StoreAccess | None:
        """Return what ``ensure`` has got; None while it has not. Calls nothing."""
        grant = self._kept.get(record.id, {}).get((access, prefix or cluster_prefix(record.id)))
        return grant.store if grant is not None else None

    def want(self, cluster_id: ClusterId) -> None:
        """Note that a node asks for what is not at hand here: the process has just started, or another works on the cluster."""
        self._wanted[cluster_id] = None

    def wanted(self) -> ClusterId | None:
        """Return, once, a cluster whose grants are wanted; None when none are."""
        try:
            return self._wanted.popitem()[0]
        except KeyError:
            return None

    def forget(self, cluster_id: ClusterId) -> None:
        """Drop what is kept of a cluster that has ended."""
        self._kept.pop(cluster_id, None)

    def _asked(self, record: ClusterRecord, access: Access, prefix: str) -> Grant:
        cloud = self._clouds.get(record.cloud)
        token = Token(f"grant-{record.id}-{access.value}-{prefix}")
        grant = granted(cloud, prefix, access, identity=record.identity, token=token)
        if record.phase not in CLUSTER_ENDED:
            self._kept.setdefault(record.id, {})[access, prefix] = grant
        return grant

    def _is_fresh(self, store: StoreAccess) -> bool:
        return store.expires_at is None or self._clock.now() < store.expires_at - FADES


def granted(cloud: Cloud, prefix: str, access: Access, *, identity: str = "", token: Token) -> Grant:
    """Ask a cloud for a grant to an identity: a mapped one, or what its clusters share for an empty name."""
    bucket, holder = cloud.shared().bucket, cloud.identity_of(identity)
    return cloud.storage.grant(
        bucket.name,
        prefix,
        identity=holder.name,
        access=access,
        owner=cloud.owner,
        token=token,
        deadline=cloud.deadline(),
    )


def revoked(cloud: Cloud, prefix: str, *, identity: str = "") -> Deletion:
    """Take away what was granted at a prefix; a cloud that never made its bucket and identity has granted nothing."""
    made = cloud.made(identity)
    if made is None:
        return Deletion.ALREADY_ABSENT
    bucket, holder = made
    return cloud.storage.revoke(bucket.name, prefix, identity=holder.name, owner=cloud.owner, deadline=cloud.deadline())


def _needed(record: ClusterRecord) -> Iterator[tuple[Access, str]]:
    yield Access.WRITE, cluster_prefix(record.id)
    if any(job.spec.package is not None and job.phase not in JOB_ENDED for job in record.jobs):
        yield Access.READ, PACKAGES
