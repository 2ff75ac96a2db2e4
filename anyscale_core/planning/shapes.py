"""What a node of a spec is: its fingerprint, its resources, its labels, and the offerings that will do for it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from anyscale_core.models import wire
from anyscale_core.models.cluster import ClusterSpec, HeadNode, MarketType, NodeShape, WorkerGroup
from anyscale_core.models.instance import Offering
from anyscale_core.models.records import Shortage
from anyscale_core.models.resources import Resources, fits

HEAD_GROUP = "head"
"""The group name of heads; a worker group may not take it."""

SIZES = frozenset({"name", "min_nodes", "max_nodes", "max_spot_share", "max_offering_share"})
"""Fields of a group that change how many nodes it has of what, not what one is."""


def shape_of(spec: ClusterSpec, group: str) -> NodeShape:
    """Return what a node of a group of the spec is made from."""
    shape = spec.head_node if group == HEAD_GROUP else spec.group(group)
    assert shape is not None, f"{group} is a group of the spec that the plan was made from"
    return shape


def fingerprint(spec: ClusterSpec, shape: NodeShape) -> str:
    """Return a short hash of all that one node of ``shape`` is made from; equal for equal nodes in any process."""
    fields = {key: value for key, value in wire.unstructure(shape).items() if key not in SIZES}
    made_from = [fields, spec.image_uri, dict(spec.env_vars)]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def resources_of(shape: NodeShape, offering: Offering) -> Resources:
    """Return what Ray on such a node is told that it has."""
    return dict(shape.resources) if shape.resources is not None else dict(offering.resources)


def labels_of(shape: NodeShape, group: str, offering: Offering) -> dict[str, str]:
    """Return the Ray labels of such a node: its market, zone and group beside the spec's own."""
    standard = {
        "ray.io/node-group": group,
        "ray.io/market-type": "spot" if offering.market_type is MarketType.SPOT else "on-demand",
        "ray.io/availability-zone": offering.zone,
    }
    return {key: value for key, value in standard.items() if value} | dict(shape.labels)


def markets(shape: NodeShape) -> Sequence[MarketType]:
    """Return the markets to try for a shape, in order. Heads are always ON_DEMAND."""
    if isinstance(shape, HeadNode) or not isinstance(shape, WorkerGroup):
        return (MarketType.ON_DEMAND,)
    if shape.market_type is MarketType.PREFER_SPOT:
        return (MarketType.SPOT, MarketType.ON_DEMAND)
    return (shape.market_type,)


def offerings_that_fit(
    spec: ClusterSpec,
    shape: NodeShape,
    offerings: Iterable[Offering],
    *,
    shortages: Iterable[Shortage],
    home_zone: str,
    now: datetime,
) -> tuple[Offering, ...]:
    """Return the offerings that a node of ``shape`` can be made from now, best first.

    Best: the market wanted most, then the zone named first, then the cheapest. With ``home_zone`` (where the cluster's
    other nodes are) only that zone counts, unless the spec allows cross-zone scaling.
    """
    quarantined = tuple(shortages)
    wanted = markets(shape)
    zones = spec.zones

    def rank(offering: Offering) -> tuple[int, int, float, float, str, str]:
        zone_rank = zones.index(offering.zone) if zones is not None and offering.zone in zones else 0
        size = offering.resources.get("CPU", 0.0)
        market = wanted.index(offering.market_type)
        return (market, zone_rank, offering.price_per_hour, size, offering.instance_type, offering.zone)

    able = (
        offering
        for offering in suitable(spec, shape, offerings, home_zone=home_zone)
        if offering.available and not any(shortage.covers(offering, now=now) for shortage in quarantined)
    )
    return tuple(sorted(able, key=rank))


def suitable(
    spec: ClusterSpec, shape: NodeShape, offerings: Iterable[Offering], *, home_zone: str
) -> tuple[Offering, ...]:
    """Return the offerings that a node of ``shape`` may be made from, to be had now or not."""
    wanted = markets(shape)
    zones: Sequence[str] | None = spec.zones
    if home_zone and not spec.enable_cross_zone_scaling:
        zones = (home_zone,)
    return tuple(
        offering
        for offering in offerings
        if shape.instance_type in (None, offering.instance_type)
        and (shape.required_resources is None or fits(shape.required_resources, offering.resources))
        and offering.market_type in wanted
        and (zones is None or offering.zone in zones)
    )


def why_none(spec: ClusterSpec, shape: NodeShape, offerings: Iterable[Offering], shortages: Iterable[Shortage]) -> str:
    """Say why no offering fits a shape, and what would: for a reason that people read."""
    catalogue = tuple(offerings)
    if shape.instance_type is not None and all(o.instance_type != shape.instance_type for o in catalogue):
        known = ", ".join(sorted({o.instance_type for o in catalogue})) or "nothing"
        return f"the cloud has no instance type {shape.instance_type!r}; it offers {known}"
    if shape.required_resources is not None and not any(fits(shape.required_resources, o.resources) for o in catalogue):
        return f"no instance type has {dict(shape.required_resources)}"
    refused = [shortage.reason for shortage in shortages]
    if refused:
        return f"the cloud refused lately: {refused[-1]}"
    if spec.zones is not None:
        return f"nothing that fits is sold in the zones {', '.join(spec.zones)}"
    return f"nothing that fits is sold as {' or '.join(market.value for market in markets(shape))} now"
