"""Instances of Compute Engine as they are simulated, through Google's own client."""

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.gcp import ApiError, QuotaAnswer
from anyscale_conformance.simulators.gcp.filters import parse
from anyscale_conformance.simulators.gcp.lab import MINUTE, REGION, ZONE, Lab, order, reason, refused

WAIT_S = 30.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    faults = list(lab.simulator.faults)
    lab.simulator.close()
    assert faults == [], "the simulator's own answers keep to the published schemas"


def test_an_instance_is_provisioned_and_runs_when_its_operation_is_done(lab: Lab) -> None:
    operation = lab.insert("vm", labels={"plane": "pln_1"}, metadata={"items": [{"key": "k", "value": "v"}]})
    assert (operation["status"], lab.get("vm")["status"]) == ("RUNNING", "PROVISIONING")
    assert operation["targetId"] == lab.get("vm")["id"]
    lab.clock.advance(timedelta(seconds=5))
    assert lab.get("vm")["status"] == "STAGING"
    lab.clock.advance(timedelta(seconds=8))
    done, vm = lab.operation(operation), lab.get("vm")
    assert (done["status"], done["progress"], vm["status"]) == ("DONE", 100, "RUNNING")
    assert datetime.fromisoformat(done["endTime"]) - datetime.fromisoformat(done["insertTime"]) == timedelta(seconds=12)
    assert vm["networkInterfaces"][0]["networkIP"] == "10.1.0.2"
    assert lab.compute.disks().get(**ZONE, disk="vm").execute()["users"] == [vm["selfLink"]]


def test_a_request_id_finds_its_operation_again_and_stands_for_nothing_else(lab: Lab) -> None:
    token = str(uuid.uuid4())
    first = lab.insert("vm", request_id=token)
    assert lab.insert("vm", request_id=token) == first
    assert reason(refused(lambda: lab.insert("vm", request_id=token, labels={"a": "b"}))) == "invalid"
    assert reason(refused(lambda: lab.insert("vm"))) == "alreadyExists"
    assert refused(lambda: lab.insert("x", request_id=str(uuid.UUID(int=0)))).status_code == 400
    assert refused(lambda: lab.insert("x", request_id="again")).status_code == 400
    lab.clock.advance(timedelta(hours=2))
    assert reason(refused(lambda: lab.insert("vm", request_id=token))) == "alreadyExists", (
        "it is forgotten after an hour"
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"boot": "yes"}, 'Unknown name "boot"'),
        ({"scheduling": {"provisioningModel": "CHEAP"}}, "scheduling.provisioningModel"),
        ({"disks": []}, "No disks are specified"),
        ({"networkInterfaces": []}, "At least one network interface"),
        ({"networkInterfaces": [{"network": "global/networks/net"}]}, "must specify a subnet"),
        ({"networkInterfaces": [{"network": "global/networks/none"}]}, "cannot be found"),
        ({"machineType": "zones/us-central1-a/machineTypes/z9-huge-1"}, "does not exist in zone 'us-central1-a'"),
        ({"machineType": "zones/us-central1-b/machineTypes/e2-small"}, "must be in the instance's zone"),
        ({"name": "Upper"}, "does not match the pattern"),
        ({"labels": {"Upper": "x"}}, "Label key 'Upper'"),
        ({"labels": {"a": "UP"}}, "Label value 'UP'"),
        ({"metadata": {"items": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}}, "Duplicate metadata key"),
        ({"metadata": {"items": [{"key": "a", "value": "x" * 300_000}]}}, "too large"),
        ({"tags": {"items": ["Not A Tag"]}}, "resource.tags.items"),
        ({"serviceAccounts": [{"email": "no@p-1.iam.gserviceaccount.com"}]}, "does not have access to service account"),
        ({"scheduling": {"provisioningModel": "SPOT", "automaticRestart": True}}, "automaticRestart"),
        ({"scheduling": {"instanceTerminationAction": "DELETE"}}, "Spot instances"),
    ],
)
def test_an_insert_that_can_never_work_is_refused_at_once_by_name(lab: Lab, wrong: dict[str, Any], says: str) -> None:
    error = refused(lambda: lab.insert(**{"name": "vm", **wrong}))
    assert error.status_code == 400
    assert says in json.loads(error.content)["error"]["message"]
    assert [thing.kind for thing in lab.project.inventory() if thing.kind in ("instances", "disks")] == []


