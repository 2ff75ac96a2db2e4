"""Events: what the cluster's components say happened to an object; the same again counts up."""

import enum
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.world import World


class Sort(enum.Enum):
    """What an event is: ordinary, or something to look at."""

    NORMAL = "Normal"
    WARNING = "Warning"


TTL = timedelta(hours=1)
"""How long an event is kept since it was last written. Source: kube-apiserver, --event-ttl."""


def record(world: World, about: Entry, *, reason: str, message: str, source: str, sort: Sort = Sort.NORMAL) -> None:
    """Write an event about an object, or count up the one that says the same."""
    namespace = about.namespace or "default"
    name = f"{about.name[:200]}.{_digest(about.uid, reason, message)}"
    kind, old = world.kind("events"), world.get("events", namespace, name)
    if old is not None:
        world.write(old, count=old.obj.get("count", 1) + 1, lastTimestamp=world.stamp)
        return
    involved: Mapping[str, Any] = {
        "kind": about.kind.kind, "namespace": about.namespace, "name": about.name, "uid": about.uid,
        "apiVersion": about.kind.api_version, "resourceVersion": str(about.revision),
    }  # fmt: skip
    meta = {"name": name, "namespace": namespace, "uid": world.uid(), "creationTimestamp": world.stamp}
    world.put(kind, namespace, name, {
        "metadata": meta, "involvedObject": {key: value for key, value in involved.items() if value}, "reason": reason,
        "message": message, "source": {"component": source}, "reportingComponent": source, "reportingInstance": "",
        "firstTimestamp": world.stamp, "lastTimestamp": world.stamp, "count": 1, "type": sort.value,
    })  # fmt: skip


def _digest(*words: str) -> str:
    # Names of events end in 16 hexadecimal digits.
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
