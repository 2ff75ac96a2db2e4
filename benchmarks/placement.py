"""Placement: what the chosen fleet costs and how long choosing takes, beside a proven bound and Ray's two autoscalers.

All on the same demand and the same catalogue, in one run. Ray's schedulers are called as a library; no Ray is started.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
from ray.autoscaler._private.resource_demand_scheduler import (
    NodeAvailabilitySummary,
    _default_utilization_scorer,
    get_bin_pack_residual,
    get_nodes_for,
)
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

from anyscale_core.models.instance import Offering
from anyscale_core.models.node import Demand
from anyscale_core.planning import search, solver
from anyscale_core.planning.limits import Budget, Candidate
from anyscale_core.planning.placement import place
from benchmarks.fleets import MIXES, catalogue, demand, problem
from benchmarks.rows import Row, row

TYPES = (10, 100)
SIZES = (10, 100, 1000, 5000, 50_000)
QUICK = (10, 100, 1000)
LIMIT = 1_000_000
OVERHEAD = 0.01
"""Dollars per hour and node, in the prices with overhead: the default of a spec."""

RAY_SIZE = 5000
"""Requests above which Ray's schedulers are left out: they take minutes."""


@attrs.frozen(kw_only=True)
class Choice:
    """A fleet: its price, its nodes, and the seconds that choosing it took."""

    price: float
    nodes: int
    seconds: float

    def shown(self, bound: float) -> str:
        with_overhead = self.price + OVERHEAD * self.nodes
        return (
            f"{self.price:.1f} $/h ({self.price / bound:.2f}x) in {self.seconds:.3f} s, {self.nodes} nodes,"
            f" {with_overhead:.1f} with overhead"
        )


def placement(rounds: int) -> Iterator[Row]:
    """The whole grid."""
    return _grid(SIZES, rounds)


def placement_quick(rounds: int) -> Iterator[Row]:
    """The grid up to a thousand requests."""
    return _grid(QUICK, rounds)


def _grid(sizes: Sequence[int], rounds: int) -> Iterator[Row]:
    for mix in MIXES:
        for types in TYPES:
            for requests in sizes:
                yield from _point(mix, types, requests, rounds)


def _point(mix: str, types: int, requests: int, rounds: int) -> Iterator[Row]:
    """Yield the price beside the bound and, where Ray's schedulers run, the seconds beside those of its newer one."""
    offerings, asked = catalogue(types), demand(mix, requests)
    bound = solver.bound(problem(asked, offerings))
    ours = [_ours(asked, offerings, None) for _ in range(rounds)]
    solved = _ours(asked, offerings, solver.improve)
    heavier = _ours(asked, offerings, None, overhead=OVERHEAD)
    notes = [
        f"alone {ours[0].shown(bound)}",
        f"with the solver {solved.shown(bound)}",
        f"minding the overhead {heavier.shown(bound)}",
    ]
    name = f"{mix}-{types}-{requests}"
    if requests > RAY_SIZE:
        yield row(f"placement-price-{name}", "$/h", [one.price for one in ours], [bound] * rounds, *notes)
        return
    peers = {"Ray v2": _timed(_ray_v2, asked, offerings), "Ray v1": _timed(_ray_v1, asked, offerings)}
    notes += [f"{peer} {choice.shown(bound)}" for peer, choice in peers.items()]
    notes += [f"DEARER THAN {peer}" for peer, choice in peers.items() if ours[0].price > choice.price + 1e-6]
    yield row(f"placement-price-{name}", "$/h", [one.price for one in ours], [bound] * rounds, *notes)
    yield row(f"placement-time-{name}", "s", [one.seconds for one in ours], [peers["Ray v2"].seconds] * rounds)


def _ours(
    asked: Sequence[Demand], offerings: Sequence[Offering], improve: search.Improve | None, *, overhead: float = 0.0
) -> Choice:
    candidates = [
        Candidate(group=one.instance_type, offering=one, resources=one.resources, labels={}, room=LIMIT)
        for one in offerings
    ]
    begin = time.perf_counter()
    answer = place(asked, (), room=(), candidates=candidates, budget=Budget(), overhead=overhead, improve=improve)
    seconds = time.perf_counter() - begin
    assert not answer.unmet, "the catalogue holds every request"
    return Choice(price=answer.price_per_hour, nodes=len(answer.new), seconds=seconds)


def _timed(
    schedule: Callable[[Sequence[Demand], Sequence[Offering]], Mapping[str, int]], asked: Sequence[Demand],
    offerings: Sequence[Offering],
) -> Choice:  # fmt: skip
    logging.getLogger("ray").setLevel(logging.ERROR)
    begin = time.perf_counter()
    launched = schedule(asked, offerings)
    seconds = time.perf_counter() - begin
    prices = {one.instance_type: one.price_per_hour for one in offerings}
    price = sum(prices[name] * count for name, count in launched.items())
    return Choice(price=price, nodes=sum(launched.values()), seconds=seconds)


def _ray_v2(asked: Sequence[Demand], offerings: Sequence[Offering]) -> Mapping[str, int]:
    """Return how many of each type Ray's newer autoscaler (2.60) launches."""
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={
            one.instance_type: NodeTypeConfig(
                name=one.instance_type, min_worker_nodes=0, max_worker_nodes=LIMIT, resources=dict(one.resources)
            )
            for one in offerings
        },
        max_num_nodes=LIMIT,
        resource_requests=[
            ResourceRequestByCount(request=ResourceRequestUtil.make(dict(one.resources)), count=one.count)
            for one in asked
        ],
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert not reply.infeasible_resource_requests, "the catalogue holds every request"
    return {one.instance_type: one.count for one in reply.to_launch}


def _ray_v1(asked: Sequence[Demand], offerings: Sequence[Offering]) -> Mapping[str, int]:
    """Return how many of each type Ray's older autoscaler launches."""
    kinds = {one.instance_type: {"resources": dict(one.resources), "max_workers": LIMIT} for one in offerings}
    wanted, _ = get_bin_pack_residual([], [dict(one.resources) for one in asked for _ in range(one.count)])
    scorer = functools.partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    launched, residual = get_nodes_for(kinds, {}, "", LIMIT, wanted, scorer)
    assert not residual, "the catalogue holds every request"
    return dict(launched)