def test_accelerators_need_a_machine_that_takes_them_and_cannot_be_moved(lab: Lab) -> None:
    t4 = [
        {"acceleratorType": "projects/p-1/zones/us-central1-a/acceleratorTypes/nvidia-tesla-t4", "acceleratorCount": 1}
    ]
    n1 = "zones/us-central1-a/machineTypes/n1-standard-4"
    assert "not compatible" in refused(lambda: lab.insert("vm", guestAccelerators=t4)).reason
    assert "live migration" in refused(lambda: lab.insert("vm", guestAccelerators=t4, machineType=n1)).reason
    lab.insert("vm", guestAccelerators=t4, machineType=n1, scheduling={"onHostMaintenance": "TERMINATE"})
    quotas = lab.compute.regions().get(**REGION).execute()["quotas"]
    assert {"metric": "NVIDIA_T4_GPUS", "limit": 16.0, "usage": 1.0} in quotas
    types = lab.compute.acceleratorTypes().aggregatedList(project="p-1").execute()["items"]
    assert "acceleratorTypes" in types["zones/us-central1-a"]
    assert "warning" in types["zones/us-central1-f"]


def test_a_stockout_is_an_operation_that_is_done_with_an_error_and_the_instance_is_gone(lab: Lab) -> None:
    lab.project.sell_out("e2-standard-4", zone="us-central1-a")
    operation = lab.insert("vm")
    assert (operation["status"], lab.get("vm")["status"]) == ("RUNNING", "PROVISIONING")
    lab.clock.advance(MINUTE)
    failed = lab.operation(operation)
    assert (failed["status"], failed["httpErrorStatusCode"]) == ("DONE", 503)
    assert failed["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert reason(refused(lambda: lab.get("vm"))) == "notFound"
    assert lab.compute.disks().list(**ZONE).execute().get("items") is None
    lab.insert("elsewhere", zone="us-central1-b")
    lab.project.restock()
    lab.insert("vm")


def test_a_full_subnetwork_fails_the_operation_too(lab: Lab) -> None:
    lab.project.fill("sub")
    operation = lab.insert("vm")
    lab.clock.advance(MINUTE)
    assert lab.operation(operation)["error"]["errors"][0]["code"] == "IP_SPACE_EXHAUSTED"


def test_quotas_refuse_what_would_pass_them_and_spot_has_its_own(lab: Lab) -> None:
    lab.project.limit("CPUS", 6, region="us-central1")
    lab.insert("vm-1")
    error = refused(lambda: lab.insert("vm-2"))
    assert (error.status_code, reason(error)) == (403, "quotaExceeded")
    assert "Quota 'CPUS' exceeded.  Limit: 6.0 in region us-central1" in error.reason
    lab.insert("vm-3", scheduling={"provisioningModel": "SPOT"})
    quotas = {item["metric"]: item for item in lab.compute.regions().get(**REGION).execute()["quotas"]}
    assert (quotas["CPUS"]["usage"], quotas["PREEMPTIBLE_CPUS"]["usage"], quotas["INSTANCES"]["usage"]) == (
        4.0,
        4.0,
        2.0,
    )
    whole = {item["metric"]: item["usage"] for item in lab.compute.projects().get(project="p-1").execute()["quotas"]}
    assert (whole["CPUS_ALL_REGIONS"], whole["NETWORKS"]) == (8.0, 1.0)


def test_a_failure_that_was_planned_ends_the_operation_and_undoes_it(lab: Lab) -> None:
    lab.insert("there")
    lab.clock.advance(MINUTE)
    lab.project.fail_late("RESOURCE_OPERATION_RATE_EXCEEDED", "too fast", http=429)
    lab.project.fail_late("INTERNAL_ERROR", "it broke", kind="delete", http=500)
    inserting = lab.insert("vm")
    deleting = lab.compute.instances().delete(**ZONE, instance="there").execute()
    lab.clock.advance(MINUTE)
    failed = lab.operation(inserting)
    assert (failed["httpErrorMessage"], failed["error"]["errors"]) == (
        "TOO MANY REQUESTS", [{"code": "RESOURCE_OPERATION_RATE_EXCEEDED", "message": "too fast"}],
    )  # fmt: skip
    assert refused(lambda: lab.get("vm")).status_code == 404
    assert lab.operation(deleting)["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert lab.get("there")["status"] == "RUNNING"
    lab.project.fail_late("INTERNAL_ERROR", "it broke", http=500)
    lab.compute.networks().insert(project="p-1", body={"name": "lost"}).execute()
    lab.clock.advance(MINUTE)
    assert refused(lab.compute.networks().get(project="p-1", network="lost")).status_code == 404


def test_a_quota_may_also_fail_the_operation(lab: Lab) -> None:
    lab.project.limit("INSTANCES", 0, region="us-central1")
    lab.project.answer_quotas(QuotaAnswer.LATE)
    operation = lab.insert("vm")
    lab.clock.advance(MINUTE)
    failed = lab.operation(operation)
    error = failed["error"]["errors"][0]
    assert (failed["status"], failed["httpErrorStatusCode"], error["code"]) == ("DONE", 403, "QUOTA_EXCEEDED")
    assert error["errorDetails"][0]["quotaInfo"]["limit"] == 0.0
    assert reason(refused(lambda: lab.get("vm"))) == "notFound"


def test_the_four_hundred_and_threes_are_told_apart_by_their_reasons(lab: Lab) -> None:
    lab.project.throttle(method="compute.instances.get")
    assert reason(refused(lambda: lab.get("vm"))) == "rateLimitExceeded"
    lab.project.refuse(ApiError(503, "backendError", "try again"), times=2)
    assert [refused(lambda: lab.get("vm")).status_code for _ in range(3)] == [503, 503, 404]
    lab.project.disable("compute")
    error = refused(lambda: lab.get("vm"))
    assert (error.status_code, reason(error)) == (403, "accessNotConfigured")
    assert error.error_details[0]["reason"] == "SERVICE_DISABLED"


def test_lists_are_filtered_cut_into_pages_and_aggregated(lab: Lab) -> None:
    for number in range(7):
        zone = f"us-central1-{'abc'[number % 3]}"
        lab.insert(f"vm-{number}", zone=zone, labels={"parity": "odd" if number % 2 else "even"})
    instances = lab.compute.instances()
    request, names, pages = (
        instances.aggregatedList(project="p-1", filter='labels.parity = "even"', maxResults=3),
        [],
        0,
    )
    while request is not None:
        page = request.execute()
        names += [vm["name"] for scope in page["items"].values() for vm in scope.get("instances", [])]
        request, pages = instances.aggregatedList_next(request, page), pages + 1
    assert (sorted(names), pages) == (["vm-0", "vm-2", "vm-4", "vm-6"], 2)
    first = instances.list(**ZONE, maxResults=1).execute()
    error = refused(instances.list(**ZONE, maxResults=1, pageToken=first["nextPageToken"], filter="name = x"))
    assert "Page token is invalid" in error.reason
    cut = instances.list(**ZONE, fields="items(name,labels/parity)").execute()
    assert cut["items"][0] == {"name": "vm-0", "labels": {"parity": "even"}}
    assert "Invalid list filter expression" in refused(instances.list(**ZONE, filter="name = (")).reason
    assert refused(instances.list(**ZONE, maxResults=501)).status_code == 400


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('labels.a = "b"', True), ("labels.a:*", True), ("labels.c:*", False), ("labels.a != b", False),
        ("(labels.a = b) (name = vm-*)", True), ("labels.a = x OR status = RUNNING", True), ("-labels.c:*", True),
        ("NOT status = RUNNING", False), ("cpus >= 4 AND cpus < 5", True), ("name eq vm-[0-9]+", True), ("name ne vm.*", False),
        ('labels.with-dash = "x y"', True), ("spot = true", True), ("items.kind = one", True),
    ],
)  # fmt: skip
def test_a_filter_means_what_the_discovery_document_says(text: str, holds: bool) -> None:
    item = {
        "name": "vm-1", "status": "RUNNING", "labels": {"a": "b", "with-dash": "x y"}, "cpus": 4, "spot": True,
        "items": [{"kind": "one"}],
    }  # fmt: skip
    assert parse(text)(item) is holds


