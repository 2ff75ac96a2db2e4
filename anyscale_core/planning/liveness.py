"""What has become of each node: from what its agent says, what the cloud lists, and how long it has been silent."""

from datetime import datetime

import attrs

from anyscale_core.errors import CloudError
from anyscale_core.models.actions import MoveNode
from anyscale_core.models.instance import Instance, InstanceState, NodeKind
from anyscale_core.models.node import DrainAnswer, DrainMode, HeadReport, RayStatus
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.records import NodeRecord, NodeStatus, Timing
from anyscale_core.planning.shortages import may_pass


@attrs.frozen(kw_only=True)
class View:
    """All that is known of one node besides its record. ``epoch``: the head that it should belong to; empty: none yet."""

    instance: Instance | None
    status: NodeStatus | None
    swept_at: datetime | None
    epoch: str
    head_report: HeadReport | None = None
    head_seen_at: datetime | None = None
    """When that head was heard last."""
    listening_since: datetime | None = None
    """Since when nodes can be heard; None: always."""

    def heard(self, at: datetime) -> datetime:
        """Return from when a silence that began at ``at`` counts: not for the time in which nobody listened."""
        return at if self.listening_since is None else max(at, self.listening_since)


@attrs.frozen(kw_only=True)
class Verdict:
    """What follows: a move, or a wish to see the cloud's list from a time on, or a time to look again (or nothing)."""

    move: MoveNode | None = None
    sweep_from: datetime | None = None
    look_at: datetime | None = None


def judge(node: NodeRecord, view: View, *, now: datetime, timing: Timing) -> Verdict:
    """Return what has become of one node. Leaving and ended nodes are the business of ``teardown``."""
    if node.phase is NodePhase.RECORDED:
        return _recorded(node, view)
    if node.phase is NodePhase.DRAINING:
        return _draining(node, view)
    if node.phase in (NodePhase.LOST, NodePhase.DELETING):
        return Verdict()
    gone = absence(node, view, timing=timing)
    if gone:
        return _move(node, NodePhase.LOST, gone, failure=_failure(view))
    match node.phase:
        case NodePhase.LAUNCHING:
            return _launching(node, view, now=now, timing=timing)
        case NodePhase.STARTING:
            return _until_heard(_starting(node, view, now=now, timing=timing), view, timing)
        case NodePhase.READY:
            return _until_heard(_ready(node, view, now=now, timing=timing), view, timing)
        case NodePhase.SUSPECT:
            return _suspect(node, view, now=now, timing=timing)
    return Verdict()


def absence(node: NodeRecord, view: View, *, timing: Timing) -> str:
    """Say how the cloud shows that the node's instance no longer runs; empty when it runs or nobody looked late enough."""
    if view.instance is not None:
        if view.instance.state is InstanceState.STOPPED:
            return f"its instance has stopped{f': {view.instance.reason}' if view.instance.reason else ''}"
        if view.instance.state is InstanceState.DELETING:
            return "its instance is being deleted, and not by this control plane"
        return ""
    if view.swept_at is not None and view.swept_at >= node.phase_since + timing.list_window:
        return "its instance is gone from the cloud"
    return ""


def _failure(view: View) -> CloudError | None:
    """Return why the cloud could not make what it had accepted; None when its agent was heard, or asking again may do."""
    failure = view.instance.failure if view.instance is not None and view.status is None else None
    return None if failure is None or may_pass(failure) else failure


def silence_ends(status: NodeStatus, view: View, timing: Timing) -> datetime:
    """Return when the node's lease lapses if it says nothing more."""
    return view.heard(status.seen_at) + timing.suspect_after


def _until_heard(verdict: Verdict, view: View, timing: Timing) -> Verdict:
    """Look again at a node that has not been heard since somebody listens: nobody else tells of its silence."""
    status = view.status
    if verdict.move is not None or status is None or view.heard(status.seen_at) == status.seen_at:
        return verdict
    looks = (verdict.look_at, silence_ends(status, view, timing))
    return attrs.evolve(verdict, look_at=min(look for look in looks if look is not None))


def _recorded(node: NodeRecord, view: View) -> Verdict:
    if view.instance is None:
        return Verdict()
    move = MoveNode(
        node_id=node.id,
        name=node.name,
        to=NodePhase.LAUNCHING,
        instance_id=view.instance.id,
        reason="the cloud lists it",
    )
    return Verdict(move=move)


