"""The fake cluster driver keeps the contract: tokens, names, owners, life, catalogue, quota."""

import threading
from datetime import timedelta
from typing import Any

import attrs
import pytest

from anyscale_core.errors import (
    AlreadyExists,
    CapacityUnavailable,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Scope,
)
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import (
    Created,
    Deletion,
    InstanceState,
    NotCreated,
    Notice,
    NoticeKind,
)
from anyscale_core.models.owner import TAG_NAME, TAG_NODE, TAG_PLANE
from anyscale_core.testing import Remains
from anyscale_core.testing import builders as build
from tests.testing.rig import OURS, SECOND, THEIRS, Rig

# Tokens ----------------------------------------------------------------------------------------------------------


def test_one_token_with_the_same_specs_makes_one_batch(rig: Rig) -> None:
    specs = [build.an_instance_spec(f"w-{number}") for number in range(3)]
    first = rig.create(*specs)
    rig.clock.advance(timedelta(hours=1))
    again = rig.create(*specs)
    ids = [outcome.instance.id for outcome in first if isinstance(outcome, Created)]
    assert ids == [outcome.instance.id for outcome in again if isinstance(outcome, Created)]
    assert len(ids) == len(rig.cloud.inventory("instance")) == 3


def test_outcomes_are_in_the_order_of_the_specs(rig: Rig) -> None:
    rig.cloud.exhaust("cpu-16")
    kinds = ["cpu-4", "cpu-16", "cpu-2"]
    outcomes = rig.create(*(build.an_instance_spec(f"w-{kind}", instance_type=kind) for kind in kinds))
    assert [type(outcome) for outcome in outcomes] == [Created, NotCreated, Created]
    assert isinstance(outcomes[1], NotCreated)
    assert outcomes[1].name == "w-cpu-16"


@pytest.mark.parametrize("change", [{"instance_type": "cpu-2"}, {"name": "other"}, {"tags": {"a": "b"}}])
def test_one_token_with_other_specs_is_a_mismatch_and_makes_nothing(rig: Rig, change: dict[str, Any]) -> None:
    spec = build.an_instance_spec()
    rig.create(spec)
    with pytest.raises(Conflict) as caught:
        rig.create(attrs.evolve(spec, **change))
    assert caught.value.reason == "TOKEN_MISMATCH"
    assert len(rig.cloud.inventory("instance")) == 1


@pytest.mark.parametrize("after", [timedelta(), timedelta(minutes=5)], ids=["while it goes", "when it is gone"])
def test_a_token_whose_instances_were_deleted_is_spent(rig: Rig, after: timedelta) -> None:
    instance = rig.launch("w")
    rig.delete(instance.id)
    rig.clock.advance(after)
    with pytest.raises(Conflict) as caught:
        rig.create(build.an_instance_spec("w"), token="tok_w")
    assert caught.value.reason == "TOKEN_SPENT"


def test_a_token_is_spent_for_the_item_that_is_gone_and_good_for_the_others(rig: Rig) -> None:
    specs = [build.an_instance_spec("w-1"), build.an_instance_spec("w-2")]
    rig.create(*specs)
    rig.cloud.kill("w-1")
    gone, there = rig.create(*specs)
    assert isinstance(gone, NotCreated)
    assert gone.error.reason == "TOKEN_SPENT"
    assert isinstance(there, Created)
    assert len(rig.cloud.inventory("instance")) == 1


def test_an_item_that_could_not_be_made_is_tried_again_by_the_same_token(rig: Rig) -> None:
    rig.cloud.exhaust(left=1)
    specs = [build.an_instance_spec("w-1"), build.an_instance_spec("w-2")]
    assert [type(outcome) for outcome in rig.create(*specs)] == [Created, NotCreated]
    rig.cloud.restock()
    assert [type(outcome) for outcome in rig.create(*specs)] == [Created, Created]
    assert len(rig.cloud.inventory("instance")) == 2


