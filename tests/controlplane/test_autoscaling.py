"""Growing by Ray's demand and shrinking when idle, within every bound."""

from datetime import timedelta

from anyscale_core.errors import CapacityUnavailable, Scope, Transient
from anyscale_core.models.cluster import MarketType, WorkerGroup
from anyscale_core.models.node import GangStrategy
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World

MINUTE = timedelta(minutes=1)


def test_demand_grows_a_group_to_its_maximum_and_no_further(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1, max_nodes=3)))
    world.agents.demand("demo", {"CPU": 4.0}, 20)
    most = 0
    for _ in range(200):
        world.run()
        most = max(most, len(world.nodes(group="workers")))
    assert most == 3
    assert len(world.ready()) == 3


def test_idle_workers_go_after_their_time_and_the_minimum_stays(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1, max_nodes=4), idle_worker_seconds=30))
    work = world.agents.demand("demo", {"CPU": 4.0}, 5)
    world.until(lambda: len(world.ready()) == 4)
    work.release()
    world.until(lambda: len(world.nodes(group="workers")) == 1)
    world.run(steps=120)
    assert len(world.ready()) == 1
    assert len(world.instances()) == 2


def test_a_worker_that_gets_work_while_it_is_asked_to_drain_stays(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=0, max_nodes=1), idle_worker_seconds=5))
    world.agents.demand("demo", {"CPU": 4.0}, 1)
    work = world.agents.demand("demo", {"CPU": 4.0}, 1)
    world.until(lambda: len(world.ready()) == 1)
    work.release()
    world.until(lambda: bool(world.nodes("demo", NodePhase.DRAINING)) or not world.nodes(group="workers"))
    assert world.phase().value == "RUNNING"


def test_nothing_is_started_for_what_no_group_can_hold_and_the_reason_is_told(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=3)))
    creates = world.creates()
    work = world.agents.demand("demo", {"CPU": 64.0}, 1)
    world.run(steps=30)
    assert world.creates() == creates
    assert "no worker group that may grow has a node so large" in world.record().reason
    assert world.phase() is ClusterPhase.RUNNING
    work.release()
    world.run(steps=10)
    assert world.record().reason == ""


def test_a_small_request_waits_for_the_room_that_is_coming(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=10)))
    world.agents.demand("demo", {"CPU": 1.0}, 8)
    world.run(steps=60)
    assert len(world.nodes(group="workers")) == 1, "four on the head, four on one worker"


def test_of_two_groups_the_one_that_costs_less_for_the_work_grows(world: World) -> None:
    spec = a_spec(
        "demo",
        workers("big", instance_type="cpu-16", max_nodes=4),
        workers("small", instance_type="cpu-4", max_nodes=4),
    )
    world.up(spec)
    world.agents.demand("demo", {"CPU": 4.0}, 2)
    world.run(steps=60)
    assert [node.group for node in world.nodes() if node.group != "head"] == ["small"]


def test_the_price_ceiling_stops_growth(world: World) -> None:
    cheap = world.plane.plan(a_spec("demo", workers(min_nodes=1))).price_per_hour
    world.up(a_spec("demo", workers(min_nodes=1, max_nodes=10), max_price_per_hour=cheap * 1.6))
    world.agents.demand("demo", {"CPU": 4.0}, 10)
    world.run(steps=120)
    assert len(world.nodes(group="workers")) == 2


def test_max_resources_of_the_cluster_stop_growth(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=10), max_resources={"CPU": 12.0}))
    world.agents.demand("demo", {"CPU": 4.0}, 10)
    world.run(steps=120)
    assert len(world.nodes()) == 3


def test_min_resources_of_the_cluster_are_held_without_any_demand(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=10), min_resources={"CPU": 12.0}, idle_worker_seconds=10))
    world.until(lambda: len(world.ready()) == 2)
    world.run(steps=120)
    assert len(world.ready()) == 2


