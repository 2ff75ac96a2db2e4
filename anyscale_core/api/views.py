"""What the plane knows, as people are shown it. Pure: records in, views out."""

from collections.abc import Iterable, Mapping

import attrs

from anyscale_core.api.protocol import (
    AccessView,
    AuditView,
    CloudView,
    ClusterView,
    EventView,
    JobView,
    LimitView,
    NodeView,
    PlannedNodesView,
    PlanView,
    ProviderView,
    QuotaView,
    ResourceView,
)
from anyscale_core.controlplane.foundations import CloudStatus
from anyscale_core.controlplane.plane import ClusterAccess, ClusterStatus, PlanPreview
from anyscale_core.controlplane.quotas import QuotaStatus
from anyscale_core.controlplane.rows import AuditRecord, Event
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.instance import Instance
from anyscale_core.models.job import Job
from anyscale_core.models.order import OperatorView
from anyscale_core.models.records import NodeRecord, NodeStatus
from anyscale_core.planning.candidates import PRESENT
from anyscale_core.registry import Found


def cluster_view(status: ClusterStatus, instances: Iterable[Instance] = ()) -> ClusterView:
    """Return a cluster with its nodes; addresses come from ``instances``, the last sweep of its cloud."""
    record = status.record
    addresses = {instance.name: instance.address for instance in instances}
    return ClusterView(
        id=record.id,
        name=record.name,
        cloud=record.cloud,
        phase=record.phase,
        reason=record.reason or record.end_reason,
        goal=record.goal,
        generation=record.generation,
        observed_generation=record.observed_generation,
        created_at=record.created_at,
        created_by=record.created_by,
        identity=record.identity,
        running_at=record.running_at,
        ended_at=record.ended_at,
        end_cause=record.end_cause,
        price_per_hour=sum(node.price_per_hour for node in record.nodes if node.phase in PRESENT),
        held_by=record.held_by,
        endpoint=record.endpoint.url if record.endpoint is not None else "",
        nodes=tuple(_node_view(node, status.nodes.get(node.id), addresses.get(node.name, "")) for node in record.nodes),
        jobs=tuple(job_view(job) for job in record.jobs),
        spec=record.spec,
    )


def _node_view(node: NodeRecord, said: NodeStatus | None, address: str) -> NodeView:
    return NodeView(
        name=node.name,
        id=node.id,
        group=node.group,
        kind=node.kind,
        phase=node.phase,
        instance_type=node.instance_type,
        market_type=node.market_type,
        zone=node.zone,
        address=address,
        price_per_hour=node.price_per_hour,
        ray=said.ray if said is not None else None,
        reason=node.reason or (said.detail if said is not None else ""),
        created_at=node.created_at,
        ready_at=node.ready_at,
    )


def job_view(job: Job) -> JobView:
    """Return a job without its variables, which may be secret."""
    return JobView(
        id=job.id,
        phase=job.phase,
        attempt=job.attempt,
        submission_id=job.submission_id,
        entrypoint=job.spec.entrypoint,
        message=job.message,
        exit_code=job.exit_code,
        created_at=job.created_at,
        ended_at=job.ended_at,
    )


def event_view(event: Event) -> EventView:
    """Return an event."""
    return EventView(
        id=event.id,
        at=event.at,
        kind=event.kind,
        level=event.level,
        message=event.message,
        cluster=event.cluster_id or "",
        node=event.node,
        fields=event.fields,
    )


def audit_view(record: AuditRecord) -> AuditView:
    """Return an audit record."""
    return AuditView(**attrs.asdict(record))


def plan_view(preview: PlanPreview) -> PlanView:
    """Return a plan."""
    return PlanView(
        nodes=tuple(PlannedNodesView(**attrs.asdict(nodes)) for nodes in preview.nodes),
        price_per_hour=preview.price_per_hour,
        max_price_per_hour=preview.max_price_per_hour,
        price_per_hour_before=preview.price_per_hour_before,
        price_per_hour_after=preview.price_per_hour_after,
        unmet=preview.unmet,
    )


def quota_view(status: QuotaStatus) -> QuotaView:
    """Return a quota with its usage."""
    usage = status.usage
    limits = (
        LimitView(path=path, used=usage.used.get(path, 0.0), limit=limit) for path, limit in usage.quota.limits.items()
    )
    return QuotaView(quota=usage.quota, limits=tuple(limits), holds=status.holds, renews_at=usage.renews_at)


def access_view(access: ClusterAccess) -> AccessView:
    """Return a way in."""
    return AccessView(
        url=access.url,
        token=access.token,
        expires_at=access.expires_at,
        server_name=access.server_name,
        ca_pem=access.ca_pem,
    )


def provider_view(found: Found) -> ProviderView:
    """Return a plugin as it was found; of a broken one there is its reason alone."""
    view = ProviderView(name=found.name, distribution=found.distribution, version=found.version, broken=found.broken)
    provider = found.provider
    if provider is None:
        return view
    can = provider.capabilities
    return attrs.evolve(
        view,
        contract=provider.contract,
        summary=provider.summary,
        slots=tuple(provider.slots()),
        supported=tuple(sorted(can.supported)),
        emulated=can.emulated,
        unsupported=can.unsupported,
    )


def cloud_status_view(status: CloudStatus, operator: OperatorView | None = None) -> CloudView:
    """Return a registered cloud with what there is of it, and its operator when it is of that mode."""
    resources = tuple(ResourceView(**attrs.asdict(resource)) for resource in status.resources)
    return attrs.evolve(
        cloud_view(status.spec, operator), resources=resources, identities=status.identities, missing=status.missing,
        ends=status.ends,
    )  # fmt: skip


def cloud_view(spec: CloudSpec, operator: OperatorView | None = None) -> CloudView:
    """Return a cloud as its spec says it, and its operator."""
    settings: Mapping[str, tuple[str, ...]] = {name: tuple(sorted(keys)) for name, keys in spec.settings.items()}
    return CloudView(
        name=spec.name,
        provider=spec.provider,
        region=spec.region,
        mode=spec.mode,
        slots=spec.providers,
        settings=settings,
        operator=operator,
    )


def default_cloud_view(spec: CloudSpec) -> CloudView:
    """Return a provider's default cloud that nobody has used yet."""
    return attrs.evolve(cloud_view(spec), registered=False)
