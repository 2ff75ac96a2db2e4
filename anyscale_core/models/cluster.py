"""The compute config that Ray users already write, as frozen values, and everything that can be wrong with one."""

import difflib
import enum
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import attrs

from anyscale_core.errors import Fault
from anyscale_core.models.owner import RESERVED_TAGS
from anyscale_core.models.resources import Resources

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label that starts with a letter: every cloud takes it as a tag, a label and a part of a name."""

SHARES = {"max_spot_share": ("PREFER_SPOT",), "max_offering_share": ("SPOT", "PREFER_SPOT")}
"""Fields of a group that give a part of its nodes, and the markets that they are for."""


class MarketType(enum.Enum):
    """How an instance is bought."""

    ON_DEMAND = "ON_DEMAND"
    SPOT = "SPOT"
    PREFER_SPOT = "PREFER_SPOT"
    """SPOT first; ON_DEMAND while there is none."""


class HeadRecovery(enum.Enum):
    """What follows when the head is lost."""

    RESTART = "RESTART"
    """A new head is started and the workers join it; running jobs are retried up to their ``max_retries``."""
    NONE = "NONE"
    """The cluster fails, with the reason, and is torn down."""


@attrs.frozen(kw_only=True)
class NodeShape:
    """What head and workers have in common: exactly one of ``instance_type`` and ``required_resources``.

    ``resources`` are the logical resources that Ray is told of (default: what the instance type has); ``labels`` become
    Ray node labels; ``advanced_instance_config`` is the provider's own launch fields, passed through.
    """

    instance_type: str | None = None
    required_resources: Resources | None = None
    resources: Resources | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    advanced_instance_config: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class HeadNode(NodeShape):
    """The node that runs Ray's head. Always ON_DEMAND: nothing survives its loss unharmed."""


@attrs.frozen(kw_only=True)
class WorkerGroup(NodeShape):
    """Workers of one sort that grow and shrink together between ``min_nodes`` and ``max_nodes``.

    ``max_spot_share``: of a PREFER_SPOT group, the greatest part of its nodes that may be SPOT. ``max_offering_share``: the
    greatest part of its SPOT nodes that one offering may have, as long as another one holds the same.
    """

    name: str
    min_nodes: int = 0
    max_nodes: int = 10
    market_type: MarketType = MarketType.ON_DEMAND
    max_spot_share: float = 1.0
    max_offering_share: float = 1.0


@attrs.frozen(kw_only=True)
class ClusterSpec:
    """What a cluster is wanted to be.

    ``project``: what it is for, where quotas tell projects apart. ``zones``: where nodes may be, in order of preference
    (None: the cloud decides); workers share one zone unless ``enable_cross_zone_scaling``. ``min_resources`` and
    ``max_resources`` bound the sum over all nodes. ``idle_termination_minutes`` and ``max_uptime_minutes``: 0 switches them
    off. ``max_price_per_hour`` in the catalogue's currency: the autoscaler stops growing below it.
    ``node_overhead_per_hour``: what each node counts beside its price (start, disk, agents) when fleets are compared. Idle
    nodes that must stay are replaced by cheaper ones when these save ``rebuild_saving`` (a part of the old price) or more and
    the old ones are ``rebuild_after_minutes`` old; 0 minutes switches it off. ``env_vars`` go to every Ray process.
    """

    name: str
    cloud: str
    head_node: HeadNode
    worker_nodes: tuple[WorkerGroup, ...] = ()
    project: str | None = None
    image_uri: str | None = None
    zones: tuple[str, ...] | None = None
    enable_cross_zone_scaling: bool = False
    min_resources: Resources | None = None
    max_resources: Resources | None = None
    max_price_per_hour: float | None = None
    idle_termination_minutes: float = 120
    max_uptime_minutes: float = 0
    idle_worker_seconds: float = 60
    node_overhead_per_hour: float = 0.01
    rebuild_saving: float = 0.2
    rebuild_after_minutes: float = 60
    head_recovery: HeadRecovery = HeadRecovery.RESTART
    env_vars: Mapping[str, str] = attrs.field(factory=dict)
    tags: Mapping[str, str] = attrs.field(factory=dict)

    def group(self, name: str) -> WorkerGroup | None:
        """Return the worker group of that name, if the spec has it."""
        return next((group for group in self.worker_nodes if group.name == name), None)


