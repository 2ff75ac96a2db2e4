"""Instances as EC2 shows them, and what the contract says of them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from anyscale_aws.tags import Member, mapping, member_of, owner_of, shown
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import Instance, InstanceState, Notice, NoticeKind
from anyscale_core.models.owner import TAG_NAME, TAG_NODE

STATES: Mapping[str, InstanceState] = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.STOPPED,
    "stopped": InstanceState.STOPPED,
    "shutting-down": InstanceState.DELETING,
}
"""EC2's states; what is terminated is gone, and only remembered for about an hour."""

NOTICE = timedelta(minutes=2)
"""Between the notice and the interruption (EC2 User Guide, "Spot Instance interruption notices")."""


def parse(found: Mapping[str, Any], notices: Mapping[str, Notice] | None = None) -> Instance:
    """Return an instance of the contract. ``notices``: those of SPOT instances, by instance id."""
    tags = mapping(found.get("Tags"))
    index = int(found.get("AmiLaunchIndex", 0))
    member: Member | None = member_of(tags, index)
    id, state = InstanceId(found["InstanceId"]), STATES[found["State"]["Name"]]
    named = {TAG_NAME: member.name, TAG_NODE: member.node_id} if member is not None else {}
    stopped = state in (InstanceState.STOPPED, InstanceState.DELETING)
    return Instance(
        id=id,
        name=member.name if member is not None else tags.get(TAG_NAME, ""),
        node_id=member.node_id if member is not None else None,
        owner=owner_of(tags),
        instance_type=found["InstanceType"],
        state=state,
        market_type=MarketType.SPOT if found.get("InstanceLifecycle") == "spot" else MarketType.ON_DEMAND,
        zone=found.get("Placement", {}).get("AvailabilityZone", ""),
        address=found.get("PrivateIpAddress", ""),
        created_at=found.get("LaunchTime"),
        notice=(notices or {}).get(id),
        reason=(found.get("StateReason", {}).get("Message", "") or found.get("StateTransitionReason", "")) if stopped else "",
        tags={**shown(tags), **named},
    )  # fmt: skip


def flat(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the instances of a page, whatever reservations they are in."""
    return [instance for reservation in page["Reservations"] for instance in reservation["Instances"]]


def by_index(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the instances of one launch in the order of their launch indices."""
    return sorted(found, key=lambda each: int(each.get("AmiLaunchIndex", 0)))


def is_gone(found: Mapping[str, Any]) -> bool:
    """Tell whether nothing of an instance is left but EC2's memory of it."""
    return found["State"]["Name"] not in STATES


def notice_of(request: Mapping[str, Any]) -> Notice:
    """Return the notice that a spot request which is marked for termination stands for."""
    return Notice(kind=NoticeKind.PREEMPTION, at=request["Status"]["UpdateTime"] + NOTICE)
