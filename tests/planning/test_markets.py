"""SPOT and ON_DEMAND in one group: how much may be at risk, and on how many offerings."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyscale_core.models.cluster import MarketType, WorkerGroup
from anyscale_core.models.instance import Offering
from anyscale_core.models.node import Demand
from anyscale_core.planning.limits import Candidate
from anyscale_core.planning.markets import blended, divide
from anyscale_core.planning.placement import Filled, Held
from anyscale_core.planning.requests import Request
from anyscale_core.testing.builders import workers

SPOT, ON_DEMAND = MarketType.SPOT, MarketType.ON_DEMAND
HOLDS = (Held(request=Request.of(Demand(resources={"CPU": 3.0})), count=1),)


def sold(market: MarketType, type: str = "a", zone: str = "z1", cpu: float = 4.0, price: float = 1.0) -> Candidate:
    offering = Offering(
        instance_type=type, zone=zone, market_type=market, price_per_hour=price * (0.3 if market is SPOT else 1.0),
        resources={"CPU": cpu},
    )  # fmt: skip
    return Candidate(group="workers", offering=offering, resources=offering.resources, labels={}, room=100)


USABLE = (
    sold(SPOT), sold(ON_DEMAND), sold(SPOT, zone="z2"), sold(SPOT, "b", price=1.2), sold(ON_DEMAND, "b", price=1.2),
    sold(SPOT, "small", cpu=2.0, price=0.5),
)  # fmt: skip


def group(*, max_spot_share: float = 1.0, max_offering_share: float = 1.0) -> WorkerGroup:
    return workers(
        market_type=MarketType.PREFER_SPOT, max_spot_share=max_spot_share, max_offering_share=max_offering_share
    )


def bought(group: WorkerGroup, nodes: int, usable: tuple[Candidate, ...] = USABLE) -> Counter[tuple[str, str, str]]:
    chosen = [Filled(candidate=usable[0], bin=None, nodes=nodes, holds=HOLDS)]
    out: Counter[tuple[str, str, str]] = Counter()
    for one in divide(group, (), chosen, usable):
        assert one.candidate is not None
        offering = one.candidate.offering
        out[offering.market_type.value, offering.instance_type, offering.zone] += one.nodes
    return out


def test_without_shares_everything_is_bought_where_it_was_chosen() -> None:
    assert bought(group(), 5) == {("SPOT", "a", "z1"): 5}


def test_what_is_above_the_share_is_bought_on_demand_of_the_same_type() -> None:
    assert bought(group(max_spot_share=0.5), 5) == {("SPOT", "a", "z1"): 2, ("ON_DEMAND", "a", "z1"): 3}
    assert bought(group(max_spot_share=0.0), 2) == {("ON_DEMAND", "a", "z1"): 2}


def test_the_risk_is_spread_over_the_cheapest_offerings_that_hold_the_same() -> None:
    spread = bought(group(max_offering_share=0.34), 6)
    assert spread == {("SPOT", "a", "z1"): 2, ("SPOT", "a", "z2"): 2, ("SPOT", "b", "z1"): 2}


def test_with_nothing_to_spread_over_the_work_goes_on_all_the_same() -> None:
    assert bought(group(max_offering_share=0.2), 4, USABLE[:2]) == {("SPOT", "a", "z1"): 4}


def test_a_mixed_group_counts_at_its_mixed_price() -> None:
    assert blended(group(max_spot_share=0.25), 0.2, 1.0) == pytest.approx(0.8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]), st.sampled_from([0.25, 0.5, 1.0]))
def test_shares_hold_for_any_number_of_nodes(nodes: int, at_risk: float, in_one: float) -> None:
    out = bought(group(max_spot_share=at_risk, max_offering_share=in_one), nodes)
    spot = {key: n for key, n in out.items() if key[0] == "SPOT"}
    assert out.total() == nodes
    assert sum(spot.values()) <= at_risk * nodes + 1e-9
    assert all(key[1] != "small" for key in out), "a node that cannot hold the content"
    # Three offerings hold it: with a quarter each there is nowhere for the last quarter to go.
    if in_one >= 0.5:
        assert all(n <= max(1, in_one * sum(spot.values())) for n in spot.values())