def test_lists_lag_when_told_to_and_a_get_does_not(lab: Lab) -> None:
    lab.project.project.lag = MINUTE
    lab.insert("vm")
    listed = lab.compute.instances().list(**ZONE)
    assert "items" not in listed.execute()
    assert lab.get("vm")["name"] == "vm"
    lab.clock.advance(MINUTE)
    assert listed.execute()["items"][0]["name"] == "vm"


def test_a_deleted_instance_is_stopping_until_it_is_gone_with_its_disk(lab: Lab) -> None:
    lab.insert("vm")
    lab.insert("keeps", disks=[{**order()["disks"][0], "autoDelete": False}])
    lab.clock.advance(MINUTE)
    for name in ("vm", "keeps"):
        lab.compute.instances().delete(**ZONE, instance=name).execute()
    assert lab.get("vm")["status"] == "STOPPING"
    lab.clock.advance(MINUTE)
    assert reason(refused(lambda: lab.get("vm"))) == "notFound"
    assert [disk["name"] for disk in lab.compute.disks().list(**ZONE).execute()["items"]] == ["keeps"]
    lab.insert("vm")
    assert reason(refused(lambda: lab.insert("keeps"))) == "alreadyExists", "its disk is still there"


def test_a_protected_instance_is_not_deleted(lab: Lab) -> None:
    lab.insert("vm", deletionProtection=True)
    delete = lab.compute.instances().delete(**ZONE, instance="vm")
    assert reason(refused(delete)) == "invalidResourceUsage"
    lab.project.protect("vm", protection=False)
    delete.execute()


