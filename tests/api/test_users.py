"""What people and scripts get from the service, through the real client over TLS."""

import threading
import time
from datetime import timedelta

import pytest

from anyscale_core.api.client import Client
from anyscale_core.api.problems import TooLarge
from anyscale_core.errors import NameTaken, SpecError, UnknownName
from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import CLUSTER_ENDED, ClusterPhase, JobPhase, NodePhase
from anyscale_core.testing.builders import workers
from tests.api.serving import Service, eventually, spec_body


def test_a_cluster_is_applied_runs_shows_its_nodes_and_price_and_is_deleted(service: Service, client: Client) -> None:
    made = client.apply(spec_body("life", workers(min_nodes=2)), JobSpec(entrypoint="python main.py"))
    assert (made.name, made.phase, made.generation) == ("life", ClusterPhase.STARTING, 1)
    agents = service.agents()

    def running() -> bool:
        agents.step()
        return client.get("life").phase is ClusterPhase.RUNNING

    eventually(running, what="life is RUNNING")
    seen = client.get("life")
    assert [node.phase for node in seen.nodes] == [NodePhase.READY] * 3
    eventually(lambda: all(node.address for node in client.get("life").nodes), what="every node's address is known")
    assert seen.price_per_hour == pytest.approx(sum(node.price_per_hour for node in seen.nodes))
    assert seen.price_per_hour > 0
    assert seen.spec.worker_nodes[0].min_nodes == 2
    assert [job.entrypoint for job in seen.jobs] == ["python main.py"]

    def ended() -> bool:
        agents.step()
        return client.get("life").phase in CLUSTER_ENDED

    gone = client.delete("life", reason="the test is over")
    assert gone.phase not in CLUSTER_ENDED
    eventually(ended, what="life is TERMINATED")
    last = client.get("life")
    assert (last.phase, last.price_per_hour) == (ClusterPhase.TERMINATED, 0)
    assert "the test is over" in last.reason
    assert "life" not in [cluster.name for cluster in client.clusters()]


def test_a_running_cluster_gives_access_and_logs_with_secrets_in_clear(service: Service, client: Client) -> None:
    client.apply(spec_body("open"))
    agents = service.agents()

    def endpoint() -> str:
        agents.step()
        return client.get("open").endpoint

    url = eventually(endpoint, what="an endpoint")
    access = client.access("open")
    assert access.url == url
    assert access.token.reveal().count(".") == 2
    assert client.logs("open").url
    assert client.uploads("fake").url
    client.delete("open")


def test_forty_faults_of_a_spec_come_back_as_forty_faults_with_their_paths(client: Client) -> None:
    body = spec_body("faulty")
    body["worker_nodes"] = [{"name": f"g{index}", "instance_type": "cpu-4", "max_nodes": "3"} for index in range(38)]
    body["head_node"]["instance_tpye"] = "x"
    body["idle_termination_minutes"] = -1
    with pytest.raises(SpecError) as caught:
        client.apply(body)
    paths = {fault.path for fault in caught.value.faults}
    assert len(caught.value.faults) == 40
    assert {"head_node.instance_tpye", "idle_termination_minutes", "worker_nodes[37].max_nodes"} <= paths
    assert "faulty" in str(caught.value)


def test_faults_of_a_job_are_named_below_job_and_unknown_members_are_refused(service: Service) -> None:
    assert service.serving is not None
    token = service.serving.connection.token.reveal()
    body = b'{"spec": {"name": "Bad", "cloud": "fake", "head_node": {"instance_type": "cpu-4"}}, "job": {}, "jbo": 1}'
    status, problem = service.raw("POST", "/v1/clusters", token=token, body=body)
    assert status == 400
    assert {fault["path"] for fault in problem["faults"]} == {"name", "job.entrypoint", "jbo"}


def test_a_type_that_the_cloud_does_not_have_is_a_fault_at_its_path(client: Client) -> None:
    with pytest.raises(SpecError) as caught:
        client.apply(spec_body("typo", head="cpu-5"))
    assert [fault.path for fault in caught.value.faults] == ["head_node.instance_type"]
    with pytest.raises(SpecError):
        client.plan(spec_body("typo", head="cpu-5"))


