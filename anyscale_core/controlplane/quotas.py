"""Quotas as the engine uses them: set, counted, kept, warned of.

Usage is counted from the nodes that may exist, never kept beside them: what ends is free again, whoever died in the middle.
A hard quota is kept by the transaction that records new nodes: it holds the quota's row until it commits, so those of all
control planes on one store come one after the other. Rows are locked in this order: clusters by id, then quotas by name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import attrs
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError

from anyscale_core.clock import Clock
from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.rows import Event, Status, add_event, touch
from anyscale_core.controlplane.spending import spent
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import NameTaken, UnknownName
from anyscale_core.models import wire
from anyscale_core.models.actions import CreateNodes
from anyscale_core.models.cluster import nearest
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.quota import BUDGET, QuotaMode, QuotaSpec, QuotaUsage
from anyscale_core.models.records import ClusterRecord, Goal
from anyscale_core.models.resources import EPSILON, total
from anyscale_core.planning.quotas import add, admit_whole, show, takes

BELOW, NEAR, BEYOND = 0, 1, 2
"""How far a limit is used up: it warns when that grows."""


@attrs.frozen(kw_only=True)
class QuotaStatus:
    """A quota, its usage, and the live clusters that it holds back."""

    usage: QuotaUsage
    holds: tuple[str, ...] = ()


class Quotas:
    """The quotas of a store. Threads may share it."""

    def __init__(self, *, store: Store, clock: Clock, every: timedelta) -> None:
        """``every``: how far apart two looks at all quotas are at least."""
        self._store, self._clock, self._every = store, clock, every
        self._looked_at: datetime | None = None

    # -- what people do ------------------------------------------------------------------------------------------------

    def set(self, spec: QuotaSpec) -> bool:
        """Make or change a quota; return whether it is new. What it held back is looked at again. Raises NameTaken."""
        now, doc = self._clock.now(), wire.unstructure(spec)
        try:
            with self._store.write() as connection:
                self._wake_held(connection, now)
                changed = update(t.quotas).where(t.quotas.c.name == spec.name).values(spec=doc)
                is_new = connection.execute(changed).rowcount == 0
                if is_new:
                    connection.execute(insert(t.quotas).values(name=spec.name, spec=doc, created_at=now, levels={}))
        except IntegrityError:
            raise NameTaken(
                f"quota {spec.name!r} was made by somebody else just now; look at it, then set it"
            ) from None
        self.warn()
        return is_new

    def delete(self, name: str) -> QuotaSpec:
        """Forget a quota and return it. What it held back is looked at again. Raises UnknownName."""
        with self._store.write() as connection:
            self._wake_held(connection, self._clock.now())
            specs = _specs(connection)
            if name not in specs:
                raise UnknownName(f"no quota {name!r}{nearest(name, specs)}")
            connection.execute(delete(t.quotas).where(t.quotas.c.name == name))
        return specs[name]

    def all(self) -> tuple[QuotaStatus, ...]:
        """Return every quota by name, with its usage now."""
        with self._store.read() as connection:
            usages = usage_of(connection, _specs(connection).values(), now=self._clock.now())
            held = _held(connection)
        names = self._store.names()
        return tuple(
            QuotaStatus(
                usage=usage,
                holds=tuple(sorted(names[id] for id, by in held.items() if usage.quota.name in by and id in names)),
            )
            for usage in usages
        )

    def get(self, name: str) -> QuotaStatus:
        """Return a quota with its usage now. Raises UnknownName with the nearest name."""
        found = {status.usage.quota.name: status for status in self.all()}
        if name not in found:
            raise UnknownName(f"no quota {name!r}{nearest(name, list(found))}")
        return found[name]

    # -- what the engine asks ------------------------------------------------------------------------------------------

    def specs_over(self, *, cloud: str, user: str, project: str | None) -> list[QuotaSpec]:
        """Return the quotas that a cluster counts against, hard and soft, by name."""
        with self._store.read() as connection:
            return covering(_specs(connection).values(), cloud=cloud, user=user, project=project)

    def usage_over(self, record: ClusterRecord) -> tuple[QuotaUsage, ...]:
        """Return the usage of the hard quotas over a cluster."""
        with self._store.read() as connection:
            hard = [spec for spec in _over(connection, record) if spec.mode is QuotaMode.HARD]
            return usage_of(connection, hard, now=self._clock.now())

    def admit(
        self, connection: Connection, record: ClusterRecord, creates: Sequence[CreateNodes]
    ) -> tuple[QuotaUsage, ...] | None:
        """Return the usage of all quotas over a cluster with these nodes; None when a hard one has no room for all of them.

        Until the transaction ends nobody else can add to any of these quotas.
        """
        names = [spec.name for spec in _over(connection, record)]
        if not names:
            return ()
        usage = usage_of(connection, _lock(connection, names), now=self._clock.now())
        hard = [one for one in usage if one.quota.mode is QuotaMode.HARD]
        if admit_whole(hard, record.spec, creates).held:
            return None
        together = total(takes(record.spec, action, action.count) for action in creates)
        return tuple(add(one, together, 1) for one in usage)

    def wake(self, record: ClusterRecord) -> None:
        """Make due what waits for a quota that a cluster counts against: nodes of it have ended."""
        with self._store.read() as connection:
            held = _held(connection)
            if not held:
                return
            names = {spec.name for spec in _over(connection, record)}
        for id, by in held.items():
            if id != record.id and names.intersection(by):
                self._store.touch(id, now=self._clock.now())

    # -- warnings ------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Warn of what time alone has used up; does nothing when it was asked a short while ago."""
        now = self._clock.now()
        if self._looked_at is None or now - self._looked_at >= self._every:
            self._looked_at = now
            self.warn()

    def warn(self) -> None:
        """Say which limits are nearly used up, or used up, and were not before."""
        now = self._clock.now()
        with self._store.read() as connection:
            usages = usage_of(connection, _specs(connection).values(), now=now)
            before = _levels(connection)
        news = [usage.quota.name for usage in usages if levels(usage) != before.get(usage.quota.name, {})]
        if not news:
            return  # a look is cheap; taking locks for nothing is not
        with self._store.write() as connection:
            specs = _lock(connection, news)
            for event in self.crossed(connection, usage_of(connection, specs, now=now)):
                add_event(connection, event)

    def crossed(
        self, connection: Connection, usages: Iterable[QuotaUsage], cluster_id: ClusterId | None = None
    ) -> list[Event]:
        """Record how far the limits are used up; return a warning for each that is further than was last recorded."""
        before, out = _levels(connection), list[Event]()
        for usage in usages:
            quota, after = usage.quota, levels(usage)
            known = before.get(quota.name, {})
            if after == known:
                continue
            connection.execute(update(t.quotas).where(t.quotas.c.name == quota.name).values(levels=after))
            out += [
                _warning(usage, path, level, at=self._clock.now(), cluster_id=cluster_id)
                for path, level in after.items()
                if level > known.get(path, BELOW)
            ]
        return out

    def _wake_held(self, connection: Connection, now: datetime) -> None:
        for id in sorted(_held(connection)):
            touch(connection, id, now)