def test_request_resources_are_held_while_idle_and_let_go_after(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=10), idle_worker_seconds=10))
    held = world.agents.hold("demo", {"CPU": 4.0}, 3)
    world.until(lambda: len(world.ready()) == 2)
    world.run(steps=60)
    assert len(world.ready()) == 2
    held.release()
    world.until(lambda: not world.nodes(group="workers"))


def test_a_strictly_spread_placement_group_gets_a_node_for_each_bundle(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=10)))
    world.agents.gang("demo", [{"CPU": 1.0}] * 4, GangStrategy.STRICT_SPREAD)
    world.run(steps=90)
    assert len(world.ready()) == 3, "the head takes one bundle"


def test_a_stockout_in_one_zone_is_met_from_the_next_before_there_is_a_home(world: World) -> None:
    world.cloud.exhaust(zone="zone-a")
    world.up(a_spec("demo", workers(min_nodes=1)))
    assert {node.zone for node in world.nodes()} == {"zone-b"}


def test_prefer_spot_takes_on_demand_while_there_is_no_spot(world: World) -> None:
    world.cloud.exhaust(market=MarketType.SPOT)
    world.up(a_spec("demo", workers(min_nodes=1, market_type=MarketType.PREFER_SPOT)))
    assert [node.market_type for node in world.ready()] == [MarketType.ON_DEMAND]


def test_a_stockout_that_the_catalogue_does_not_know_of_is_remembered_and_gone_around(world: World) -> None:
    world.plane.clouds.get("fake").offerings()  # read before the stockout
    world.cloud.exhaust(market=MarketType.SPOT)
    world.up(a_spec("demo", workers(min_nodes=1, market_type=MarketType.PREFER_SPOT)))
    assert [node.market_type for node in world.ready()] == [MarketType.ON_DEMAND]
    assert world.kinds().count("create.refused") >= 1


def test_an_instance_that_fails_after_it_was_accepted_is_asked_for_elsewhere(world: World) -> None:
    """Some clouds find out late: they accept, and tell of the stockout in the state of what never runs."""
    spot = workers(min_nodes=1, market_type=MarketType.PREFER_SPOT)
    world.plane.apply(a_spec("demo", spot), actor="tester")
    world.until(lambda: [node.phase for node in world.nodes(group="workers")] == [NodePhase.LAUNCHING])
    first = world.nodes(group="workers")[0]
    world.cloud.fail(
        first.name, CapacityUnavailable("no spot", reason="SKU", scope=Scope.ZONE, resource=first.instance_type)
    )
    world.until(lambda: len(world.ready()) == 1)
    (second,) = world.ready()
    bought = [(node.instance_type, node.zone, node.market_type) for node in (first, second)]
    assert bought[0] != bought[1]
    assert world.kinds().count("create.refused") == 1
    world.until(lambda: [item.name for item in world.cloud.inventory("instance") if item.name == first.name] == [])


def test_an_instance_that_fails_for_a_passing_reason_is_asked_for_again(world: World) -> None:
    world.plane.apply(a_spec("demo", workers(min_nodes=1)), actor="tester")
    world.until(lambda: [node.phase for node in world.nodes(group="workers")] == [NodePhase.LAUNCHING])
    first = world.nodes(group="workers")[0]
    world.cloud.fail(first.name, Transient("an internal error", reason="SERVER"))
    world.until(lambda: len(world.ready()) == 1)
    (second,) = world.ready()
    assert (second.instance_type, second.zone) == (first.instance_type, first.zone)
    assert "create.refused" not in world.kinds()


def test_spot_alone_waits_for_spot_and_says_why(world: World) -> None:
    world.cloud.exhaust(market=MarketType.SPOT)
    world.plane.apply(a_spec("demo", workers(min_nodes=1, market_type=MarketType.SPOT)), actor="tester")
    world.run(steps=120)
    assert world.phase().value == "STARTING"
    assert "SPOT" in world.record().reason
    world.cloud.restock()
    world.until(lambda: world.phase().value == "RUNNING", steps=3600)


