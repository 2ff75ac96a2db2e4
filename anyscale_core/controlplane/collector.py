"""Sweeps each cloud now and then: wakes clusters whose instances have vanished, and deletes orphans. Forgets the old.

An orphan carries this plane's owner tag and has no record: names are recorded before the cloud hears of them, so nothing
that this plane still wants can look like one.
"""

from datetime import datetime, timedelta

from anyscale_core.clock import Clock
from anyscale_core.controlplane.clouds import Cloud, Clouds, Sweep
from anyscale_core.controlplane.quotas import Quotas
from anyscale_core.controlplane.rows import Event
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CloudError
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.instance import InstanceState, Notice

PRUNE = timedelta(hours=1)
UNSETTLED = timedelta(seconds=2)
"""How old a list may be while instances are on their way."""
SOUND = (InstanceState.RUNNING, None)
"""An instance that needs no decision."""


class Collector:
    """Looks after the clouds that have live clusters. One thread at a time."""

    def __init__(self, *, store: Store, clouds: Clouds, quotas: Quotas, clock: Clock, settings: Settings) -> None:
        self._store, self._clouds, self._quotas, self._clock, self._settings = store, clouds, quotas, clock, settings
        self._pruned_at: datetime | None = None
        self._troubles: dict[str, type[CloudError]] = {}
        """Clouds that could not be swept last time, and what came instead."""
        self._seen: dict[str, dict[str, tuple[InstanceState, Notice | None]]] = {}

    def collect(self) -> int:
        """Sweep every cloud whose last sweep is older than the ceiling; return how many orphans were deleted.

        Once an hour, forget what is older than the settings keep. Now and then, see how far quotas are used up.
        """
        now = self._clock.now()
        if self._pruned_at is None or now - self._pruned_at >= PRUNE:
            self._pruned_at = now
            self._store.prune(now - self._settings.retention)
        self._quotas.watch()
        return sum(self._collect(cloud) for cloud in self._clouds.built().values() if self._due(cloud))

    def _due(self, cloud: Cloud) -> bool:
        sweep = cloud.last_sweep()
        if sweep is None:
            return True
        ceiling = self._settings.timing.sweep_ceiling
        # While something starts or goes, lists are worth more: they tell addresses, and what will never come up.
        return self._clock.now() - sweep.began_at >= (ceiling if cloud.is_settled else min(ceiling, UNSETTLED))

    def _collect(self, cloud: Cloud) -> int:
        now = self._clock.now()
        try:
            sweep = cloud.sweep(since=now)
        except CloudError as error:
            if self._troubles.get(cloud.spec.name) is not type(error):  # said once, not at every look
                self._say(f"{cloud.spec.name} cannot be swept: {error}", "WARNING", "cloud.unreadable")
            self._troubles[cloud.spec.name] = type(error)
            return 0
        self._troubles.pop(cloud.spec.name, None)
        # Read after the sweep began: a node recorded since then is known.
        known = self._store.node_names(cloud.spec.name, since=now)
        cloud.is_settled = known <= {one.name for one in sweep.instances if one.state is InstanceState.RUNNING}
        self._wake(cloud, sweep, known, now)
        return self._orphans(cloud, sweep)

    def _wake(self, cloud: Cloud, sweep: Sweep, known: set[str], now: datetime) -> None:
        """Whatever the list shows differently from last time may need a decision; at first, whatever is not as it should be."""
        after = {instance.name: (instance.state, instance.notice) for instance in sweep.instances}
        before = self._seen.get(cloud.spec.name, dict.fromkeys(known, SOUND))
        self._seen[cloud.spec.name] = after
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if not changed:
            return
        for id in self._store.clusters_of(changed):
            self._store.touch(id, now=now)

    def _orphans(self, cloud: Cloud, sweep: Sweep) -> int:
        # Read after the sweep began: a node that was recorded since then is known, and so is one that has ended since.
        grace = cloud.list_window
        known = self._store.node_names(cloud.spec.name, since=sweep.began_at - grace)
        orphans = [
            instance
            for instance in sweep.instances
            if instance.name not in known
            and instance.state is not InstanceState.DELETING
            and (instance.created_at is None or instance.created_at + grace <= sweep.began_at)
        ]
        if not orphans:
            return 0
        try:
            ids = [instance.id for instance in orphans]
            cloud.cluster.delete(ids, owner=cloud.owner, deadline=cloud.deadline())
        except CloudError as error:
            self._say(f"orphans could not be deleted: {error}", "WARNING", "orphan.retry")
            return 0
        for instance in orphans:
            self._say(
                f"{instance.name} ({instance.id}) belonged to nothing and was deleted", "WARNING", "orphan.deleted",
                cluster_id=instance.owner.cluster,
            )  # fmt: skip
        return len(orphans)

    def _say(self, message: str, level: str, kind: str, cluster_id: ClusterId | None = None) -> None:
        self._store.add_events(
            Event(at=self._clock.now(), kind=kind, level=level, message=message, cluster_id=cluster_id)
        )
