import threading
from datetime import timedelta

import attrs
import pytest
from anyscale_azure.testing import OWNER, World

from anyscale_core.errors import Applied, CapacityUnavailable, InvalidRequest, QuotaExceeded, Scope, Throttled
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceState, NotCreated, Outcome
from anyscale_core.models.networking import NetworkMode, NetworkSpec


def instance(outcome: Outcome) -> Instance:
    assert isinstance(outcome, Created), outcome
    return outcome.instance


def kinds(world: World) -> dict[str, int]:
    found: dict[str, int] = {}
    for thing in world.at.inventory():
        if "anyscale-core-plane" in thing.tags:
            kind = thing.type.rpartition("/")[2]
            found[kind] = found.get(kind, 0) + 1
    return found


def test_one_put_makes_a_machine_with_its_disk_and_interface_all_tagged_and_one_delete_takes_all_away(
    world: World,
) -> None:
    driver = world.cluster
    made = instance(driver.create([world.spec()], token=world.token(), deadline=world.soon())[0])
    assert made.state is InstanceState.PENDING
    assert kinds(world) == {"virtualMachines": 1, "disks": 1, "networkInterfaces": 1}
    assert [method for method, _ in world.sent()] == ["GET", "PUT"]

    world.clock.sleep(timedelta(minutes=2))
    (running,) = driver.list(OWNER, deadline=world.soon())
    assert (running.state, running.id) == (InstanceState.RUNNING, made.id)
    assert running.address.startswith("10.250.")
    assert running == driver.get(made.id, owner=OWNER, deadline=world.soon())

    assert driver.delete([made.id], owner=OWNER, deadline=world.soon()) == {made.id: Deletion.GOING}
    world.clock.sleep(timedelta(minutes=10))
    assert driver.delete([made.id], owner=OWNER, deadline=world.soon()) == {made.id: Deletion.ALREADY_ABSENT}
    assert kinds(world) == {}


def test_a_batch_of_forty_is_one_look_and_forty_puts_at_once(world: World) -> None:
    specs = [world.spec(f"node-{number}") for number in range(40)]
    token = world.token()
    outcomes = world.cluster.create(specs, token=token, deadline=world.soon())
    assert [instance(outcome).name for outcome in outcomes] == [spec.name for spec in specs]
    assert [method for method, _ in world.sent()].count("PUT") == 40
    assert [method for method, _ in world.sent()].count("GET") == 1

    again = world.cluster.create(specs, token=token, deadline=world.soon())
    assert [instance(outcome).id for outcome in again] == [instance(outcome).id for outcome in outcomes]
    assert kinds(world)["virtualMachines"] == 40