def test_a_lowered_maximum_drains_the_surplus(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=3, max_nodes=3)))
    world.plane.apply(a_spec("demo", workers(min_nodes=1, max_nodes=1)), actor="tester")
    world.until(lambda: len(world.nodes(group="workers")) == 1)
    world.run(steps=30)
    assert len(world.ready()) == 1


def test_a_group_whose_spec_changes_is_replaced_node_by_node(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2, max_nodes=4)))
    old = {node.id for node in world.ready()}
    world.plane.apply(a_spec("demo", workers(instance_type="cpu-16", min_nodes=2, max_nodes=4)), actor="tester")
    world.until(lambda: len(world.ready()) == 2 and not old & {node.id for node in world.nodes()})
    assert {node.instance_type for node in world.ready()} == {"cpu-16"}


def test_a_group_that_names_resources_grows_by_the_cheapest_mix_and_the_event_says_why(world: World) -> None:
    group = WorkerGroup(name="any", required_resources={"CPU": 2.0}, max_nodes=20)
    world.up(a_spec("demo", group, idle_worker_seconds=600))
    world.agents.demand("demo", {"CPU": 4.0}, 1)
    world.agents.demand("demo", {"CPU": 2.0, "memory": 24.0 * 2**30}, 2)
    world.until(lambda: len(world.ready(group="any")) == 2)
    assert sorted(node.instance_type for node in world.ready(group="any")) == ["mem-4", "mem-4"]
    created = [event.fields for event in world.plane.events("demo") if event.kind == "nodes.create"][-1]
    assert created["holds"] == ["1 x CPU=2 memory=24GiB"]
    assert created["price_per_hour_before"] < created["price_per_hour_after"]


def test_a_plan_for_a_cluster_that_waits_says_what_would_be_started_for_what(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=2)))
    world.agents.demand("demo", {"CPU": 4.0}, 9)
    world.agents.step()
    preview = world.plane.plan(world.record().spec)
    (planned,) = preview.nodes
    assert (planned.group, planned.count, planned.holds) == ("workers", 1, ("1 x CPU=4",))
    assert "Ray waits for 8 requests" in planned.reason
    assert preview.price_per_hour_after == preview.price_per_hour_before + planned.price_per_hour
    assert preview.unmet == ("CPU=4: max_nodes of 'workers' is reached; raise it",)


def test_a_quota_of_the_account_stops_growth_before_the_cloud_has_to_refuse(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=10)))
    world.cloud.limits["CPU"] = 12.0
    world.agents.demand("demo", {"CPU": 4.0}, 10)
    world.run(steps=60)
    assert len(world.ready()) == 2
    assert "create.refused" not in world.kinds()
    assert world.record().reason == "CPU=4: the quota CPU of account is used up; ask the cloud for more"


def test_a_cluster_starts_in_the_zone_where_all_of_it_can_be_had(world: World) -> None:
    world.cloud.exhaust(zone="zone-a", instance_type="gpu-4")
    world.up(a_spec("demo", workers(min_nodes=1), workers("gpus", instance_type="gpu-4", min_nodes=1)))
    assert {node.zone for node in world.nodes()} == {"zone-b"}


def test_a_node_on_demand_that_is_idle_gives_way_to_spot_once_there_is_some_again(world: World) -> None:
    world.cloud.exhaust(market=MarketType.SPOT)
    group = workers(min_nodes=1, max_nodes=3, market_type=MarketType.PREFER_SPOT)
    world.up(a_spec("demo", group, rebuild_after_minutes=1, idle_worker_seconds=10))
    assert [node.market_type for node in world.ready()] == [MarketType.ON_DEMAND]
    world.cloud.restock()
    world.plane.clouds.get("fake")._catalogue = None  # read again at its next use, as after ten minutes
    world.until(lambda: [node.market_type for node in world.nodes(group="workers")] == [MarketType.SPOT], steps=900)
    assert len(world.ready()) == 1
    creates = world.creates()
    world.run(steps=150)
    assert world.creates() == creates, "a fleet that fits is left alone"
