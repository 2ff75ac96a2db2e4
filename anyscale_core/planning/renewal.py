"""Workers whose certificate for Ray comes to its end: replaced one by one, since Ray reads it once."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.phases import NODE_ENDED, NodePhase
from anyscale_core.models.records import NodeRecord, NodeStatus


@attrs.frozen(kw_only=True)
class Renewal:
    """Which worker is to be drained for it now, if any, and when to look again."""

    node: NodeRecord | None = None
    look_at: datetime | None = None


def renewal(nodes: Sequence[NodeRecord], status: Mapping[NodeId, NodeStatus], *, now: datetime) -> Renewal:
    """Return the READY worker that is due longest, while no other node comes or goes. A head's agent sees to its own."""
    times = {
        node.id: at
        for node in nodes
        if node.kind is NodeKind.WORKER and node.phase is NodePhase.READY
        if node.id in status and (at := status[node.id].renew_at) is not None
    }
    if not times:
        return Renewal()
    first = min(times, key=lambda each: (times[each], each))
    if now < times[first]:
        return Renewal(look_at=times[first])
    if any(node.phase not in NODE_ENDED and node.phase is not NodePhase.READY for node in nodes):
        return Renewal()  # their next move brings another plan
    return Renewal(node=next(node for node in nodes if node.id == first))
