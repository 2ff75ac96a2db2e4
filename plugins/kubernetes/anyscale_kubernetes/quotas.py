"""ResourceQuotas of the namespace as quotas: what bears on Pods, the tightest of each metric."""

from collections.abc import Iterator
from datetime import datetime

from anyscale_core.models.instance import Quota
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.errors import quantity
from anyscale_kubernetes.kinds import RESOURCE_QUOTA
from anyscale_kubernetes.tags import Body

PLAIN = ("pods", "count/pods", "cpu", "memory")
SCOPE = "account"


def read_quotas(api: Api, *, deadline: datetime) -> tuple[Quota, ...]:
    """Return the limits of the namespace, in the words of its ResourceQuotas. One with scopes binds not all Pods: left out."""
    tightest: dict[str, Quota] = {}
    for body in api.list(RESOURCE_QUOTA, deadline=deadline):
        for quota in _of(body):
            known = tightest.get(quota.metric)
            if known is None or quota.limit - quota.used < known.limit - known.used:
                tightest[quota.metric] = quota
    return tuple(tightest[metric] for metric in sorted(tightest))


def _of(body: Body) -> Iterator[Quota]:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return
    used = status.get("used") or {}
    for metric, hard in (status.get("hard") or spec.get("hard") or {}).items():
        if metric in PLAIN or metric.startswith(("requests.", "limits.")):
            now = quantity(str(used.get(metric, "0")))
            yield Quota(metric=metric, scope=SCOPE, limit=quantity(str(hard)), used=now)