def test_a_plan_shows_nodes_and_prices_and_makes_nothing(service: Service, client: Client) -> None:
    before = len(service.cloud.machines)
    plan = client.plan(spec_body("planned", workers(min_nodes=1, max_nodes=4)))
    # Workers wait for a head; the plan shows what is started now and what it may come to.
    assert {nodes.group for nodes in plan.nodes} >= {"head"}
    assert plan.max_price_per_hour > plan.price_per_hour > 0
    assert "planned" not in [cluster.name for cluster in client.clusters()]
    assert len(service.cloud.machines) == before


def test_a_name_that_is_not_known_comes_back_as_unknown_name_with_the_nearest(client: Client) -> None:
    client.apply(spec_body("lighthouse"))
    with pytest.raises(UnknownName, match="lighthouse"):
        client.get("lighthose")
    with pytest.raises(UnknownName):
        client.delete("no/such name?")
    with pytest.raises(UnknownName):
        client.submit("no-such", JobSpec(entrypoint="true"))
    client.delete("lighthouse")


def test_a_job_is_submitted_and_shown_without_its_variables(client: Client) -> None:
    client.apply(spec_body("jobs"))
    job = client.submit("jobs", JobSpec(entrypoint="true", env_vars={"PASSWORD": "hidden-word"}))
    assert (job.phase, job.attempt) == (JobPhase.WAITING, 1)
    assert [one.id for one in client.get("jobs").jobs] == [job.id]
    assert "hidden-word" not in repr(client.get("jobs"))
    client.delete("jobs")


def test_events_are_paged_by_id_and_a_waiting_list_is_answered_as_soon_as_there_is_one(client: Client) -> None:
    client.apply(spec_body("told"))
    first = client.events("told", limit=1)
    assert [event.kind for event in first] == ["cluster.created"]
    last = max(event.id for event in client.events(limit=1000))
    late = threading.Timer(0.3, lambda: client.apply(spec_body("told-later")))
    began = time.monotonic()
    late.start()
    found = client.events(after=last, wait=timedelta(seconds=8))
    while not any("told-later" in event.message for event in found):
        last = max((event.id for event in found), default=last)
        found = client.events(after=last, wait=timedelta(seconds=8))
    assert time.monotonic() - began < 4
    late.join()
    for name in ("told", "told-later"):
        client.delete(name)


def test_a_list_of_events_that_waits_in_vain_is_empty_when_the_wait_is_over(service: Service, client: Client) -> None:
    client.apply(spec_body("quiet"))
    began = time.monotonic()
    assert client.events("quiet", after=10**9, wait=timedelta(seconds=0.4)) == ()
    assert 0.35 < time.monotonic() - began < 3
    client.delete("quiet")


def test_clouds_are_registered_once_and_their_settings_are_shown_by_name_alone(client: Client) -> None:
    made = client.register_cloud({"name": "elsewhere", "provider": "fake", "region": "fake-1"})
    assert made.slots == dict.fromkeys(("cluster", "identity", "storage", "networking"), "fake")
    with pytest.raises(NameTaken):
        client.register_cloud({"name": "elsewhere", "provider": "fake"})
    with pytest.raises(SpecError) as caught:
        client.register_cloud({"name": "bad", "provider": "fake", "storage": "nobody", "settings": {"fake": {"x": 1}}})
    assert {fault.path for fault in caught.value.faults} == {"storage", "settings.fake.x"}
    assert {"elsewhere", "fake"} <= {cloud.name for cloud in client.clouds()}


def test_providers_are_shown_with_what_they_can_do(client: Client) -> None:
    (fake,) = client.providers()
    assert (fake.name, fake.broken) == ("fake", "")
    assert set(fake.slots) == {"cluster", "identity", "storage", "networking"}
    assert "cluster.spot" in fake.supported


