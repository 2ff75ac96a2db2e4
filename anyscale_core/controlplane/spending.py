"""What nodes have cost, by the catalogue's prices: from the record of a node to the moment when it was seen gone.

Counted from the nodes' own rows, so there is nothing to keep in step. Only what is forgotten is added up, in the transaction
that forgets it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import attrs
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    type_coerce,
    update,
)

from anyscale_core.controlplane import schema as t
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.quota import BudgetPeriod

HOUR = timedelta(hours=1)
MICROSECONDS_PER_HOUR = 3.6e9


@attrs.frozen(kw_only=True)
class Spent:
    """What was spent in a period on the clusters of one cloud, user and project."""

    period: BudgetPeriod
    cloud: str
    user: str
    project: str
    dollars: float


def spent(
    connection: Connection, periods: Iterable[BudgetPeriod], among: ColumnElement[bool], now: datetime
) -> list[Spent]:
    """Return what was spent on the clusters ``among`` which it is asked for (a condition on ``clusters``), by whose it was.

    Of periods that all are under way at ``now``. Nodes that the cloud never made cost nothing.
    """
    return [
        Spent(period=period, cloud=row.cloud, user=row.created_by, project=row.project, dollars=row.dollars)
        for period in periods
        for query in (_living(period.began(now), now).where(among), _forgotten(period.began(now)))
        for row in connection.execute(query)
    ]


def settle(connection: Connection, which: ColumnElement[bool]) -> None:
    """Add up what some nodes cost that are about to be forgotten, by day. A node that has not ended counts as nothing."""
    c, n = t.clusters.c, t.nodes.c
    rows = connection.execute(
        select(c.cloud, c.created_by, c.project, n.created_at, n.ended_at, n.price_per_hour)
        .join_from(t.nodes, t.clusters, c.id == n.cluster_id)
        .where(which, n.ended_at.is_not(None), _made())
    )
    sums: defaultdict[tuple[datetime, str, str, str], float] = defaultdict(float)
    for row in rows:
        for day, part in _days(row.created_at, row.ended_at):
            sums[day, row.cloud, row.created_by, row.project] += row.price_per_hour * (part / HOUR)
    for (day, cloud, user, project), dollars in sums.items():
        key = {"day": day, "cloud": cloud, "created_by": user, "project": project}
        where = [t.spending.c[name] == value for name, value in key.items()]
        more = {"dollars": t.spending.c.dollars + dollars}
        if connection.execute(update(t.spending).where(*where).values(**more)).rowcount == 0:
            connection.execute(insert(t.spending).values(**key, dollars=dollars))


def _living(began: datetime | None, now: datetime) -> Any:
    """Sum up price x time over the nodes that are remembered, the time cut to what lies behind ``began``."""
    c, n = t.clusters.c, t.nodes.c
    start: ColumnElement[Any] = n.created_at
    is_in: ColumnElement[bool] = _made()
    if began is not None:
        start = case((n.created_at < began, literal(began, t.Instant)), else_=n.created_at)
        is_in = _made() & or_(n.ended_at.is_(None), n.ended_at > began)
    end = func.coalesce(n.ended_at, literal(now, t.Instant))
    time = type_coerce(end, BigInteger) - type_coerce(start, BigInteger)
    dollars = func.sum(time * n.price_per_hour) / MICROSECONDS_PER_HOUR
    return (
        select(c.cloud, c.created_by, c.project, dollars.label("dollars"))
        .join_from(t.nodes, t.clusters, c.id == n.cluster_id)
        .where(is_in)
        .group_by(c.cloud, c.created_by, c.project)
    )


def _forgotten(began: datetime | None) -> Any:
    s = t.spending.c
    query = select(s.cloud, s.created_by, s.project, func.sum(s.dollars).label("dollars"))
    return (query if began is None else query.where(s.day >= began)).group_by(s.cloud, s.created_by, s.project)


def _made() -> ColumnElement[bool]:
    return t.nodes.c.phase != NodePhase.FAILED.value


def _days(since: datetime, until: datetime) -> Iterator[tuple[datetime, timedelta]]:
    """Cut a time at midnights (UTC); yield each day with its part."""
    while since < until:
        day = since.replace(hour=0, minute=0, second=0, microsecond=0)
        end = min(until, day + timedelta(days=1))
        yield day, end - since
        since = end