def covering(specs: Iterable[QuotaSpec], *, cloud: str, user: str, project: str | None) -> list[QuotaSpec]:
    """Return the quotas that a cluster counts against."""
    return [spec for spec in specs if spec.covers(cloud=cloud, user=user, project=project)]


def usage_of(connection: Connection, specs: Iterable[QuotaSpec], *, now: datetime) -> tuple[QuotaUsage, ...]:
    """Count what is in use of some quotas: by the nodes that may exist, and by what was spent in the budgets' periods."""
    specs = tuple(specs)
    if not specs:
        return ()
    c, n = t.clusters.c, t.nodes.c
    among = or_(*(_scope(spec) for spec in specs))
    counted = connection.execute(
        select(c.cloud, c.created_by, c.project, n.charge, func.count().label("count"))
        .join_from(t.nodes, t.clusters, c.id == n.cluster_id)
        .where(n.ended_at.is_(None), among)
        .group_by(c.cloud, c.created_by, c.project, n.charge)
    ).all()
    periods = {spec.budget_period for spec in specs if spec.budget is not None}
    costs = spent(connection, periods, among, now)
    usages = []
    for spec in specs:
        used = dict.fromkeys(spec.limits, 0.0)
        for row in counted:
            if spec.covers(cloud=row.cloud, user=row.created_by, project=row.project):
                for path, amount in json.loads(row.charge).items():
                    if path in used:
                        used[path] += amount * row.count
        if spec.budget is not None:
            used[BUDGET] = sum(
                one.dollars
                for one in costs
                if one.period is spec.budget_period and spec.covers(cloud=one.cloud, user=one.user, project=one.project)
            )
        renews_at = spec.budget_period.renews(now) if spec.budget is not None else None
        usages.append(QuotaUsage(quota=spec, used=used, renews_at=renews_at))
    return tuple(usages)


