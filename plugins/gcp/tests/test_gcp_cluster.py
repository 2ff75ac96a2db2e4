"""Instances, where the simulated Compute Engine is slow, sold out, or asked by many at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, ProjectHands, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.cluster import GcpCluster
from anyscale_gcp.config import Settings
from anyscale_gcp.kit.world import REGION, Ambient, endpoints_of

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CapacityUnavailable, InvalidRequest, QuotaExceeded, Scope
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import NodeId, Token
from anyscale_core.models.instance import Created, Deletion, InstanceSpec, InstanceState, NotCreated
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner
from anyscale_core.testing.clock import ManualClock

OURS = owner(cluster="clu_1")
SLOW = Timings(insert=timedelta(seconds=12), stockout=timedelta(seconds=4))


@attrs.define(kw_only=True)
class Cloud:
    """A project with a driver on a clock moved by hand."""

    project: ProjectHands
    driver: GcpCluster
    clock: ManualClock
    tokens: Iterator[int]

    def create(self, *specs: InstanceSpec, token: str = "") -> tuple[Created | NotCreated, ...]:
        return self.driver.create(specs, token=Token(token or f"t{next(self.tokens)}"), deadline=self.soon())

    def soon(self) -> datetime:
        return self.clock.now() + timedelta(seconds=60)

    def requests(self) -> list[str]:
        return [entry.method.removeprefix("compute.") for entry in self.project.requests() if entry.method]


@pytest.fixture
def simulator() -> Iterator[GcpSimulator]:
    with GcpSimulator() as found:
        yield found


@pytest.fixture
def cloud(simulator: GcpSimulator, tmp_path: Path) -> Cloud:
    return a_cloud(simulator, tmp_path, SLOW)


def a_cloud(simulator: GcpSimulator, home: Path, timings: Timings) -> Cloud:
    clock = ManualClock()
    project = simulator.add_project("gcp-cluster", clock=clock, timings=Timings.none())
    settings = {"project": project.id, "endpoints": endpoints_of(simulator)}
    config = DriverConfig(owner=OURS, home=home, region=REGION, clock=clock, settings=settings)
    client = Client(
        Settings(project=project.id, endpoints=endpoints_of(simulator)), clock, credentials=Ambient(project)
    )
    deadline = clock.now() + timedelta(minutes=1)
    network = {"name": "default", "autoCreateSubnetworks": False}
    client.call("compute.networks.insert", project=project.id, body=network, deadline=deadline)
    subnetwork = {"name": "default", "network": "global/networks/default", "ipCidrRange": "10.128.0.0/20"}
    client.call("compute.subnetworks.insert", project=project.id, region=REGION, body=subnetwork, deadline=deadline)
    project.project.timings = timings
    return Cloud(project=project, driver=GcpCluster(config, client), clock=clock, tokens=iter(range(1000)))


def spec(name: str = "one", **more: Any) -> InstanceSpec:
    fields: dict[str, Any] = {
        "instance_type": "n2-standard-4",
        "bootstrap": a_bootstrap(),
        "zones": (f"{REGION}-a",),
        **more,
    }
    return attrs.evolve(an_instance_spec(name), node_id=NodeId(f"nod_{name}"), **fields)


def test_a_batch_of_ten_costs_a_sweep_and_ten_inserts(cloud: Cloud) -> None:
    before = len(cloud.requests())
    outcomes = cloud.create(*(spec(f"n{number}") for number in range(10)))
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    assert sorted(cloud.requests()[before:]) == ["instances.aggregatedList", *["instances.insert"] * 10]


def test_a_stockout_that_comes_late_is_shown_stopped_with_googles_words_until_it_is_deleted(cloud: Cloud) -> None:
    cloud.project.sell_out("n2-standard-4")
    (outcome,) = cloud.create(spec())
    assert isinstance(outcome, Created)
    id = outcome.instance.id
    assert cloud.driver.get(id, owner=OURS, deadline=cloud.soon()).state is InstanceState.PENDING
    cloud.clock.advance(timedelta(seconds=5))
    (shown,) = cloud.driver.list(OURS, deadline=cloud.soon())
    assert (shown.id, shown.state) == (id, InstanceState.STOPPED)
    assert shown.reason.startswith("ZONE_RESOURCE_POOL_EXHAUSTED")
    assert isinstance(shown.failure, CapacityUnavailable)
    assert cloud.driver.delete([id], owner=OURS, deadline=cloud.soon()) == {id: Deletion.ALREADY_ABSENT}
    assert cloud.driver.list(OURS, deadline=cloud.soon()) == ()


def test_a_repeat_of_a_create_that_failed_late_is_told_why(cloud: Cloud) -> None:
    cloud.project.sell_out("n2-standard-4")
    cloud.create(spec(), token="late")
    cloud.clock.advance(timedelta(seconds=5))
    (outcome,) = cloud.create(spec(), token="late")
    assert isinstance(outcome, NotCreated)
    assert isinstance(outcome.error, CapacityUnavailable)
    assert outcome.error.scope is Scope.ZONE


def test_zones_are_tried_in_the_specs_order_and_a_repeat_stays_where_the_first_call_went(
    simulator: GcpSimulator, tmp_path: Path
) -> None:
    cloud = a_cloud(simulator, tmp_path, Timings.none())
    cloud.project.sell_out("n2-standard-4", zone=f"{REGION}-f")
    wanted = spec(zones=(f"{REGION}-f", f"{REGION}-c", f"{REGION}-a"))
    (first,) = cloud.create(wanted, token="zones")
    assert isinstance(first, Created)
    assert first.instance.zone == f"{REGION}-c"
    cloud.project.restock()
    cloud.clock.advance(timedelta(days=1))
    (again,) = cloud.create(wanted, token="zones")
    assert isinstance(again, Created)
    assert again.instance.id == first.instance.id


def test_a_spent_quota_tells_its_metric_limit_and_use(cloud: Cloud) -> None:
    cloud.project.limit("N2_CPUS", 6.0, region=REGION)
    cloud.create(spec("one"))
    (outcome,) = cloud.create(spec("two"))
    assert isinstance(outcome, NotCreated)
    assert isinstance(outcome.error, QuotaExceeded)
    assert (outcome.error.metric, outcome.error.limit, outcome.error.used) == ("N2_CPUS", 6.0, 4.0)


def test_spot_and_accelerators_are_part_of_the_creating_call(cloud: Cloud) -> None:
    kind = "n1-standard-4+nvidia-tesla-t4:1"
    (outcome,) = cloud.create(spec(instance_type=kind, market_type=MarketType.SPOT))
    assert isinstance(outcome, Created)
    (seen,) = (seen for seen in cloud.project.inventory() if seen.kind == "instances")
    assert seen.body["scheduling"]["provisioningModel"] == "SPOT"
    assert seen.body["scheduling"]["onHostMaintenance"] == "TERMINATE"
    assert seen.body["guestAccelerators"][0]["acceleratorType"].endswith("/nvidia-tesla-t4")
    assert cloud.driver.get(outcome.instance.id, owner=OURS, deadline=cloud.soon()).instance_type == kind


def test_the_users_own_launch_fields_are_merged_and_may_not_say_whose_it_is(cloud: Cloud) -> None:
    (outcome,) = cloud.create(spec(advanced_instance_config={"minCpuPlatform": "Intel Ice Lake"}))
    assert isinstance(outcome, Created)
    (refused,) = cloud.create(spec("two", advanced_instance_config={"labels": {}, "serviceAccounts": []}))
    assert isinstance(refused, NotCreated)
    assert isinstance(refused.error, InvalidRequest)
    assert "labels, serviceAccounts" in refused.error.message


def test_the_join_token_is_in_no_list_and_no_repr(cloud: Cloud) -> None:
    cloud.create(spec())
    token = a_bootstrap().join_token.reveal()
    (instance,) = cloud.driver.list(OURS, deadline=cloud.soon())
    assert token not in repr(instance)
    (seen,) = (seen for seen in cloud.project.inventory() if seen.kind == "instances")
    assert token in str(seen.body["metadata"])
    assert token not in seen.body["description"]


def test_tags_that_no_label_can_hold_come_back_as_they_were(cloud: Cloud) -> None:
    tags = {"Team": "Blau & Weiß", "cost-center": "42", "empty": ""}
    cloud.create(spec(tags=tags))
    (instance,) = cloud.driver.list(OURS, deadline=cloud.soon())
    assert {key: instance.tags[key] for key in tags} == tags
    (seen,) = (seen for seen in cloud.project.inventory() if seen.kind == "instances")
    assert seen.body["labels"]["cost-center"] == "42"
    assert "Team" not in seen.body["labels"]


def test_the_catalogue_has_prices_spot_accelerators_and_what_each_takes_of_the_quotas(cloud: Cloud) -> None:
    offerings = {
        (each.instance_type, each.market_type): each
        for each in cloud.driver.offerings(deadline=cloud.soon())
        if each.zone == f"{REGION}-a"
    }
    plain = offerings["n2-standard-4", MarketType.ON_DEMAND]
    assert plain.price_per_hour == pytest.approx(4 * 0.031611 + 16 * 0.004237)
    assert plain.takes == {"INSTANCES": 1.0, "N2_CPUS": 4.0}
    assert offerings["n2-standard-4", MarketType.SPOT].price_per_hour < plain.price_per_hour / 2
    card = offerings["n1-standard-4+nvidia-tesla-t4:2", MarketType.SPOT]
    assert (card.resources["GPU"], card.resources["accelerator_type:T4"]) == (2, 1)
    assert card.takes["PREEMPTIBLE_NVIDIA_T4_GPUS"] == 2.0
    metrics = {quota.metric for quota in cloud.driver.quotas(deadline=cloud.soon())}
    takes = {metric for each in offerings.values() for metric in each.takes if "H100" not in metric}
    assert takes <= metrics


def test_sixteen_threads_on_one_driver_get_their_own_answers(simulator: GcpSimulator, tmp_path: Path) -> None:
    cloud = a_cloud(simulator, tmp_path, Timings.none())
    made = cloud.create(*(spec(f"n{number}") for number in range(16)))
    ids = [outcome.instance.id for outcome in made if isinstance(outcome, Created)] * 20
    with ThreadPoolExecutor(16) as threads:
        got = list(threads.map(lambda each: cloud.driver.get(each, owner=OURS, deadline=cloud.soon()).id, ids))
    assert got == ids


def test_what_is_being_deleted_and_what_has_stopped_are_told_apart(cloud: Cloud) -> None:
    outcomes = cloud.create(spec("goes"), spec("stops"))
    goes, stops = (outcome.instance.id for outcome in outcomes if isinstance(outcome, Created))
    cloud.clock.advance(timedelta(seconds=15))
    assert cloud.driver.delete([goes], owner=OURS, deadline=cloud.soon()) == {goes: Deletion.GOING}
    cloud.project.stop(stops.split("/")[1])
    states = {instance.id: instance.state for instance in cloud.driver.list(OURS, deadline=cloud.soon())}
    assert states == {goes: InstanceState.DELETING, stops: InstanceState.STOPPED}