def _launching(node: NodeRecord, view: View, *, now: datetime, timing: Timing) -> Verdict:
    if view.status is not None:
        return _move(node, NodePhase.STARTING, "its agent has registered")
    limit = view.heard(node.phase_since) + timing.boot_timeout
    if now >= limit:
        return _move(node, NodePhase.LOST, f"its agent did not register within {timing.boot_timeout}")
    return Verdict(look_at=min(limit, now + timing.sweep_ceiling))


def _starting(node: NodeRecord, view: View, *, now: datetime, timing: Timing) -> Verdict:
    status = view.status
    if status is None:
        return Verdict()
    if status.ray is RayStatus.ALIVE and status.epoch == view.epoch and view.epoch:
        return _move(node, NodePhase.READY, "Ray is alive on it")
    epoch = node.id if node.kind is NodeKind.HEAD else view.epoch
    if status.ray is RayStatus.DOWN and status.epoch in ("", epoch):
        return _move(node, NodePhase.LOST, f"Ray did not start: {status.detail or 'no reason given'}")
    if now >= silence_ends(status, view, timing):
        return _move(node, NodePhase.SUSPECT, "its heartbeats stopped", sweep_from=now)
    if not epoch:
        return Verdict()  # it waits for a head: that is not its fault
    limit = view.heard(max(node.phase_since, status.registered_at)) + timing.ray_timeout
    if now >= limit:
        return _move(node, NodePhase.LOST, f"Ray was not alive within {timing.ray_timeout}")
    return Verdict(look_at=limit)


def _ready(node: NodeRecord, view: View, *, now: datetime, timing: Timing) -> Verdict:
    status = view.status
    if status is None or now >= silence_ends(status, view, timing):
        return _move(node, NodePhase.SUSPECT, "its heartbeats stopped", sweep_from=now)
    if _between_heads(status, view):
        return _move(node, NodePhase.STARTING, "its head is gone; it joins the next")
    if status.ray is not RayStatus.ALIVE:
        return _move(node, NodePhase.SUSPECT, f"Ray on it is {status.ray.value}: {status.detail}".rstrip(": "))
    return Verdict()


def _suspect(node: NodeRecord, view: View, *, now: datetime, timing: Timing) -> Verdict:
    status = view.status
    if status is None:
        return _move(node, NodePhase.LOST, "it never registered")
    silent_until = view.heard(status.seen_at) + timing.lost_after
    if now >= silent_until:
        return _move(node, NodePhase.LOST, f"no heartbeat for {timing.lost_after}")
    if now < status.seen_at + timing.suspect_after:
        if _between_heads(status, view):
            return _move(node, NodePhase.STARTING, "it is back, and its head is gone; it joins the next")
        if status.ray is RayStatus.ALIVE:
            return _move(node, NodePhase.READY, "it is back")
        if status.ray is RayStatus.STARTING and status.epoch == view.epoch:
            # The agent of a head starts Ray again on what its GCS has stored.
            limit = node.phase_since + timing.ray_timeout
            if now < limit:
                return Verdict(look_at=limit)
            return _move(node, NodePhase.LOST, f"Ray was not alive again within {timing.ray_timeout}: {status.detail}")
        # It may have gone down with its head, which nobody has missed yet: so the head has to be heard first.
        alone = view.head_seen_at is not None and view.head_seen_at >= node.phase_since
        down_until = node.phase_since + timing.down_grace
        if now >= down_until and (alone or view.epoch == node.id):
            return _move(node, NodePhase.LOST, node.reason)
        return Verdict(look_at=max(down_until, now + timing.poll))
    return Verdict(sweep_from=node.phase_since, look_at=silent_until)


def _between_heads(status: NodeStatus, view: View) -> bool:
    """Tell whether the Ray on a node belonged to a head that is no more: that is no fault of the node's."""
    if view.epoch:
        return status.epoch != view.epoch
    return status.ray in (RayStatus.WAITING, RayStatus.STARTING, RayStatus.DOWN) and status.epoch != status.node_id


def _draining(node: NodeRecord, view: View) -> Verdict:
    """Back to READY when Ray has refused an idle drain; the rest of draining is in ``teardown``."""
    if node.drain is not DrainMode.IDLE or view.status is None or view.head_report is None:
        return Verdict()
    if view.head_report.drains.get(view.status.ray_id) is DrainAnswer.REJECTED:
        return _move(node, NodePhase.READY, "Ray has given it work since: it stays")
    return Verdict()


def _move(
    node: NodeRecord,
    to: NodePhase,
    reason: str,
    *,
    sweep_from: datetime | None = None,
    failure: CloudError | None = None,
) -> Verdict:
    move = MoveNode(node_id=node.id, name=node.name, to=to, reason=reason, failure=failure)
    return Verdict(move=move, sweep_from=sweep_from)