def levels(usage: QuotaUsage) -> dict[str, int]:
    """Return the limits that are NEAR used up or BEYOND, by path."""
    found = {path: _level(usage, path, limit) for path, limit in usage.quota.limits.items()}
    return {path: level for path, level in found.items() if level > BELOW}


def _level(usage: QuotaUsage, path: str, limit: float) -> int:
    used = usage.used.get(path, 0.0)
    if used > limit + EPSILON or (path == BUDGET and usage.spent):
        return BEYOND
    return NEAR if used > 0 and used >= limit * usage.quota.warn_at - EPSILON else BELOW


def _warning(usage: QuotaUsage, path: str, level: int, *, at: datetime, cluster_id: ClusterId | None) -> Event:
    quota, used, limit = usage.quota, usage.used.get(path, 0.0), usage.quota.limits[path]
    amounts = show(path, used, limit) + ("" if path == BUDGET else " in use")
    near = f"quota {quota.name!r}: {amounts}; it warns from {quota.warn_at:.0%}"
    beyond = f"quota {quota.name!r} ({quota.mode.value}) is exceeded: {amounts}"
    return Event(
        at=at, kind="quota.exceeded" if level == BEYOND else "quota.near", level="WARNING", cluster_id=cluster_id,
        message=beyond if level == BEYOND else near,
        fields={"quota": quota.name, "limit": path, "used": used, "of": limit},
    )  # fmt: skip


def _specs(connection: Connection) -> dict[str, QuotaSpec]:
    rows = connection.execute(select(t.quotas.c.name, t.quotas.c.spec).order_by(t.quotas.c.name))
    return {row.name: wire.structure(row.spec, QuotaSpec) for row in rows}


def _lock(connection: Connection, names: Iterable[str]) -> list[QuotaSpec]:
    """Return quotas that nobody else can add to until the transaction ends. SQLite has one writer at a time anyway."""
    rows = select(t.quotas.c.spec).where(t.quotas.c.name.in_(list(names))).order_by(t.quotas.c.name).with_for_update()
    return [wire.structure(doc, QuotaSpec) for doc in connection.scalars(rows)]


def _levels(connection: Connection) -> Mapping[str, Mapping[str, int]]:
    return {row.name: row.levels for row in connection.execute(select(t.quotas.c.name, t.quotas.c.levels))}


def _over(connection: Connection, record: ClusterRecord) -> list[QuotaSpec]:
    return covering(
        _specs(connection).values(), cloud=record.cloud, user=record.created_by, project=record.spec.project
    )


def _scope(spec: QuotaSpec) -> ColumnElement[bool]:
    c = t.clusters.c
    chosen = ((c.cloud, spec.cloud), (c.created_by, spec.user), (c.project, spec.project))
    return and_(true(), *(column == value for column, value in chosen if value is not None))


def _held(connection: Connection) -> dict[ClusterId, tuple[str, ...]]:
    """Return the clusters whose growth is held back, each with the quotas that do it."""
    c = t.clusters.c
    rows = connection.execute(select(c.id, c.status).where(c.held == 1, c.ended_at.is_(None), c.goal == Goal.RUN.value))
    return {ClusterId(row.id): wire.structure(row.status, Status).held_by for row in rows}
