"""Quotas of EC2: vCPUs by class of instances, on demand and SPOT (EC2 User Guide, "Amazon EC2 instance type quotas")."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from anyscale_aws.client import Aws
from anyscale_aws.instances import flat
from anyscale_aws.offerings import CODES, quota_code, vcpus
from anyscale_core.errors import CloudError, QuotaExceeded
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Quota

COUNTED = ("pending", "running")
KNOWN = frozenset(code for pair in CODES.values() for code in pair)
PAGE = 1000


def read_quotas(aws: Aws, deadline: datetime) -> tuple[Quota, ...]:
    """Return the account's limits in vCPUs, and how much of each is taken, whoever took it."""
    used = _used(aws, deadline)
    pages = aws.pages(
        "service-quotas", "list_service_quotas", deadline, next=("NextToken", "NextToken"), ServiceCode="ec2"
    )
    return tuple(
        Quota(
            metric=each["QuotaCode"],
            scope=aws.region,
            limit=float(each["Value"]),
            used=used.get(each["QuotaCode"], 0.0),
        )
        for page in pages
        for each in page["Quotas"]
        if each["QuotaCode"] in KNOWN
    )


def with_use(error: QuotaExceeded, aws: Aws, code: str, deadline: datetime) -> QuotaExceeded:
    """Return the error of a spent quota with metric, limit and use, which EC2 tells in part at best."""
    limit, used = error.limit, None
    try:
        for quota in read_quotas(aws, deadline):
            if quota.metric == code:
                limit, used = quota.limit, quota.used
    except CloudError as other:
        error.add_note(f"how much of the quota {code} is taken could not be read: {other}")
    told = QuotaExceeded(
        error.message, metric=code, limit=limit, used=used, reason=error.reason, scope=error.scope, vendor=error.vendor,
        resource=error.resource, hint=f"{error.hint} (quota {code})", retry_after=error.retry_after,
    )  # fmt: skip
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told


def _used(aws: Aws, deadline: datetime) -> dict[str, float]:
    pages = aws.pages(
        "ec2", "describe_instances", deadline, next=("NextToken", "NextToken"), MaxResults=PAGE,
        Filters=[{"Name": "instance-state-name", "Values": list(COUNTED)}],
    )  # fmt: skip
    used: dict[str, float] = {}
    for each in (each for page in pages for each in flat(page)):
        market = MarketType.SPOT if each.get("InstanceLifecycle") == "spot" else MarketType.ON_DEMAND
        code = quota_code(each["InstanceType"], market)
        used[code] = used.get(code, 0.0) + _vcpus(each)
    return used


def _vcpus(instance: Mapping[str, Any]) -> float:
    options = instance.get("CpuOptions")
    if options:
        return float(options["CoreCount"] * options["ThreadsPerCore"])
    return float(vcpus(instance["InstanceType"]))
