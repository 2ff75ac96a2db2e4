"""The one decision: what stands between a cluster as it is wanted and as it is seen, and what to do about it now."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from anyscale_core.models.actions import (
    Action,
    Converge,
    CreateNodes,
    DrainNode,
    EndCluster,
    Expose,
    Hold,
    MoveCluster,
    MoveJob,
    Plan,
    RepeatCreate,
    Touch,
)
from anyscale_core.models.cluster import HeadRecovery, NodeShape, WorkerGroup
from anyscale_core.models.instance import NodeKind, NoticeKind
from anyscale_core.models.job import AfterJob, Job
from anyscale_core.models.node import DrainMode, HeadReport, RayStatus
from anyscale_core.models.phases import CLUSTER_ENDED, JOB_ENDED, NODE_ENDED, ClusterPhase, JobPhase, NodePhase
from anyscale_core.models.records import ClusterRecord, EndCause, Goal, NodeRecord, Observed, Timing
from anyscale_core.planning import candidates, demand, liveness, quotas, rebuild, shapes, teardown
from anyscale_core.planning.liveness import View
from anyscale_core.planning.renewal import renewal
from anyscale_core.planning.shortages import shortage_of


def diff(desired: ClusterRecord, observed: Observed, *, now: datetime, timing: Timing) -> Plan:
    """Return the next actions for one cluster and when to look again; an empty plan means that it is as it should be.

    Small steps: what an action brings about is decided upon in the next plan, from what is then recorded and seen.
    """
    if desired.phase in CLUSTER_ENDED:
        return Plan()
    return _Diff(desired, observed, now, timing).plan()


def current_head(nodes: Sequence[NodeRecord]) -> NodeRecord | None:
    """Return the head that the cluster has or is getting; None when there is none."""
    heads = [node for node in nodes if node.kind is NodeKind.HEAD and node.phase in candidates.ALIVE]
    return max(heads, key=lambda node: (node.created_at, node.id), default=None)


def epoch_of(head: NodeRecord | None, observed: Observed) -> str:
    """Return the name of the Ray that nodes should belong to: the head's id, once its GCS answers; else empty."""
    report = head_report(head, observed)
    return head.id if head is not None and report is not None and report.gcs_address else ""


def head_report(head: NodeRecord | None, observed: Observed) -> HeadReport | None:
    """Return what the present head reports; None while it has not, or while its Ray is not up."""
    status = observed.status.get(head.id) if head is not None else None
    if status is None or status.ray not in (RayStatus.STARTING, RayStatus.ALIVE):
        return None
    return status.head


def aged(report: HeadReport, by: timedelta) -> HeadReport:
    """Return a report with its ages carried forward: what it says has held on since it was made."""
    if by <= timedelta():
        return report
    return attrs.evolve(
        report,
        demand_age=report.demand_age + by,
        ray_nodes=tuple(
            attrs.evolve(node, idle=node.idle + by) if node.status == "IDLE" else node for node in report.ray_nodes
        ),
    )


