"""A Ray cluster in memory: what a head would report of its nodes, of what waits for room, and of its jobs."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import attrs

from anyscale_core.models.node import Demand, DrainAnswer, DrainMode, Gang, GangStrategy, JobReport, NodeDrain, RayNode
from anyscale_core.models.phases import JOB_ENDED, JobPhase
from anyscale_core.models.resources import Resources, fits, minus, plus, total


@attrs.define(kw_only=True, eq=False)
class FakeDemand:
    """Work that a test puts on a cluster: ``count`` equal pieces that run until they are released.

    A piece whose node is lost waits again, as a retried task does. ``gang``: all of it starts or none does.
    ``hold``: only asked for (``request_resources``), never run.
    """

    cluster: str
    pieces: tuple[Resources, ...]
    labels: Mapping[str, str] = attrs.field(factory=dict)
    gang: GangStrategy | None = None
    hold: bool = False
    released: bool = False
    placed: dict[int, str] = attrs.field(factory=dict)
    """Piece -> ray id of the node that it runs on."""

    def release(self) -> None:
        """Let all of it end."""
        self.released = True
        self.placed.clear()

    @property
    def waiting(self) -> int:
        """How many pieces have no node."""
        return 0 if self.released else len(self.pieces) - len(self.placed)


@attrs.define(kw_only=True, eq=False)
class FakeRayNode:
    """One raylet."""

    ray_id: str
    instance_name: str
    total: Resources
    labels: Mapping[str, str]
    idle_since: datetime
    status: str = "IDLE"
    """IDLE, RUNNING, DRAINING or DEAD."""
    used: Resources = attrs.field(factory=dict)
    unheard_since: datetime | None = None
    """Since when its machine is gone without a word; Ray finds out later."""

    @property
    def alive(self) -> bool:
        """Whether Ray believes it to be alive."""
        return self.status != "DEAD"


@attrs.define(kw_only=True, eq=False)
class FakeJob:
    """A job in Ray. ``ends_at`` None: it runs until it is stopped."""

    submission_id: str
    ends_at: datetime | None
    ends_as: JobPhase
    message: str
    exit_code: int | None
    phase: JobPhase = JobPhase.RUNNING


@attrs.define(kw_only=True, eq=False)
class FakeRay:
    """One life of one Ray cluster: from the start of its head to the head's end.

    ``notices_after``: how long Ray takes to notice a machine that is gone without a word.
    """

    epoch: str
    cluster: str
    notices_after: timedelta
    nodes: dict[str, FakeRayNode] = attrs.field(factory=dict)
    jobs: dict[str, FakeJob] = attrs.field(factory=dict)
    drains: dict[str, DrainAnswer] = attrs.field(factory=dict)
    ended: bool = False
    _shown: tuple[object, ...] = ()
    _shown_since: datetime | None = None

    def join(self, instance_name: str, total: Resources, labels: Mapping[str, str], *, now: datetime) -> FakeRayNode:
        """Add a raylet."""
        seed = f"{self.epoch}/{instance_name}/{len(self.nodes)}"
        ray_id = hashlib.sha256(seed.encode()).hexdigest()[:56]
        node = FakeRayNode(ray_id=ray_id, instance_name=instance_name, total=total, labels=labels, idle_since=now)
        self.nodes[ray_id] = node
        return node

    def leave(self, ray_id: str) -> None:
        """Let Ray know that a raylet is gone."""
        node = self.nodes.get(ray_id)
        if node is not None:
            node.status, node.used = "DEAD", {}

    def settle(self, demands: Iterable[FakeDemand], *, now: datetime) -> None:
        """Bring everything up to ``now``: notice the gone, end jobs, place what there is room for."""
        for node in self.nodes.values():
            if node.alive and node.unheard_since is not None and now - node.unheard_since >= self.notices_after:
                self.leave(node.ray_id)
        for job in self.jobs.values():
            if job.phase not in JOB_ENDED and job.ends_at is not None and now >= job.ends_at:
                job.phase = job.ends_as
        mine = [demand for demand in demands if demand.cluster == self.cluster]
        for demand in mine:
            demand.placed = {
                piece: where
                for piece, where in demand.placed.items()
                if where in self.nodes and self.nodes[where].alive
            }
        self._account(mine, now)
        for demand in mine:
            if not demand.hold and not demand.released:
                self._place(demand)
                self._account(mine, now)

    def submit(self, job: FakeJob) -> None:
        """Have a job running; a repeat of the same submission changes nothing."""
        self.jobs.setdefault(job.submission_id, job)

    def stop(self, submission_id: str) -> None:
        """Stop a job."""
        job = self.jobs.get(submission_id)
        if job is not None and job.phase not in JOB_ENDED:
            job.phase, job.message, job.exit_code = JobPhase.STOPPED, "stopped", None

    def drain(self, orders: Iterable[NodeDrain]) -> None:
        """Ask nodes to drain; an answer stands for as long as its order does."""
        orders = tuple(orders)
        self.drains = {o.ray_id: self.drains[o.ray_id] for o in orders if o.ray_id in self.drains}
        for order in orders:
            if order.ray_id in self.drains:
                continue
            node = self.nodes.get(order.ray_id)
            if node is None or not node.alive:
                self.drains[order.ray_id] = DrainAnswer.ACCEPTED
            elif order.mode is DrainMode.IDLE and node.used:
                self.drains[order.ray_id] = DrainAnswer.REJECTED
            else:
                node.status = "DRAINING"
                self.drains[order.ray_id] = DrainAnswer.ACCEPTED

    def views(self, *, now: datetime) -> tuple[RayNode, ...]:
        """Return the nodes as the GCS shows them."""
        return tuple(
            RayNode(
                ray_id=node.ray_id,
                instance_name=node.instance_name,
                status=node.status,
                idle=timedelta() if node.used or not node.alive else now - node.idle_since,
                total=node.total,
                available=minus(node.total, node.used) if node.alive else {},
            )
            for node in self.nodes.values()
        )

    def reports(self) -> tuple[JobReport, ...]:
        """Return the jobs as the Jobs API shows them."""
        return tuple(
            JobReport(
                submission_id=job.submission_id,
                phase=job.phase,
                message=job.message if job.phase in JOB_ENDED else "",
                exit_code=job.exit_code if job.phase in JOB_ENDED else None,
            )
            for job in self.jobs.values()
        )

    def pending(
        self, demands: Iterable[FakeDemand], *, now: datetime
    ) -> tuple[tuple[Demand, ...], tuple[Gang, ...], tuple[Demand, ...], timedelta]:
        """Return what waits (demands, gangs), what is asked to be held, and how long that has stood unchanged."""
        mine = [demand for demand in demands if demand.cluster == self.cluster and not demand.released]
        loose = tuple(
            Demand(resources=demand.pieces[0], count=demand.waiting, labels=demand.labels)
            for demand in mine
            if demand.waiting and not demand.hold and demand.gang is None
        )
        gangs = tuple(
            Gang(
                bundles=tuple(Demand(resources=piece, labels=demand.labels) for piece in demand.pieces),
                strategy=demand.gang,
            )
            for demand in mine
            if demand.gang is not None and demand.waiting
        )
        holds = tuple(
            Demand(resources=demand.pieces[0], count=len(demand.pieces), labels=demand.labels)
            for demand in mine
            if demand.hold
        )
        if self._shown != (loose, gangs, holds) or self._shown_since is None:
            self._shown, self._shown_since = (loose, gangs, holds), now
        return loose, gangs, holds, now - self._shown_since

    def _account(self, demands: Iterable[FakeDemand], now: datetime) -> None:
        """Count anew what runs where, and since when a node is idle."""
        used: dict[str, Resources] = {}
        for demand in demands:
            for piece, ray_id in demand.placed.items():
                used[ray_id] = plus(used.get(ray_id, {}), demand.pieces[piece])
        for node in self.nodes.values():
            was_busy, node.used = bool(node.used), used.get(node.ray_id, {})
            if was_busy and not node.used:
                node.idle_since = now
            if node.status in ("IDLE", "RUNNING"):
                node.status = "RUNNING" if node.used else "IDLE"

    def _place(self, demand: FakeDemand) -> None:
        rooms = {
            node.ray_id: minus(node.total, node.used)
            for node in self.nodes.values()
            if node.status in ("IDLE", "RUNNING")
            and node.unheard_since is None
            and all(node.labels.get(key) == value for key, value in demand.labels.items())
        }
        if demand.gang is GangStrategy.STRICT_PACK:
            rooms = {ray_id: room for ray_id, room in rooms.items() if fits(total(demand.pieces), room)}
            rooms = dict(list(rooms.items())[:1])
        placed = dict(demand.placed)
        for number, piece in enumerate(demand.pieces):
            if number in placed:
                continue
            taken = set(placed.values()) if demand.gang is GangStrategy.STRICT_SPREAD else set()
            choice = next((ray_id for ray_id, room in rooms.items() if ray_id not in taken and fits(piece, room)), None)
            if choice is None:
                if demand.gang is not None:
                    return
                continue
            placed[number] = choice
            rooms[choice] = minus(rooms[choice], piece)
        demand.placed = placed