def test_an_instance_is_stopped_and_started_and_an_old_order_counts_no_more(lab: Lab) -> None:
    lab.insert("vm")
    lab.compute.instances().stop(**ZONE, instance="vm").execute()
    lab.clock.advance(timedelta(seconds=13))
    assert lab.get("vm")["status"] == "STOPPING", "the insert's end does not let it run again"
    lab.clock.advance(MINUTE)
    assert lab.get("vm")["status"] == "TERMINATED"
    lab.project.sell_out()
    operation = lab.compute.instances().start(**ZONE, instance="vm").execute()
    lab.clock.advance(MINUTE)
    assert lab.operation(operation)["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert lab.get("vm")["status"] == "TERMINATED"
    lab.project.restock()
    lab.compute.instances().start(**ZONE, instance="vm").execute()
    lab.clock.advance(MINUTE)
    assert lab.get("vm")["status"] == "RUNNING"


def test_a_preempted_spot_instance_is_stopping_then_stopped_or_gone_and_an_operation_tells_it(lab: Lab) -> None:
    for name, action in (("stays", "STOP"), ("goes", "DELETE")):
        lab.insert(name, scheduling={"provisioningModel": "SPOT", "instanceTerminationAction": action})
    lab.insert("safe")
    lab.clock.advance(MINUTE)
    for name in ("stays", "goes"):
        lab.project.preempt(name)
    with pytest.raises(ValueError, match="not a spot instance"):
        lab.project.preempt("safe")
    assert lab.get("stays")["status"] == "STOPPING"
    lab.clock.advance(MINUTE)
    assert lab.get("stays")["status"] == "TERMINATED"
    assert reason(refused(lambda: lab.get("goes"))) == "notFound"
    told = lab.compute.zoneOperations().list(**ZONE, filter='operationType = "compute.instances.preempted"').execute()
    assert {item["targetLink"].rpartition("/")[2] for item in told["items"]} == {"stays", "goes"}


def test_labels_metadata_and_tags_are_changed_by_their_present_fingerprint(lab: Lab) -> None:
    lab.insert("vm", labels={"a": "1"})
    lab.clock.advance(MINUTE)
    vm, instances = lab.get("vm"), lab.compute.instances()
    body = {"labels": {"a": "2"}, "labelFingerprint": vm["labelFingerprint"]}
    instances.setLabels(**ZONE, instance="vm", body=body).execute()
    lab.clock.advance(MINUTE)
    assert lab.get("vm")["labels"] == {"a": "2"}
    error = refused(instances.setLabels(**ZONE, instance="vm", body={**body, "labels": {}}))
    assert (error.status_code, reason(error)) == (412, "conditionNotMet")
    tags = {"items": ["web"], "fingerprint": vm["tags"]["fingerprint"]}
    instances.setTags(**ZONE, instance="vm", body=tags).execute()
    items = {"items": [{"key": "x", "value": "y"}], "fingerprint": vm["metadata"]["fingerprint"]}
    instances.setMetadata(**ZONE, instance="vm", body=items).execute()
    lab.clock.advance(MINUTE)
    assert (lab.get("vm")["tags"]["items"], lab.get("vm")["metadata"]["items"][0]["value"]) == (["web"], "y")
    assert refused(instances.setTags(**ZONE, instance="vm", body=tags)).status_code == 412


def test_hands_double_stop_and_take_away_instances(lab: Lab) -> None:
    lab.insert("vm", labels={"a": "1"})
    lab.clock.advance(MINUTE)
    lab.project.double("vm")
    twins = [thing for thing in lab.project.inventory() if thing.kind == "instances"]
    assert [(thing.name, thing.scope, thing.body["labels"]) for thing in twins] == [
        ("vm", "zones/us-central1-a", {"a": "1"}), ("vm", "zones/us-central1-b", {"a": "1"}),
    ]  # fmt: skip
    lab.project.stop("vm")
    assert lab.get("vm")["status"] == "TERMINATED"
    lab.project.vanish("vm")
    assert refused(lambda: lab.get("vm")).status_code == 404


def test_many_are_made_by_one_request_in_a_zone_that_has_room(lab: Lab) -> None:
    properties = {**order(), "machineType": "e2-standard-4"}
    lab.project.sell_out(zone="us-central1-a")
    body = {
        "count": "3", "minCount": "2", "instanceProperties": properties,
        "perInstanceProperties": {"w-1": {}, "w-2": {}, "w-3": {}},
    }  # fmt: skip
    operation = lab.compute.regionInstances().bulkInsert(**REGION, body=body).execute()
    lab.clock.advance(MINUTE)
    got = lab.compute.regionOperations().get(**REGION, operation=operation["name"]).execute()
    assert (
        got["instancesBulkInsertOperationMetadata"]["perLocationStatus"]["zones/us-central1-b"]["createdVmCount"] == 3
    )
    made = lab.compute.instances().list(project="p-1", zone="us-central1-b").execute()["items"]
    assert [(vm["name"], vm["status"]) for vm in made] == [("w-1", "RUNNING"), ("w-2", "RUNNING"), ("w-3", "RUNNING")]
    children = lab.compute.zoneOperations().list(
        project="p-1", zone="us-central1-b", filter=f'operationGroupId = "{operation["operationGroupId"]}"'
    ).execute()["items"]  # fmt: skip
    assert len(children) == 3


def test_a_bulk_request_below_its_least_count_makes_nothing(lab: Lab) -> None:
    lab.project.limit("INSTANCES", 2, region="us-central1")
    body = {"count": "3", "namePattern": "w-#", "instanceProperties": {**order(), "machineType": "e2-standard-4"}}
    bulk = lab.compute.instances().bulkInsert
    assert reason(refused(bulk(**ZONE, body=body))) == "quotaExceeded"
    bulk(**ZONE, body={**body, "minCount": "2"}).execute()
    assert len([thing for thing in lab.project.inventory() if thing.kind == "instances"]) == 2
    lab.project.sell_out()
    lab.project.limit("INSTANCES", 99, region="us-central1")
    operation = bulk(**ZONE, body={**body, "namePattern": "x-#"}).execute()
    lab.clock.advance(MINUTE)
    assert lab.operation(operation)["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert "namePattern" in refused(bulk(**ZONE, body={**body, "namePattern": "none"})).reason