class _Diff:
    """One decision being made: gathers actions and times, and carries the nodes forward as they are moved."""

    def __init__(self, desired: ClusterRecord, observed: Observed, now: datetime, timing: Timing) -> None:
        self.desired, self.observed, self.now, self.timing = desired, observed, now, timing
        self.nodes: list[NodeRecord] = list(desired.nodes)
        self.price = round(demand.price_of(desired.nodes), 6)
        self.actions: list[Action] = []
        self.sweeps: list[datetime] = []
        self.looks: list[datetime] = []
        self.unmet: list[str] = []
        self.usage = observed.usage
        self.held: dict[str, str] = {}
        self.is_fresh = False
        self._first_zone: str | None = None
        head = current_head(self.nodes)
        report = head_report(head, observed)
        self.report = aged(report, now - self._heard(observed.status[head.id].seen_at)) if report and head else None
        self.epoch = epoch_of(head, observed)
        self.views = {
            node.id: View(
                instance=observed.instances.get(node.name),
                status=observed.status.get(node.id),
                swept_at=observed.swept_at,
                epoch=self.epoch,
                head_report=self.report,
                head_seen_at=observed.status[head.id].seen_at
                if head is not None and head.id in observed.status
                else None,
                listening_since=observed.listening_since,
            )
            for node in self.nodes
        }

    def plan(self) -> Plan:
        if self.desired.goal is Goal.TERMINATE:
            return teardown.end(self.desired, self.views, now=self.now, timing=self.timing)
        self._judge_nodes()
        ending = self._ending()
        if ending is not None:
            return self._finish((*self.actions, ending))
        self._repeat_creates()
        self._notices()
        barred = self._floors()
        self._demand(barred)
        self._hold()
        self._surplus()
        self._renew()
        leaving = teardown.leave(self.nodes, self.views, now=self.now, timing=self.timing)
        self.actions += leaving.actions
        self.sweeps += [leaving.sweep_from] if leaving.sweep_from else []
        self.looks += [leaving.look_at] if leaving.look_at else []
        self._endpoint()
        self._phase()
        self._jobs()
        self._activity()
        return self._finish(tuple(self.actions))

    def _heard(self, at: datetime) -> datetime:
        """Return from when on something may be taken to have held: not for the time in which nobody listened."""
        return max(at, self.observed.listening_since or at)

    def _finish(self, actions: tuple[Action, ...]) -> Plan:
        requeue = teardown.soonest(*self.looks, now=self.now, at_least=timedelta(milliseconds=20))
        return Plan(
            actions=actions,
            sweep_from=max(self.sweeps, default=None),
            requeue_after=requeue,
            unmet=tuple(self.unmet),
            price_per_hour=self.price,
            next_price_per_hour=self._next_price(actions),
        )

    def _next_price(self, actions: Sequence[Action]) -> float:
        gone = {action.node_id for action in actions if isinstance(action, DrainNode)}
        stay = demand.price_of(node for node in self.nodes if node.id not in gone)
        new = [action for action in actions if isinstance(action, CreateNodes)]
        return round(stay + sum(action.count * action.offering.price_per_hour for action in new), 6)

    # -- what is ------------------------------------------------------------------------------------------------------

    def _judge_nodes(self) -> None:
        for index, node in enumerate(self.nodes):
            if node.phase in NODE_ENDED:
                continue
            verdict = liveness.judge(node, self.views[node.id], now=self.now, timing=self.timing)
            self.sweeps += [verdict.sweep_from] if verdict.sweep_from else []
            self.looks += [verdict.look_at] if verdict.look_at else []
            move = verdict.move
            if move is None:
                continue
            self.actions.append(move)
            self.nodes[index] = attrs.evolve(node, phase=move.to, reason=move.reason)
            if move.failure is not None:
                short = shortage_of(node, move.failure, now=self.now)
                self.observed = attrs.evolve(self.observed, shortages=(*self.observed.shortages, short))

    def _repeat_creates(self) -> None:
        for launch in self.desired.launches:
            if not any(node.id in launch.node_ids and node.phase is NodePhase.RECORDED for node in self.nodes):
                continue
            if launch.retry_at is not None and self.now < launch.retry_at:
                self.looks.append(launch.retry_at)
                continue
            why = launch.error or "the call was recorded and its answer was not"
            self.actions.append(RepeatCreate(token=launch.token, reason=why))

    def _notices(self) -> None:
        """A node that the cloud will take back is drained first; its replacement is started at once."""
        for index, node in enumerate(self.nodes):
            instance = self.views[node.id].instance
            if instance is None or instance.notice is None or instance.notice.kind is not NoticeKind.PREEMPTION:
                continue
            if node.kind is NodeKind.WORKER and node.phase is NodePhase.READY:
                deadline = instance.notice.at or self.now + self.timing.drain_timeout
                self._drain(index, DrainMode.GRACEFUL, deadline, "the cloud takes it back")

    def _drain(self, index: int, mode: DrainMode, deadline: datetime, reason: str) -> None:
        node = self.nodes[index]
        self.actions.append(DrainNode(node_id=node.id, name=node.name, mode=mode, deadline=deadline, reason=reason))
        self.nodes[index] = attrs.evolve(
            node, phase=NodePhase.DRAINING, drain=mode, drain_deadline=deadline, phase_since=self.now, reason=reason
        )

    # -- what is wanted -----------------------------------------------------------------------------------------------

    def _ending(self) -> EndCluster | None:
        spec, running_at = self.desired.spec, self.desired.running_at
        jobs = self.desired.jobs
        last = [job for job in jobs if job.spec.after is AfterJob.TERMINATE]
        if last and all(job.phase in JOB_ENDED for job in jobs):
            outcome = ", ".join(f"{job.id} {job.phase.value}" for job in last)
            return EndCluster(cause=EndCause.JOB_ENDED, reason=f"its job has ended: {outcome}")
        head_lost = [node for node in self.nodes if node.kind is NodeKind.HEAD and node.ready_at is not None]
        if (
            running_at is not None
            and spec.head_recovery is HeadRecovery.NONE
            and current_head(self.nodes) is None
            and head_lost
        ):
            reason = f"the head was lost ({head_lost[-1].reason}) and head_recovery is NONE"
            return EndCluster(cause=EndCause.FAILURE, reason=reason)
        if running_at is not None and spec.max_uptime_minutes > 0:
            limit = running_at + timedelta(minutes=spec.max_uptime_minutes)
            if self.now >= limit:
                return EndCluster(cause=EndCause.UPTIME, reason=f"it has been up for {spec.max_uptime_minutes:g} min")
            self.looks.append(limit)
        return self._idle_end()

    def _idle_end(self) -> EndCluster | None:
        minutes = self.desired.spec.idle_termination_minutes
        since = self.desired.active_at or self.desired.running_at
        if minutes <= 0 or since is None or self._busy():
            return None
        limit = self._heard(since) + timedelta(minutes=minutes)
        if self.now >= limit:
            return EndCluster(cause=EndCause.IDLE, reason=f"it has been idle for {minutes:g} min")
        self.looks.append(limit)
        return None

    def _busy(self) -> bool:
        waiting = any(job.phase not in JOB_ENDED for job in self.desired.jobs)
        return waiting or self.desired.phase is not ClusterPhase.RUNNING or demand.busy(self.report)

    def _floors(self) -> frozenset[str]:
        """Start the head and the minimum of every group; return the groups that must not grow now."""
        spec, barred = self.desired.spec, set()
        creates: list[CreateNodes] = []
        if current_head(self.nodes) is None and not self._volume_is_held():
            creates += self._start(spec.head_node, shapes.HEAD_GROUP, NodeKind.HEAD, 1)
        for group in spec.worker_nodes:
            if self._backoff(group.name) is not None:
                barred.add(group.name)
            present = sum(1 for node in self.nodes if node.group == group.name and node.phase in candidates.PRESENT)
            have = sum(
                1
                for node in demand.alive(self.nodes, group.name)
                if node.shape == shapes.fingerprint(spec, group) or node.phase is not NodePhase.READY
            )
            missing = min(group.min_nodes - have, group.max_nodes - present)
            if missing > 0:
                creates += self._start(group, group.name, NodeKind.WORKER, missing)
        begun = self.desired.phase is not ClusterPhase.STARTING or any(
            n.phase in candidates.PRESENT for n in self.nodes
        )
        admit = quotas.admit if begun else quotas.admit_whole
        self._admitted(admit(self.usage, spec, creates))
        self.unmet += self.held.values()
        return frozenset(barred)

    def _admitted(self, admitted: quotas.Admitted) -> None:
        self.actions += admitted.actions
        self.usage = admitted.usage
        self.held |= admitted.held

    def _volume_is_held(self) -> bool:
        """Tell whether an earlier head may still write to the volume that the next one goes on from."""
        heads = [node for node in self.nodes if node.kind is NodeKind.HEAD and node.phase not in NODE_ENDED]
        return self.desired.volume is not None and bool(heads)

    def _start(self, shape: NodeShape, group: str, kind: NodeKind, count: int) -> list[CreateNodes]:
        """Return the call for so many nodes of a group; empty when they have to wait."""
        spec, observed = self.desired.spec, self.observed
        wait = self._backoff(group)
        if wait is not None:
            self.looks.append(wait)
            return []
        starting = self.desired.phase is ClusterPhase.STARTING
        if starting and self._failures(group) >= self.timing.start_attempts:
            last = [node for node in self.nodes if node.group == group][-1]
            reason = f"{self.timing.start_attempts} nodes of {group!r} did not start; the last: {last.reason}"
            self.actions.append(EndCluster(cause=EndCause.FAILURE, reason=reason))
            return []
        fitting = shapes.offerings_that_fit(
            spec, shape, observed.offerings, shortages=observed.shortages,
            home_zone=self._zone(), now=self.now,
        )  # fmt: skip
        if fitting and isinstance(shape, WorkerGroup):
            reason = f"{group!r} is {count} below its minimum"
            new = demand.minimum(self.nodes, shape, fitting, count)
            return list(demand.creations(spec, self.nodes, new, reason=reason))
        if fitting:
            create = CreateNodes(
                kind=kind,
                group=group,
                offering=fitting[0],
                count=count,
                reason="the cluster needs a head",
                shape=shapes.fingerprint(spec, shape),
                zones=(fitting[0].zone,) if fitting[0].zone else (),
            )
            return [create]
        why = shapes.why_none(spec, shape, observed.offerings, observed.shortages)
        self.unmet.append(f"{group}: {why}")
        live = [shortage for shortage in observed.shortages if self.now < shortage.until]
        fatal = [shortage for shortage in live if shortage.fatal]
        ever = shapes.offerings_that_fit(
            spec, shape, [attrs.evolve(one, available=True) for one in observed.offerings],
            shortages=(), home_zone="", now=self.now,
        )  # fmt: skip
        if starting and (fatal or not ever):
            self.actions.append(EndCluster(cause=EndCause.FAILURE, reason=f"{group!r} cannot be started: {why}"))
        self.looks += [shortage.until for shortage in live] or [self.now + self.timing.sweep_ceiling]
        return []

    def _zone(self) -> str:
        """Return the zone that nodes go to: where the others are, else the best one to start in."""
        if self._first_zone is None:
            self._first_zone = candidates.first_zone(self.desired.spec, self.observed, now=self.now)
        return candidates.home_zone(self.nodes) or self._first_zone

    def _failures(self, group: str) -> int:
        """Count the nodes of a group that never got READY, since the last one that did."""
        count = 0
        for node in sorted(self.nodes, key=lambda node: (node.created_at, node.id), reverse=True):
            refused = node.phase is NodePhase.FAILED or node.instance_id is None
            if node.group != group or node.drain is not None or refused:
                continue
            if node.ready_at is not None:
                break
            count += node.phase in (NodePhase.LOST, NodePhase.DELETING, NodePhase.GONE)
        return count

    def _backoff(self, group: str) -> datetime | None:
        """Return until when no node of the group is to be started because the last ones failed."""
        failures = self._failures(group)
        if failures == 0:
            return None
        last = max(node.created_at for node in self.nodes if node.group == group)
        wait = min(self.timing.failure_backoff * 2 ** (failures - 1), timedelta(minutes=5))
        return last + wait if self.now < last + wait else None

    def _demand(self, barred: frozenset[str]) -> None:
        if self.report is None or not self.epoch or self.desired.running_at is None:
            return
        started = {action.group for action in self.actions if isinstance(action, CreateNodes)}
        growth = demand.grow(
            self.desired, self.nodes, self.observed, self.report,
            barred=barred | started, usage=self.usage, now=self.now, timing=self.timing,
        )  # fmt: skip
        self._admitted(quotas.admit(self.usage, self.desired.spec, growth.actions))
        self.held |= growth.held
        self.is_fresh = growth.settle_at is not None
        self.unmet += (*growth.held.values(), *growth.unmet)
        self.looks += [growth.settle_at] if growth.settle_at else []
        if growth.actions:
            return
        rays = {node_id: status.ray_id for node_id, status in self.observed.status.items()}
        for action in demand.shrink(self.desired, self.nodes, rays, self.report, now=self.now, timing=self.timing):
            assert isinstance(action, DrainNode)
            index = next(i for i, node in enumerate(self.nodes) if node.id == action.node_id)
            self._drain(index, action.mode, action.deadline, action.reason)
        self._look_at_idle()
        if any(isinstance(action, DrainNode | CreateNodes) for action in self.actions):
            return
        cheaper = rebuild.rebuild(
            self.desired, self.nodes, self.observed, self.report, barred=barred | started, now=self.now
        )
        # A quota that has no room for both the old and the new does not hold growth back: nothing is waiting.
        admitted = quotas.admit_whole(self.usage, self.desired.spec, cheaper.actions)
        self.actions += admitted.actions
        self.looks += [cheaper.look_at] if cheaper.look_at else []

    def _hold(self) -> None:
        """Tell which quotas hold growth back. Room may come from elsewhere: whoever makes it wakes those that wait."""
        if self.held:
            renewals = [one.renews_at for one in self.usage if one.spent and one.renews_at is not None]
            self.looks += [*renewals, self.now + self.timing.sweep_ceiling]
        # While the demand is too fresh to size the fleet by, nobody knows whether a quota still holds it back.
        kept = dict.fromkeys(self.desired.held_by, "") if self.is_fresh else {}
        held = kept | self.held
        if tuple(sorted(held)) != self.desired.held_by:
            self.actions.append(Hold(quotas=held))

    def _look_at_idle(self) -> None:
        """Idle workers above a minimum go when their time has come: look again then."""
        assert self.report is not None
        idle_for = timedelta(seconds=self.desired.spec.idle_worker_seconds)
        for ray in self.report.ray_nodes:
            if ray.status != "IDLE":
                continue
            node = next((n for n in self.nodes if n.name == ray.instance_name and n.phase is NodePhase.READY), None)
            group = self.desired.spec.group(node.group) if node is not None else None
            if group is not None and len(demand.alive(self.nodes, group.name)) > group.min_nodes:
                self.looks.append(self.now + max(idle_for - ray.idle, timedelta(milliseconds=500)))

    def _surplus(self) -> None:
        """Drain workers that the spec no longer has room for, or that are not made as it says now."""
        spec = self.desired.spec
        for group_name in sorted({node.group for node in self.nodes if node.kind is NodeKind.WORKER}):
            group = spec.group(group_name)
            alive = [node for node in demand.alive(self.nodes, group_name) if node.phase is NodePhase.READY]
            deadline = self.now + self.timing.drain_timeout
            if group is None:
                for node in alive:
                    self._drain(self._index(node), DrainMode.GRACEFUL, deadline, "its group is no longer in the spec")
                continue
            shape = shapes.fingerprint(spec, group)
            stale = [node for node in alive if node.shape != shape]
            for node in stale:
                self._drain(self._index(node), DrainMode.GRACEFUL, deadline, "the spec of its group has changed")
            excess = len(demand.alive(self.nodes, group_name)) - group.max_nodes
            fresh = sorted((node for node in alive if node.shape == shape), key=lambda node: node.created_at)
            for node in fresh[::-1][: max(0, excess)]:
                self._drain(self._index(node), DrainMode.GRACEFUL, deadline, f"max_nodes is {group.max_nodes} now")

    def _renew(self) -> None:
        due = renewal(self.nodes, self.observed.status, now=self.now)
        self.looks += [due.look_at] if due.look_at else []
        if due.node is not None:
            deadline = self.now + self.timing.drain_timeout
            self._drain(self._index(due.node), DrainMode.GRACEFUL, deadline, "its certificate comes to its end")

    def _index(self, node: NodeRecord) -> int:
        return next(index for index, other in enumerate(self.nodes) if other.id == node.id)

    # -- the cluster as a whole ----------------------------------------------------------------------------------------

    def _endpoint(self) -> None:
        if self.report is None or not self.report.gateway_port:
            return
        address = self.report.gcs_address.rpartition(":")[0]
        target = f"{address}:{self.report.gateway_port}"
        record = self.desired.endpoint
        if record is not None and record.target == target and record.url:
            return
        if record is not None and record.target == target and self.now < record.tried_at + self.timing.poll:
            self.looks.append(record.tried_at + self.timing.poll)
            return
        self.actions.append(Expose(target_address=address, target_port=self.report.gateway_port))

    def _phase(self) -> None:
        head = current_head(self.nodes)
        head_ready = head is not None and head.phase is NodePhase.READY
        short = [
            group.name
            for group in self.desired.spec.worker_nodes
            if sum(1 for n in demand.alive(self.nodes, group.name) if n.phase is NodePhase.READY) < group.min_nodes
        ]
        phase = self.desired.phase
        if head_ready and not short:
            # RUNNING too has a reason while Ray waits for what cannot be had.
            reason = self.unmet[0] if self.unmet else ""
            if phase is not ClusterPhase.RUNNING or self.desired.reason != reason:
                self.actions.append(MoveCluster(to=ClusterPhase.RUNNING, reason=reason))
        elif phase is ClusterPhase.RUNNING:
            why = f"below the minimum of {', '.join(short)}" if head_ready else "its head is not ready"
            self.actions.append(MoveCluster(to=ClusterPhase.RECOVERING, reason=why))
        elif self.unmet and self.desired.reason != self.unmet[0]:
            self.actions.append(MoveCluster(to=phase, reason=self.unmet[0]))
        converged = phase is ClusterPhase.RUNNING and not self.actions and not self.desired.launches
        if converged and self.desired.observed_generation != self.desired.generation:
            self.actions.append(Converge(generation=self.desired.generation))

    def _jobs(self) -> None:
        head = current_head(self.nodes)
        ready = self.desired.phase is ClusterPhase.RUNNING and head is not None and bool(self.epoch)
        reports = {report.submission_id: report for report in self.report.jobs} if self.report is not None else {}
        for job in self.desired.jobs:
            if job.phase in JOB_ENDED:
                continue
            if not job.epoch:
                if ready and head is not None:
                    self.actions.append(_job(job, JobPhase.WAITING, epoch=head.id))
                continue
            if head is None or job.epoch != head.id:
                if any(node.id == job.epoch and node.phase in candidates.ALIVE for node in self.nodes):
                    continue
                self._retry(job)
                continue
            report = reports.get(job.submission_id)
            if report is not None and report.phase is JobPhase.LOST:
                self._retry(attrs.evolve(job, phase=JobPhase.RUNNING))
            elif report is not None and report.phase is not job.phase:
                self.actions.append(
                    _job(job, report.phase, message=report.message, exit_code=report.exit_code, epoch=job.epoch)
                )

    def _retry(self, job: Job) -> None:
        never_ran = job.phase is JobPhase.WAITING
        if never_ran or job.attempt <= job.spec.max_retries:
            attempt = job.attempt if never_ran else job.attempt + 1
            why = "the head was lost; it is tried again"
            self.actions.append(attrs.evolve(_job(job, JobPhase.WAITING, message=why, epoch=""), attempt=attempt))
            return
        why = f"the head was lost and all {job.attempt} attempts are used up"
        self.actions.append(_job(job, JobPhase.LOST, message=why, epoch=job.epoch))

    def _activity(self) -> None:
        """Note work now and then, so that idleness is counted from its end."""
        minutes = self.desired.spec.idle_termination_minutes
        if minutes <= 0 or not self._busy() or self.desired.running_at is None:
            return
        every = timedelta(minutes=minutes) / 20
        if self.desired.active_at is None or self.now - self.desired.active_at >= every:
            self.actions.append(Touch(active_at=self.now))
        self.looks.append(self.now + every)


def _job(job: Job, to: JobPhase, *, epoch: str, message: str = "", exit_code: int | None = None) -> MoveJob:
    return MoveJob(job_id=job.id, to=to, attempt=job.attempt, epoch=epoch, message=message, exit_code=exit_code)
