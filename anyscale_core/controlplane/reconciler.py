"""One cluster, one lease: observe, plan, record, act, until the plan is empty or there is something to wait for."""

from datetime import datetime, timedelta

import attrs
import structlog

from anyscale_core.clock import Clock
from anyscale_core.controlplane.clouds import AccountLimits, Cloud, Clouds
from anyscale_core.controlplane.grants import Grants
from anyscale_core.controlplane.heartbeats import Heartbeats
from anyscale_core.controlplane.provisioning import Work
from anyscale_core.controlplane.quotas import Quotas
from anyscale_core.controlplane.rows import Event, Lease
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CloudError, Retry
from anyscale_core.models.actions import Action, CreateNodes, EndCluster, MoveCluster, Plan
from anyscale_core.models.phases import CLUSTER_ENDED, ClusterPhase
from anyscale_core.models.records import ClusterRecord, EndCause, Goal, Observed, Timing
from anyscale_core.planning.diff import diff

log = structlog.get_logger(__name__)

AGAIN = timedelta(seconds=2)
"""When a cloud that did not answer is asked again, at the earliest."""
ROUNDS = 12
"""Plans in one sitting; a cluster that still changes then gets its next turn after the others."""


class Reconciler:
    """Works on whichever cluster it is given the lease of. Threads may share it."""

    def __init__(
        self, *, store: Store, clouds: Clouds, grants: Grants, heartbeats: Heartbeats, quotas: Quotas, clock: Clock,
        settings: Settings,
    ) -> None:  # fmt: skip
        self._store, self._clouds, self._grants, self._heartbeats = store, clouds, grants, heartbeats
        self._quotas = quotas
        self._clock, self._settings = clock, settings
        self.listening_since = clock.now()
        """Since when nodes can be heard; set by the plane."""

    def reconcile(self, lease: Lease) -> datetime | None:
        """Bring one cluster closer to its wish; return when it is due next (None: when something changes).

        Raises LeaseLost when another control plane has taken it over.
        """
        works: list[Work] = []
        try:
            return self._turn(lease, works)
        finally:
            # Not before the end: a node that takes the place of an ended one comes before those that wait for room.
            if any(work.has_ended_nodes for work in works):
                self._quotas.wake(works[-1].record)

    def _turn(self, lease: Lease, works: list[Work]) -> datetime | None:
        now = self._clock.now()
        record = self._store.load(lease.cluster_id, history_from=now - self._settings.timing.history)
        if record is None or record.phase in CLUSTER_ENDED:
            return None
        cloud = self._clouds.get(record.cloud)
        timing = attrs.evolve(self._settings.timing, list_window=cloud.list_window)
        seen: datetime | None = None
        for _ in range(ROUNDS):
            now = self._clock.now()
            if lease.until - now < self._settings.lease_ttl / 2:
                lease = self._store.renew(lease, now=now, ttl=self._settings.lease_ttl)
            work = Work(
                record, lease=lease, store=self._store, cloud=cloud, heartbeats=self._heartbeats,
                quotas=self._quotas, clock=self._clock, settings=self._settings,
            )  # fmt: skip
            works.append(work)
            try:
                renew_at = self._ensure_grants(record, now)
                observed = self._observe(record, cloud, since=seen, now=now)
            except CloudError as error:
                return self._cannot_see(work, error, now)
            plan = self._plan(record, observed, now=now, timing=timing)
            swept = observed.swept_at
            if plan.sweep_from is not None and (swept is None or swept < plan.sweep_from) and seen != plan.sweep_from:
                seen = plan.sweep_from
                continue
            if not plan.actions:
                planned = None if plan.requeue_after is None else now + plan.requeue_after
                return min((due for due in (planned, renew_at) if due is not None), default=None)
            work.perform(plan.actions)
            if _ends(plan.actions):
                self._heartbeats.forget(record.id)
                self._grants.forget(record.id)
                return None
            fresh = self._store.load(lease.cluster_id, history_from=now - timing.history)
            assert fresh is not None, "a cluster's record is never removed while it is leased"
            record = fresh
        return self._clock.now() + timing.poll

    def _plan(self, record: ClusterRecord, observed: Observed, *, now: datetime, timing: Timing) -> Plan:
        """Return the plan. Quotas are only looked at when it would grow, or when one holds it back: at rest they cost nothing."""
        plan = diff(record, observed, now=now, timing=timing)
        if not record.held_by and not any(isinstance(action, CreateNodes) for action in plan.actions):
            return plan
        usage = self._quotas.usage_over(record)
        return diff(record, attrs.evolve(observed, usage=usage), now=now, timing=timing) if usage else plan

    def _ensure_grants(self, record: ClusterRecord, now: datetime) -> datetime | None:
        """Have what the nodes need of the bucket; return when to look after it again. Raises CloudError before the first node.

        A cluster that ends does without, and one that has nodes goes on being healed meanwhile.
        """
        if record.goal is not Goal.RUN:
            return None
        try:
            return self._grants.ensure(record)
        except CloudError as error:
            if not record.nodes:
                raise
            log.warning("a grant could not be had; it is asked for again", cluster=record.name, error=str(error))
            return now + max(error.retry_after or timedelta(), AGAIN)

    def _observe(self, record: ClusterRecord, cloud: Cloud, *, since: datetime | None, now: datetime) -> Observed:
        if record.nodes or since is not None:
            sweep = cloud.last_sweep() if since is None else cloud.sweep(since=since)
            if sweep is None:
                sweep = cloud.sweep()
        else:
            sweep = None
        instances = sweep.by_cluster.get(record.id, ()) if sweep is not None else ()
        status = self._store.statuses(record.id)
        waiting = any(one.head is not None and (one.head.demand or one.head.gangs) for one in status.values())
        quotas = cloud.quotas() if waiting and record.goal is Goal.RUN else AccountLimits()
        return Observed(
            instances={instance.name: instance for instance in instances},
            swept_at=sweep.began_at if sweep is not None else None,
            status=status,
            offerings=cloud.offerings() if record.goal is Goal.RUN else (),
            shortages=self._store.shortages(record.cloud, now=now),
            listening_since=self.listening_since,
            quotas=quotas.limits,
            quotas_at=quotas.read_at,
        )

    def _cannot_see(self, work: Work, error: CloudError, now: datetime) -> datetime:
        """The cloud did not answer: nothing is decided from ignorance. Say so once, and look again later."""
        why = f"the cloud cannot be read: {error}"
        hopeless = (
            error.retry is Retry.AFTER_FIX and work.record.phase is ClusterPhase.STARTING and not work.record.nodes
        )
        if hopeless and work.record.goal is Goal.RUN:
            work.perform([EndCluster(cause=EndCause.FAILURE, reason=why)])
            return now
        if work.record.reason != why:
            work.perform([MoveCluster(to=work.record.phase, reason=why)])
            self._store.add_events(
                Event(at=now, kind="cloud.unreadable", level="WARNING", message=why, cluster_id=work.record.id)
            )
        return now + max(error.retry_after or timedelta(), AGAIN)


def _ends(actions: tuple[Action, ...]) -> bool:
    return any(isinstance(action, MoveCluster) and action.to in CLUSTER_ENDED for action in actions)
