"""How much of its quotas a project uses, and whether more would be too much."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.gcp.catalogue import (
    CPU_METRICS,
    GPU_METRICS,
    MACHINES,
    PROJECT_LIMITS,
    REGION_LIMITS,
    region_of,
)
from anyscale_conformance.simulators.gcp.compute import common
from anyscale_conformance.simulators.gcp.operations import OperationError
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project, words_of

Counts = Counter[tuple[str, str]]
"""By region (empty: the whole project) and metric."""
IDLE = frozenset({"TERMINATED", "SUSPENDED"})
"""Machines that use no processors."""


def of_instance(body: Mapping[str, Any], zone: str) -> Counts:
    """Return what one instance uses."""
    region, counts = region_of(zone), Counts()
    counts[region, "INSTANCES"] = 1
    if body.get("status") in IDLE:
        return counts
    machine = MACHINES[words_of(body["machineType"])[-1]]
    spot = body.get("scheduling", {}).get("preemptible", False)
    # Preemptible quota is a quota of its own.
    metric = "PREEMPTIBLE_CPUS" if spot else CPU_METRICS.get(machine.family, "CPUS")
    counts[region, metric] += machine.cpus
    counts["", "CPUS_ALL_REGIONS"] += machine.cpus
    for name, count in gpus_of(body).items():
        if name in GPU_METRICS:
            counts[region, f"{'PREEMPTIBLE_' if spot else ''}{GPU_METRICS[name]}"] += count
        counts["", "GPUS_ALL_REGIONS"] += count
    for interface in body.get("networkInterfaces", []):
        counts[region, "IN_USE_ADDRESSES"] += len(interface.get("accessConfigs", []))
    return counts


def gpus_of(body: Mapping[str, Any]) -> Counter[str]:
    """Return the accelerators of an instance, those that come with its type and those that were added."""
    counts: Counter[str] = Counter()
    machine = MACHINES[words_of(body["machineType"])[-1]]
    if machine.built_in is not None:
        counts[machine.built_in[0]] += machine.built_in[1]
        return counts
    for added in body.get("guestAccelerators", []):
        counts[words_of(added["acceleratorType"])[-1]] += int(added.get("acceleratorCount", 0))
    return counts


def used(project: Project) -> Counts:
    """Return what a project uses."""
    counts = Counts()
    for instance in project.all("instances"):
        counts.update(of_instance(instance.body, instance.scope.partition("/")[2]))
    for disk in project.all("disks"):
        counts[region_of(disk.scope.partition("/")[2]), "DISKS_TOTAL_GB"] += int(disk.body["sizeGb"])
    for address in project.all("addresses"):
        counts[address.scope.partition("/")[2], "STATIC_ADDRESSES"] += address.body.get("addressType") != "INTERNAL"
    for collection, metric in (
        ("networks", "NETWORKS"), ("subnetworks", "SUBNETWORKS"), ("firewalls", "FIREWALLS"), ("routers", "ROUTERS"),
        ("forwardingRules", "FORWARDING_RULES"), ("backendServices", "BACKEND_SERVICES"), ("routes", "ROUTES"),
        ("healthChecks", "HEALTH_CHECKS"), ("targetPools", "TARGET_POOLS"), ("images", "IMAGES"),
    ):  # fmt: skip
        counts["", metric] = len(project.all(collection))
    return counts


@attrs.frozen(kw_only=True)
class Exceeded:
    """A quota that would be passed. ``region`` is empty for one of the whole project."""

    metric: str
    limit: float
    region: str

    def late(self) -> OperationError:
        """Return it as the error of an operation."""
        words = {"region": self.region} if self.region else {}
        info = {
            "metricName": f"compute.googleapis.com/{self.metric.lower()}", "limit": self.limit, "dimensions": words,
            "limitName": f"{self.metric.replace('_', '-')}-per-project{'-region' if self.region else ''}",
        }  # fmt: skip
        message = common.quota_exceeded(self.metric, self.limit, self.region).message
        return OperationError("QUOTA_EXCEEDED", message, http=403, details=[{"quotaInfo": info}])


def exceeded(project: Project, wanted: Iterable[Counts]) -> Exceeded | None:
    """Return the first quota that what is wanted would pass; None when it fits."""
    now, more = used(project), Counts()
    for counts in wanted:
        more.update(counts)
    for (region, metric), count in sorted(more.items()):
        limit = common.limit_of(project, metric, region)
        if now[region, metric] + count > limit:
            return Exceeded(metric=metric, limit=limit, region=region)
    return None


def must_fit(project: Project, wanted: Iterable[Counts]) -> None:
    """Raise 403 for the first quota that what is wanted would pass."""
    if (found := exceeded(project, wanted)) is not None:
        raise common.quota_exceeded(found.metric, found.limit, found.region)


def quotas(project: Project, region: str) -> list[Json]:
    """Return the quotas of a region, or of the project, as the API lists them."""
    now = used(project)
    return [
        {"metric": metric, "limit": common.limit_of(project, metric, region), "usage": float(now[region, metric])}
        for metric in (REGION_LIMITS if region else PROJECT_LIMITS)
    ]