def contradictions(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with a spec beyond the types of its fields.

    Reads the raw mapping and steps around whatever has the wrong type (that is another fault, found elsewhere), so that
    one answer names all the faults there are.
    """
    yield from name_faults(raw.get("name"), "name")
    yield from name_faults(raw.get("cloud"), "cloud")
    yield from name_faults(raw.get("project"), "project")
    head = raw.get("head_node")
    if isinstance(head, Mapping):
        yield from _shape_faults(head, "head_node")
    groups = raw.get("worker_nodes")
    seen: dict[str, int] = {}
    for index, group in enumerate(groups if isinstance(groups, list | tuple) else ()):
        if isinstance(group, Mapping):
            yield from _group_faults(group, f"worker_nodes[{index}]", seen, index)
    zones = raw.get("zones")
    if isinstance(zones, list | tuple):
        if not zones:
            yield Fault(path="zones", message="is empty; leave it out to let the cloud decide")
        for zone in sorted({zone for zone in zones if isinstance(zone, str) and zones.count(zone) > 1}):
            yield Fault(path="zones", message=f"names {zone!r} more than once")
    yield from _bound_faults(raw)
    for key in ("idle_termination_minutes", "max_uptime_minutes", "idle_worker_seconds", "rebuild_after_minutes"):
        value = raw.get(key)
        if is_number(value) and value < 0:
            yield Fault(path=key, message=f"{value} is negative; 0 switches it off")
    price = raw.get("max_price_per_hour")
    if is_number(price) and price < 0:
        yield Fault(path="max_price_per_hour", message=f"{price} is negative; leave it out for no ceiling")
    overhead = raw.get("node_overhead_per_hour")
    if is_number(overhead) and overhead < 0:
        yield Fault(path="node_overhead_per_hour", message=f"{overhead} is negative; 0 counts prices alone")
    yield from _share_faults(raw, "rebuild_saving", "")
    tags = raw.get("tags")
    for tag in sorted(RESERVED_TAGS.intersection(tags) if isinstance(tags, Mapping) else ()):
        yield Fault(path=f"tags.{tag}", message="is reserved: it tells whose a resource is; choose another key")


def nearest(word: str, known: Iterator[str] | Mapping[str, Any] | list[str] | tuple[str, ...] | set[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known name, or an empty string when none is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a raw value is a number; YAML's true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def name_faults(value: object, path: str) -> Iterator[Fault]:
    """Yield what is wrong with a name; what is no string is another fault, found elsewhere."""
    if isinstance(value, str) and not NAME.fullmatch(value):
        yield Fault(
            path=path,
            message=f"{value!r} is not a name: up to 63 of a-z, 0-9 and '-', a letter first, no '-' at the end",
        )


def resource_faults(value: object, path: str) -> Iterator[Fault]:
    """Yield what is wrong with quantities of resources: below zero, or a name that Ray writes otherwise."""
    if not isinstance(value, Mapping):
        return
    for name, amount in value.items():
        if is_number(amount) and amount < 0:
            yield Fault(path=f"{path}.{name}", message=f"{amount} is negative")
        if isinstance(name, str) and name.lower() in ("cpu", "gpu", "memory") and name not in ("CPU", "GPU", "memory"):
            right = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}[name.lower()]
            yield Fault(path=f"{path}.{name}", message=f"unknown resource; Ray writes it {right!r}")


def _shape_faults(shape: Mapping[str, Any], path: str) -> Iterator[Fault]:
    has_type, has_need = bool(shape.get("instance_type")), bool(shape.get("required_resources"))
    if has_type and has_need:
        yield Fault(path=path, message="has both instance_type and required_resources; keep one of them")
    if not has_type and not has_need:
        yield Fault(path=path, message="needs instance_type or required_resources")
    for key in ("required_resources", "resources"):
        yield from resource_faults(shape.get(key), f"{path}.{key}")


def _group_faults(group: Mapping[str, Any], path: str, seen: dict[str, int], index: int) -> Iterator[Fault]:
    yield from _shape_faults(group, path)
    name = group.get("name")
    yield from name_faults(name, f"{path}.name")
    if isinstance(name, str):
        if name == "head":
            yield Fault(path=f"{path}.name", message="'head' is the head node's own group; choose another name")
        if name in seen:
            yield Fault(path=f"{path}.name", message=f"{name!r} is also the name of worker_nodes[{seen[name]}]")
        seen.setdefault(name, index)
    market = group.get("market_type", MarketType.ON_DEMAND.value)
    for key, markets in SHARES.items():
        yield from _share_faults(group, key, f"{path}.")
        share = group.get(key)
        if is_number(share) and 0 <= share < 1 and isinstance(market, str) and market not in markets:
            yield Fault(path=f"{path}.{key}", message=f"is for {' and '.join(markets)}; the group is {market}")
    low, high = group.get("min_nodes", 0), group.get("max_nodes", 10)
    if is_number(low) and low < 0:
        yield Fault(path=f"{path}.min_nodes", message=f"{low} is negative")
    if is_number(high) and high < 0:
        yield Fault(path=f"{path}.max_nodes", message=f"{high} is negative")
    elif is_number(high) and high == 0:
        yield Fault(path=f"{path}.max_nodes", message="0 would never start a node; leave the group out")
    elif is_number(low) and is_number(high) and low > high:
        yield Fault(path=f"{path}.max_nodes", message=f"{high} is below min_nodes {low}")


def _share_faults(raw: Mapping[str, Any], key: str, path: str) -> Iterator[Fault]:
    share = raw.get(key)
    if is_number(share) and not 0 <= share <= 1:
        yield Fault(path=f"{path}{key}", message=f"{share} is no part of a whole: a number from 0 to 1")


def _bound_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    low, high = raw.get("min_resources"), raw.get("max_resources")
    yield from resource_faults(low, "min_resources")
    yield from resource_faults(high, "max_resources")
    if isinstance(low, Mapping) and isinstance(high, Mapping):
        for name, amount in low.items():
            limit = high.get(name)
            if is_number(amount) and is_number(limit) and amount > limit:
                yield Fault(path=f"max_resources.{name}", message=f"{limit} is below min_resources.{name} {amount}")