def test_many_threads_with_one_token_make_one_machine(world: World) -> None:
    driver, token, found = world.cluster, world.token(), []

    def create() -> None:
        found.append(instance(driver.create([world.spec()], token=token, deadline=world.soon())[0]).id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert kinds(world)["virtualMachines"] == 1


def test_a_machine_that_fails_late_is_stopped_with_azures_own_words_and_the_error_that_they_mean(world: World) -> None:
    world.at.hands.sell_out("Standard_DS1_v2")
    made = instance(world.cluster.create([world.spec()], token=world.token(), deadline=world.soon())[0])
    world.clock.sleep(timedelta(minutes=5))
    (failed,) = world.cluster.list(OWNER, deadline=world.soon())
    assert (failed.id, failed.state) == (made.id, InstanceState.STOPPED)
    assert "AllocationFailed" in failed.reason
    assert isinstance(failed.failure, CapacityUnavailable)
    assert (failed.failure.scope, failed.failure.resource) == (Scope.ZONE, "node-1")
    assert failed.failure.vendor is not None
    assert failed.failure.vendor.code == "ZonalAllocationFailed"
    shown = world.cluster.get(made.id, owner=OWNER, deadline=world.soon())
    assert str(shown.failure) == str(failed.failure)


def test_a_stockout_in_one_zone_goes_on_to_the_next_that_the_spec_names_and_no_other(world: World) -> None:
    world.at.hands.restrict("Standard_DS1_v2", "2")
    made = instance(world.cluster.create([world.spec(zones=("2", "3"))], token=world.token(), deadline=world.soon())[0])
    assert made.zone == "3"
    (outcome,) = world.cluster.create([world.spec("node-2", zones=("2",))], token=world.token(), deadline=world.soon())
    assert isinstance(outcome, NotCreated)
    assert isinstance(outcome.error, CapacityUnavailable)
    assert outcome.error.scope.value == "zone"


def test_prefer_spot_takes_spot_while_there_is_quota_for_it_and_is_refused_where_there_is_none(world: World) -> None:
    spec = attrs.evolve(world.spec(), market_type=MarketType.PREFER_SPOT)
    made = instance(world.cluster.create([spec], token=world.token(), deadline=world.soon())[0])
    assert made.market_type is MarketType.SPOT
    world.at.hands.limit("lowPriorityCores", 1)
    (outcome,) = world.cluster.create([attrs.evolve(spec, name="node-2")], token=world.token(), deadline=world.soon())
    assert isinstance(outcome, NotCreated)
    assert isinstance(outcome.error, QuotaExceeded)
    assert (outcome.error.metric, outcome.error.limit, outcome.error.used) == ("lowPriorityCores", 1, 1)


def test_an_evicted_spot_machine_is_gone_with_all_that_came_along(world: World) -> None:
    spec = attrs.evolve(world.spec(), market_type=MarketType.SPOT)
    made = instance(world.cluster.create([spec], token=world.token(), deadline=world.soon())[0])
    world.clock.sleep(timedelta(minutes=2))
    world.at.hands.announce(made.id.rpartition(".")[0])
    world.clock.sleep(timedelta(minutes=10))
    assert world.cluster.list(OWNER, deadline=world.soon()) == ()
    assert kinds(world) == {}


def test_a_throttle_comes_out_with_its_wait_and_is_not_repeated_in_place(world: World) -> None:
    world.at.throttle(action="virtualMachines.put", retry_after=17)
    with pytest.raises(Throttled) as caught:
        world.cluster.create([world.spec()], token=world.token(), deadline=world.soon())
    assert caught.value.retry_after == timedelta(seconds=17)
    assert caught.value.applied is Applied.NO
    assert [method for method, _ in world.sent()].count("PUT") == 1


def test_machines_of_a_public_network_have_an_address_that_goes_with_them(world: World) -> None:
    network = NetworkSpec(name="open", mode=NetworkMode.PUBLIC)
    world.networking.create(network, owner=OWNER, token=world.token(), deadline=world.soon())
    world.clock.sleep(timedelta(seconds=30))
    before = kinds(world)
    made = instance(world.cluster.create([world.spec(network="open")], token=world.token(), deadline=world.soon())[0])
    assert kinds(world)["publicIPAddresses"] == 1
    world.cluster.delete([made.id], owner=OWNER, deadline=world.soon())
    world.clock.sleep(timedelta(minutes=10))
    assert kinds(world) == before


def test_the_users_own_words_for_a_machine_are_kept_and_ours_stand_above_them(world: World) -> None:
    config = {"properties": {"securityProfile": {"securityType": "TrustedLaunch"}}, "tags": {"Name": "stolen"}}
    spec = attrs.evolve(world.spec(), advanced_instance_config=config)
    made = instance(world.cluster.create([spec], token=world.token(), deadline=world.soon())[0])
    body = world.at.named(made.id.rpartition(".")[0]).body
    assert body["properties"]["securityProfile"] == {"securityType": "TrustedLaunch"}
    assert body["tags"]["Name"] == "node-1"


def test_a_cluster_cannot_choose_what_its_machines_run_as(world: World) -> None:
    spec = attrs.evolve(world.spec(), advanced_instance_config={"identity": {"userAssignedIdentities": {"/other": {}}}})
    (refused,) = world.cluster.create([spec], token=world.token(), deadline=world.soon())
    assert isinstance(refused, NotCreated)
    assert isinstance(refused.error, InvalidRequest)
    assert kinds(world) == {}


def test_without_a_network_and_without_a_subnet_in_the_settings_nothing_is_asked_for(world: World) -> None:
    world.more["subnet_id"] = ""
    with pytest.raises(InvalidRequest, match="set subnet_id"):
        world.cluster.create([world.spec()], token=world.token(), deadline=world.soon())
    assert kinds(world) == {}


def test_the_catalogue_tells_quotas_by_the_names_that_limits_have(world: World) -> None:
    offerings = world.cluster.offerings(deadline=world.soon())
    metrics = {quota.metric for quota in world.cluster.quotas(deadline=world.soon())}
    mine = [each for each in offerings if each.instance_type == "Standard_DS1_v2"]
    assert {each.zone for each in mine} == {"1", "2", "3"}
    assert {each.market_type for each in mine} == {MarketType.ON_DEMAND, MarketType.SPOT}
    assert all(set(each.takes) <= metrics for each in mine)
    gpus = next(each for each in offerings if each.instance_type == "Standard_NC4as_T4_v3")
    assert (gpus.resources["GPU"], gpus.resources["accelerator_type:T4"]) == (1, 1)