def test_metrics_count_clusters_driver_calls_and_heartbeats(client: Client) -> None:
    client.apply(spec_body("counted"))
    eventually(lambda: 'action="cluster.create"' in client.metrics(), what="a create is counted")
    text = client.metrics()
    assert "anyscale_core_clusters{phase=" in text
    assert "anyscale_core_heartbeats_total" in text
    client.delete("counted")


def test_an_answer_does_not_wait_for_an_acknowledgement(client: Client) -> None:
    took = []
    for _ in range(21):
        began = time.monotonic()
        client.health()
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.03, "40 ms is Nagle's algorithm meeting delayed acknowledgements"


def test_a_body_that_is_too_large_is_refused_with_413(service: Service, client: Client) -> None:
    assert service.serving is not None
    with pytest.raises(TooLarge):
        client.plan({"name": "x" * 5_000_000})
    token = service.serving.connection.token.reveal()
    status, problem = service.raw("POST", "/v1/plan", token=token, body=b" " * (4 * 1024 * 1024 + 1))
    assert (status, problem["status"]) == (413, 413)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_a_body_that_is_no_json_is_refused_with_400(service: Service, body: bytes) -> None:
    assert service.serving is not None
    status, problem = service.raw("POST", "/v1/plan", token=service.serving.connection.token.reveal(), body=body)
    assert status == 400
    assert "not JSON" in problem["detail"] or "nested too deeply" in problem["detail"]


def test_an_internal_error_tells_an_id_and_nothing_of_itself(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert service.serving is not None
    # No call of ours fails so by itself, so the store is made to.
    monkeypatch.setattr(service.plane.store, "clouds", lambda: 1 / 0)
    status, problem = service.raw("GET", "/v1/clouds", token=service.serving.connection.token.reveal())
    assert status == 500
    assert problem["id"].startswith("err_")
    assert "ZeroDivision" not in str(problem)


def test_a_quota_is_set_listed_with_its_usage_and_deleted(service: Service, client: Client) -> None:
    made = client.set_quota({"name": "team-a", "project": "vision", "nodes": 1, "resources": {"CPU": 64}})
    assert [(one.path, one.used, one.limit) for one in made.limits] == [("nodes", 0, 1), ("resources.CPU", 0, 64)]
    client.apply(spec_body("quoted", project="vision"))
    eventually(lambda: client.get("quoted").nodes)
    plan = client.plan(spec_body("next", project="vision"))
    assert plan.nodes == ()
    assert plan.unmet[0].startswith("quota 'team-a': 1 of 1 nodes in use")
    client.apply(spec_body("next", project="vision"))
    eventually(lambda: client.get("next").held_by == ("team-a",))
    (listed,) = client.quotas()
    assert {one.path: one.used for one in listed.limits} == {"nodes": 1, "resources.CPU": 4}
    assert listed.holds == ("next",)
    assert service.serving is not None
    token = service.serving.connection.token.reveal()
    status, body = service.raw("POST", "/v1/quotas", body=b'{"name": "team-a", "nodes": 9}', token=token)
    assert (status, body["quota"]["nodes"]) == (200, 9)
    eventually(lambda: not client.get("next").held_by)
    assert client.delete_quota("team-a").nodes == 9
    assert client.quotas() == ()
    with pytest.raises(UnknownName, match="no quota 'team-a'"):
        client.delete_quota("team-a")
    for name in ("quoted", "next"):
        client.delete(name)


def test_every_fault_of_a_quota_is_named(client: Client) -> None:
    with pytest.raises(SpecError) as caught:
        client.set_quota(
            {
                "name": "Team A",
                "nodes": -1,
                "resources": {"cpu": 1},
                "warn_at": 80,
                "mode": "hard",
                "limit": 3,
                "user": "",
            }
        )
    assert sorted(fault.path for fault in caught.value.faults) == [
        "limit", "mode", "name", "nodes", "resources.cpu", "user", "warn_at",
    ]  # fmt: skip
    with pytest.raises(SpecError, match="limits nothing; give nodes, resources, price_per_hour or budget"):
        client.set_quota({"name": "team-a"})
