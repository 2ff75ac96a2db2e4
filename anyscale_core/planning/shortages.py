"""What a refusal of the cloud means for what is asked next: how widely and how long the same is not asked for again."""

from datetime import datetime, timedelta

from anyscale_core.errors import CapacityUnavailable, CloudError, QuotaExceeded, Retry, Scope
from anyscale_core.models.records import NodeRecord, Shortage

TTL = {
    # How long a refusal is believed, by how far it reaches. Source: Karpenter's Azure provider, scope and TTL.
    Scope.SUBNET: timedelta(minutes=10),
    Scope.ZONE: timedelta(minutes=10),
    Scope.REGION: timedelta(minutes=30),
    Scope.ACCOUNT: timedelta(minutes=10),
}
DEFAULT = timedelta(minutes=3)
WIDE = (Scope.REGION, Scope.ACCOUNT, Scope.GLOBAL)


def may_pass(error: CloudError) -> bool:
    """Tell whether repeating the same call with its token may still succeed, or has to tell what became of it."""
    return error.retry in (Retry.SAME, Retry.WITH_TOKEN)


def shortage_of(node: NodeRecord, error: CloudError, *, now: datetime) -> Shortage:
    """Return what is not to be asked for because ``node`` was refused; for errors that do not pass by themselves."""
    elsewhere = isinstance(error, CapacityUnavailable | QuotaExceeded) or error.retry is Retry.ELSEWHERE
    ttl = TTL.get(error.scope, DEFAULT) if elsewhere else DEFAULT
    return Shortage(
        instance_type=node.instance_type,
        zone="" if error.scope in WIDE or not elsewhere else node.zone,
        market_type=node.market_type if elsewhere else None,
        until=now + max(ttl, error.retry_after or timedelta()),
        reason=str(error),
        fatal=not elsewhere,
    )
