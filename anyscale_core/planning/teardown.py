"""How nodes leave, one by one and all together: drain, delete, seen gone. Nothing is forgotten before it is seen gone."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from anyscale_core.models.actions import (
    Action,
    DeleteNodes,
    DeleteVolume,
    DrainNode,
    MoveCluster,
    MoveJob,
    MoveNode,
    Plan,
    Revoke,
    Withdraw,
)
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import InstanceState
from anyscale_core.models.node import DrainMode, RayStatus
from anyscale_core.models.phases import JOB_ENDED, NODE_ENDED, ClusterPhase, JobPhase, NodePhase
from anyscale_core.models.records import ClusterRecord, EndCause, Launch, NodeRecord, Timing
from anyscale_core.planning.liveness import View, absence


@attrs.frozen(kw_only=True)
class Leaving:
    """What the leaving nodes need now: actions, how fresh a list must be, and when to look again."""

    actions: tuple[Action, ...] = ()
    sweep_from: datetime | None = None
    look_at: datetime | None = None


def leave(nodes: Sequence[NodeRecord], views: Mapping[NodeId, View], *, now: datetime, timing: Timing) -> Leaving:
    """Move DRAINING, LOST and DELETING nodes on. Deletes are gathered into one call."""
    actions: list[Action] = []
    doomed: list[NodeRecord] = []
    sweeps: list[datetime] = []
    looks: list[datetime] = []
    for node in nodes:
        view = views[node.id]
        if node.phase is NodePhase.DRAINING:
            if _drained(node, view, now=now, timing=timing):
                doomed.append(node)
            elif node.drain_deadline is not None:
                looks.append(node.drain_deadline)
        elif node.phase is NodePhase.LOST:
            doomed.append(node)
        elif node.phase is NodePhase.DELETING:
            if view.instance is None and view.swept_at is not None and view.swept_at >= _shown_from(node, view, timing):
                actions.append(_gone(node))
                continue
            still_up = view.instance is not None and view.instance.state is not InstanceState.DELETING
            if still_up and now >= node.phase_since + timing.delete_again:
                doomed.append(node)
                continue
            sweeps.append(max(node.phase_since, now - timing.sweep_floor))
            looks.append(now + timing.sweep_floor)
    if doomed:
        actions.append(_delete(doomed, "they have drained or are lost"))
    return Leaving(actions=tuple(actions), sweep_from=max(sweeps, default=None), look_at=min(looks, default=None))


def end(desired: ClusterRecord, views: Mapping[NodeId, View], *, now: datetime, timing: Timing) -> Plan:
    """Return the next steps of a cluster whose goal is TERMINATE."""
    if desired.phase is not ClusterPhase.TERMINATING:
        return Plan(actions=(MoveCluster(to=ClusterPhase.TERMINATING, reason=desired.end_reason),))
    actions: list[Action] = [
        MoveJob(job_id=job.id, to=JobPhase.STOPPED, attempt=job.attempt, epoch=job.epoch, message="the cluster ended")
        for job in desired.jobs
        if job.phase not in JOB_ENDED
    ]
    doomed: list[NodeRecord] = []
    sweeps: list[datetime] = []
    looks: list[datetime] = []
    launches = {node_id: launch for launch in desired.launches for node_id in launch.node_ids}
    for node in desired.nodes:
        view = views[node.id]
        match node.phase:
            case NodePhase.RECORDED:
                step = _unborn(node, view, launches.get(node.id), timing=timing)
                if isinstance(step, MoveNode):
                    actions.append(step)
                else:
                    sweeps.append(min(step, now))
                    looks.append(max(step, now + timing.sweep_floor))
            case NodePhase.LAUNCHING:
                doomed.append(node)
            case NodePhase.STARTING | NodePhase.READY:
                if absence(node, view, timing=timing):
                    doomed.append(node)
                    continue
                deadline = now + timing.stop_timeout
                reason = desired.end_reason or "the cluster is ending"
                actions.append(
                    DrainNode(node_id=node.id, name=node.name, mode=DrainMode.NOW, deadline=deadline, reason=reason)
                )
            case NodePhase.SUSPECT:
                doomed.append(node)
            case NodePhase.DRAINING if node.drain is not DrainMode.NOW:
                deadline = now + timing.stop_timeout
                actions.append(
                    DrainNode(
                        node_id=node.id,
                        name=node.name,
                        mode=DrainMode.NOW,
                        deadline=deadline,
                        reason=desired.end_reason,
                    )
                )
    if doomed:
        actions.append(_delete(doomed, desired.end_reason or "the cluster is ending"))
    leaving = leave(desired.nodes, views, now=now, timing=timing)
    actions += leaving.actions
    if desired.endpoint is not None and _head_is_out(desired.nodes):
        if desired.endpoint.withdrawn_at is None or now >= desired.endpoint.withdrawn_at + timing.sweep_floor:
            actions.append(Withdraw(name=desired.endpoint.name))
        else:
            looks.append(desired.endpoint.withdrawn_at + timing.sweep_floor)
    empty = desired.endpoint is None and all(node.phase in NODE_ENDED for node in desired.nodes)
    leftovers = _leftovers(desired) if empty and not actions else {}
    for action, tried_at in leftovers.items():
        again = now if tried_at is None else tried_at + timing.sweep_floor
        if now >= again:
            actions.append(action)
        else:
            looks.append(again)
    if empty and not actions and not leftovers:
        failed = desired.end_cause is EndCause.FAILURE
        to = ClusterPhase.FAILED if failed else ClusterPhase.TERMINATED
        actions.append(MoveCluster(to=to, reason=desired.end_reason))
    if leaving.sweep_from is not None:
        sweeps.append(leaving.sweep_from)
    if leaving.look_at is not None:
        looks.append(leaving.look_at)
    requeue = max(min(looks, default=now + timing.sweep_floor) - now, timing.poll)
    return Plan(actions=tuple(actions), sweep_from=max(sweeps, default=None), requeue_after=requeue)


def _leftovers(desired: ClusterRecord) -> Mapping[DeleteVolume | Revoke, datetime | None]:
    """Return what takes away the rest of a cluster that has no nodes any more, and when each was last tried."""
    out: dict[DeleteVolume | Revoke, datetime | None] = {}
    if desired.volume is not None:
        out[DeleteVolume(name=desired.volume.name)] = desired.volume.deleted_at
    if not desired.revoked:
        out[Revoke()] = desired.revoking_at
    return out


def _head_is_out(nodes: Sequence[NodeRecord]) -> bool:
    return all(
        node.phase in NODE_ENDED | {NodePhase.DELETING, NodePhase.LOST} for node in nodes if node.group == "head"
    )


def _drained(node: NodeRecord, view: View, *, now: datetime, timing: Timing) -> bool:
    if node.drain_deadline is None or now >= node.drain_deadline:
        return True
    if absence(node, view, timing=timing):
        return True
    status = view.status
    if status is None or status.ray is RayStatus.STOPPED:
        return True
    return now >= view.heard(status.seen_at) + timing.lost_after


def _shown_from(node: NodeRecord, view: View, timing: Timing) -> datetime:
    """Return from when on a list without a node that was told to go proves that nothing of it is left.

    A list may miss what is new: one that shows neither the instance nor its end proves nothing before it must show both.
    """
    existed = node.phase_since if view.status is None else view.status.registered_at
    return max(node.phase_since, existed + timing.list_window)


def _unborn(node: NodeRecord, view: View, launch: Launch | None, *, timing: Timing) -> MoveNode | datetime:
    """A node that the cloud may or may not have: return what it turned out to be, or from when a list would tell."""
    if view.instance is not None:
        return MoveNode(
            node_id=node.id,
            name=node.name,
            to=NodePhase.LAUNCHING,
            instance_id=view.instance.id,
            reason="the cloud lists it",
        )
    if launch is None or launch.attempts == 0:
        return MoveNode(
            node_id=node.id, name=node.name, to=NodePhase.FAILED, reason="the cluster ended before it was asked for"
        )
    certain = (launch.called_until or launch.recorded_at) + timing.list_window
    if view.swept_at is not None and view.swept_at >= certain:
        return MoveNode(node_id=node.id, name=node.name, to=NodePhase.FAILED, reason="the cloud never made it")
    return certain


def _delete(nodes: Sequence[NodeRecord], reason: str) -> DeleteNodes:
    return DeleteNodes(
        node_ids=tuple(node.id for node in nodes), names=tuple(node.name for node in nodes), reason=reason
    )


def _gone(node: NodeRecord) -> MoveNode:
    return MoveNode(node_id=node.id, name=node.name, to=NodePhase.GONE, reason=node.reason or "nothing of it is left")


def soonest(*times: datetime | None, now: datetime, at_least: timedelta) -> timedelta | None:
    """Return how long until the first of these times, at least ``at_least``; None when there is none."""
    due = [time for time in times if time is not None]
    return max(min(due) - now, at_least) if due else None