def test_tokens_of_two_planes_do_not_meet(rig: Rig) -> None:
    rig.create(build.an_instance_spec("w"), token="same")
    (theirs,) = rig.create(build.an_instance_spec("w", owner=THEIRS), token="same")
    assert isinstance(theirs, Created)


def test_one_token_from_many_threads_makes_one_instance(rig: Rig) -> None:
    spec = build.an_instance_spec()
    threads = [threading.Thread(target=rig.create, args=(spec,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rig.cloud.calls) == 16
    assert len(rig.cloud.inventory("instance")) == 1


# Names and owners ------------------------------------------------------------------------------------------------


def test_a_name_is_taken_while_its_instance_exists_and_free_afterwards(rig: Rig) -> None:
    first = rig.launch("w")
    (outcome,) = rig.create(build.an_instance_spec("w"), token="other")
    assert isinstance(outcome, NotCreated)
    assert isinstance(outcome.error, AlreadyExists)
    assert outcome.error.reason == "OWNED"
    rig.delete(first.id)
    rig.clock.advance(timedelta(minutes=1))
    (outcome,) = rig.create(build.an_instance_spec("w"), token="third")
    assert isinstance(outcome, Created)


def test_a_bad_name_or_a_doubled_one_is_refused_before_anything_is_made(rig: Rig) -> None:
    assert rig.fail("Not-A-Name").reason == "NAME"
    with pytest.raises(InvalidRequest):
        rig.create(build.an_instance_spec("w"), build.an_instance_spec("w"))
    assert rig.cloud.inventory() == ()


def test_foreign_instances_are_neither_seen_nor_touched(rig: Rig) -> None:
    mine = rig.launch("w")
    (theirs,) = rig.create(build.an_instance_spec("w", owner=THEIRS), token="theirs")
    assert isinstance(theirs, Created)
    assert {instance.id for instance in rig.list().values()} == {mine.id}
    with pytest.raises(NotFound):
        rig.cluster.get(theirs.instance.id, owner=OURS, deadline=rig.deadline)
    assert rig.delete(theirs.instance.id) == {theirs.instance.id: Deletion.ALREADY_ABSENT}
    assert len(rig.cloud.inventory("instance")) == 2


def test_a_cluster_sees_its_own_and_the_plane_sees_all_of_its_own(rig: Rig) -> None:
    rig.launch("a", owner=build.owner(cluster="clu_a"))
    rig.launch("b", owner=build.owner(cluster="clu_b"))
    assert set(rig.list(build.owner(cluster="clu_a"))) == {"a"}
    assert set(rig.list()) == {"a", "b"}


def test_tags_are_there_from_the_first_moment_and_ours_win(rig: Rig) -> None:
    instance = rig.launch("w", tags={TAG_PLANE: "stolen", TAG_NAME: "other", "team": "red"})
    assert instance.tags[TAG_PLANE] == "pln_test"
    assert instance.tags[TAG_NAME] == "w"
    assert instance.tags[TAG_NODE] == instance.node_id
    assert instance.tags["team"] == "red"
    assert instance.owner == build.owner(cluster="clu_1")


# Life ------------------------------------------------------------------------------------------------------------


def test_an_instance_is_pending_until_it_has_booted(rig: Rig) -> None:
    instance = rig.launch("w")
    assert (instance.state, instance.address) == (InstanceState.PENDING, "")
    rig.clock.advance(rig.cloud.boot - timedelta(microseconds=1))
    assert rig.list()["w"].state is InstanceState.PENDING
    rig.clock.advance(timedelta(microseconds=1))
    now = rig.list()["w"]
    assert now.state is InstanceState.RUNNING
    assert now.address
    assert now == rig.cluster.get(instance.id, owner=OURS, deadline=rig.deadline)


def test_a_delete_returns_at_once_and_is_seen_to_end(rig: Rig) -> None:
    instance = rig.launch("w")
    assert rig.delete(instance.id) == {instance.id: Deletion.GOING}
    assert rig.list()["w"].state is InstanceState.DELETING
    assert rig.cluster.get(instance.id, owner=OURS, deadline=rig.deadline).state is InstanceState.DELETING
    rig.clock.advance(rig.cloud.delete_takes / 2)
    assert rig.delete(instance.id) == {instance.id: Deletion.GOING}
    rig.clock.advance(rig.cloud.delete_takes / 2)
    assert rig.list() == {}
    assert rig.delete(instance.id, InstanceId("i-never")) == {
        instance.id: Deletion.ALREADY_ABSENT, InstanceId("i-never"): Deletion.ALREADY_ABSENT,
    }  # fmt: skip
    with pytest.raises(NotFound):
        rig.cluster.get(instance.id, owner=OURS, deadline=rig.deadline)
    assert rig.cloud.inventory() == ()


def test_a_cloud_that_deletes_at_once_says_gone() -> None:
    rig = Rig(delete_takes=timedelta())
    instance = rig.launch("w")
    assert rig.delete(instance.id) == {instance.id: Deletion.GONE}


def test_a_preempted_instance_is_gone_and_a_stopped_one_is_not(rig: Rig) -> None:
    rig.launch("spot", market_type=MarketType.SPOT)
    rig.launch("stopped")
    rig.clock.advance(rig.cloud.boot)
    rig.cloud.preempt("spot")
    rig.cloud.kill("stopped", Remains.STOPPED, reason="out of credit")
    assert {name: instance.state for name, instance in rig.list().items()} == {"stopped": InstanceState.STOPPED}
    assert rig.list()["stopped"].reason == "out of credit"
    rig.cloud.resume("stopped")
    assert rig.list()["stopped"].state is InstanceState.RUNNING


def test_a_notice_shows_on_the_instance(rig: Rig) -> None:
    rig.launch("w")
    notice = Notice(kind=NoticeKind.PREEMPTION, at=rig.clock.now() + timedelta(minutes=2))
    rig.cloud.announce("w", notice)
    assert rig.list()["w"].notice == notice


def test_a_hand_on_what_is_not_there_says_what_is(rig: Rig) -> None:
    rig.launch("w")
    with pytest.raises(KeyError, match="there are w"):
        rig.cloud.preempt("x")


def test_a_lagging_list_is_late_with_the_new_and_with_the_gone(rig: Rig) -> None:
    rig.cloud.lag(10 * SECOND)
    instance = rig.launch("w")
    assert rig.list() == {}
    assert rig.cluster.get(instance.id, owner=OURS, deadline=rig.deadline).name == "w"
    rig.clock.advance(10 * SECOND)
    assert set(rig.list()) == {"w"}
    rig.cloud.kill("w")
    rig.clock.advance(9 * SECOND)
    assert set(rig.list()) == {"w"}
    assert rig.cloud.inventory() == ()
    rig.clock.advance(SECOND)
    assert rig.list() == {}


def test_a_lag_beyond_the_declared_window_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="list_window"):
        rig.cloud.lag(rig.cloud.list_window + SECOND)


# Catalogue, capacity, quota --------------------------------------------------------------------------------------


def test_the_catalogue_has_types_zones_markets_and_prices(rig: Rig) -> None:
    offerings = rig.cluster.offerings(deadline=rig.deadline)
    assert {offering.zone for offering in offerings} == {"zone-a", "zone-b", "zone-c"}
    assert {offering.market_type for offering in offerings} == {MarketType.ON_DEMAND, MarketType.SPOT}
    assert any(offering.resources.get("GPU") for offering in offerings)
    assert all(offering.available and offering.price_per_hour > 0 for offering in offerings)
    on_demand = {
        (o.instance_type, o.zone): o.price_per_hour for o in offerings if o.market_type is MarketType.ON_DEMAND
    }
    spot = {(o.instance_type, o.zone): o.price_per_hour for o in offerings if o.market_type is MarketType.SPOT}
    assert all(spot[key] < price for key, price in on_demand.items())


def test_what_is_sold_out_is_still_listed_and_refused_with_its_scope(rig: Rig) -> None:
    before = len(rig.cluster.offerings(deadline=rig.deadline))
    shortage = rig.cloud.exhaust("cpu-4", zone="zone-a")
    offerings = rig.cluster.offerings(deadline=rig.deadline)
    assert len(offerings) == before
    assert {(o.instance_type, o.zone) for o in offerings if not o.available} == {("cpu-4", "zone-a")}
    error = rig.fail(zones=("zone-a",))
    assert isinstance(error, CapacityUnavailable)
    assert (error.reason, error.scope) == ("ZONE", Scope.ZONE)
    assert shortage.fired == 1
    rig.cloud.restock("cpu-4", zone="zone-a")
    assert all(offering.available for offering in rig.cluster.offerings(deadline=rig.deadline))


def test_the_next_zone_is_tried_only_if_the_spec_allows(rig: Rig) -> None:
    rig.cloud.exhaust(zone="zone-a")
    assert rig.launch("either", zones=("zone-a", "zone-b")).zone == "zone-b"
    assert rig.launch("any").zone != "zone-a"
    assert isinstance(rig.fail("only-a", zones=("zone-a",)), CapacityUnavailable)


def test_zones_are_taken_in_the_order_of_the_spec(rig: Rig) -> None:
    assert rig.launch("w", zones=("zone-c", "zone-a")).zone == "zone-c"


def test_prefer_spot_takes_spot_while_there_is_some(rig: Rig) -> None:
    assert rig.launch("w-1", market_type=MarketType.PREFER_SPOT).market_type is MarketType.SPOT
    rig.cloud.exhaust(market=MarketType.SPOT)
    assert rig.launch("w-2", market_type=MarketType.PREFER_SPOT).market_type is MarketType.ON_DEMAND
    assert isinstance(rig.fail("w-3", market_type=MarketType.SPOT), CapacityUnavailable)


@pytest.mark.parametrize("change", [{"instance_type": "cpu-5"}, {"zones": ("zone-x",)}])
def test_what_the_cloud_never_sold_is_invalid_and_not_sold_out(rig: Rig, change: dict[str, Any]) -> None:
    error = rig.fail(**change)
    assert isinstance(error, InvalidRequest)
    assert "one of" in error.hint


def test_a_quota_is_known_beforehand_and_met_with_its_numbers(rig: Rig) -> None:
    rig.cloud.limits["CPU"] = 10.0
    rig.launch("w-1")
    rig.launch("w-2")
    quotas = {quota.metric: quota for quota in rig.cluster.quotas(deadline=rig.deadline)}
    assert (quotas["CPU"].limit, quotas["CPU"].used) == (10.0, 8.0)
    error = rig.fail("w-3")
    assert isinstance(error, QuotaExceeded)
    assert (error.metric, error.limit, error.used, error.reason, error.scope) == (
        "CPU", 10.0, 8.0, "CORES", Scope.ACCOUNT,
    )  # fmt: skip
    assert rig.launch("spot", market_type=MarketType.SPOT).market_type is MarketType.SPOT
    rig.cloud.kill("w-1")
    assert rig.launch("w-4").name == "w-4"


# Volumes ---------------------------------------------------------------------------------------------------------


def test_a_volume_outlives_its_instance_has_one_holder_and_goes_when_it_is_told_to(rig: Rig) -> None:
    first = rig.launch("head-1", volume="v")
    assert (type(rig.fail("head-2", volume="v")), rig.fail("head-3", volume="v").reason) == (Conflict, "IN_USE")
    with pytest.raises(Conflict):
        rig.cluster.delete_volume("v", owner=OURS, deadline=rig.deadline)
    rig.delete(first.id)
    rig.clock.advance(timedelta(minutes=1))
    assert [item.name for item in rig.cloud.inventory() if item.kind == "volume"] == ["v"]
    assert rig.cluster.delete_volume("v", owner=THEIRS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT
    assert rig.cluster.delete_volume("v", owner=OURS, deadline=rig.deadline) is Deletion.GONE
    assert rig.cloud.inventory() == ()
