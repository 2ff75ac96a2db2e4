"""The other verbs against a served control plane: what they print, what scripts read, how they exit."""

import json
from pathlib import Path

from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import JobPhase
from tests.cli.conftest import Cli
from tests.cli.world import SPEC, Town, eventually


def test_a_cluster_comes_up_is_shown_and_goes_down(cli: Cli, town: Town, spec: str) -> None:
    up = cli("up", "-f", spec)
    assert up.code == 0, up.err
    assert "RUNNING  nodes ready 3/3" in up.err
    assert "endpoint" in up.text
    listed = cli("status")
    assert listed.text.splitlines()[0].split() == ["NAME", "PHASE", "CLOUD", "NODES", "PRICE/H", "AGE"]
    assert listed.text.splitlines()[1].split()[:4] == ["demo", "RUNNING", "fake", "3/3"]
    down = cli("down", "demo")
    assert down.code == 0
    assert down.text == "demo TERMINATED: nothing is left of it\n"
    assert town.cloud.inventory("instance") == ()
    assert cli("status").text == "no cluster is alive\n"


def test_every_answer_is_one_json_document(cli: Cli, town: Town, spec: str) -> None:
    up = cli("up", "-f", spec, "--json")
    assert up.lines[-1]["type"] == "result"
    assert {line["type"] for line in up.lines[:-1]} == {"event"}
    assert [cluster["name"] for cluster in cli("--json", "status").document["clusters"]] == ["demo"]
    one = cli("status", "demo", "--json").document
    assert one["phase"] == "RUNNING"
    assert len(one["nodes"]) == 3
    events = cli("events", "demo", "--json").lines
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert events[0]["kind"] == "cluster.created"
    plan = cli("plan", "-f", spec, "--json").document
    assert plan["nodes"] == []


def test_no_wait_returns_before_the_cluster_is_up(cli: Cli, town: Town, spec: str) -> None:
    assert cli("up", "-f", spec, "--no-wait", "--json").document["cluster"]["phase"] == "STARTING"
    assert cli("down", "demo", "--no-wait", "--json").document["cluster"]["goal"] == "terminate"


def test_up_on_a_live_cluster_changes_it_and_waits_for_the_change(cli: Cli, town: Town, spec: str) -> None:
    assert cli("up", "-f", spec).code == 0
    Path(spec).write_text(SPEC.replace("min_nodes: 2", "min_nodes: 4"))
    assert cli("up", "-f", spec).code == 0
    assert len(town.cloud.inventory("instance")) == 5


def test_events_can_be_followed_to_the_end(cli: Cli, town: Town, spec: str, folder: Path) -> None:
    assert cli("run", "-f", spec, "--working-dir", str(folder), "--", "x").code == 0
    followed = cli("events", "demo", "--follow")
    assert followed.code == 0
    assert "TERMINATED" in followed.text.splitlines()[-1]


def test_logs_prints_the_last_job_lists_what_is_stored_and_prints_one_object(
    cli: Cli, town: Town, spec: str, folder: Path
) -> None:
    assert cli("run", "-f", spec, "--working-dir", str(folder), "--", "x").code == 0
    assert cli("logs", "demo").out == b"hello\nbye\n"
    listed = cli("logs", "demo", "--list", "--json").document
    (stored,) = listed["objects"]
    assert stored["size"] == len("hello\nbye\n")
    assert cli("logs", "demo", "--key", stored["key"]).out == b"hello\nbye\n"
    assert cli("logs", "demo", "--json").document["text"] == "hello\nbye\n"


def test_logs_of_a_node_are_what_it_has_put_away(cli: Cli, town: Town, spec: str) -> None:
    cluster = cli("up", "-f", spec, "--json").lines[-1]["cluster"]
    node = cluster["nodes"][0]["name"]
    nothing = cli("logs", "demo", "--node", node)
    assert nothing.code == 2
    assert "nothing of a node" in nothing.err
    stored = town.bucket / "clusters" / cluster["id"] / "logs" / node / "session_1" / "raylet.out"
    stored.parent.mkdir(parents=True)
    stored.write_text("ray says\n")
    assert cli("logs", "demo", "--node", node).out == b"ray says\n"


def test_logs_of_a_running_job_are_printed_so_far_or_followed_to_its_end(cli: Cli, town: Town, spec: str) -> None:
    town.job("x", seconds=3.0, phase=JobPhase.FAILED, exit_code=3)
    assert cli("up", "-f", spec).code == 0
    with town.client() as client:
        client.submit("demo", JobSpec(entrypoint="x"))
    eventually(lambda: bool(town.gateway.logs), "output of the job")
    assert cli("logs", "demo").out == b"hello\n"
    followed = cli("logs", "demo", "--follow")
    assert followed.out == b"hello\nbye\n"
    assert followed.code == 3


def test_a_cluster_that_nobody_knows_is_a_usage_error_with_the_nearest_name(cli: Cli, town: Town, spec: str) -> None:
    assert cli("up", "-f", spec, "--no-wait").code == 0
    for words in (("status", "demos"), ("down", "demos"), ("logs", "demos"), ("events", "demos")):
        done = cli(*words)
        assert done.code == 2
        assert done.err == "error: no cluster 'demos' (did you mean 'demo'?)\n"
        assert done.out == b""


def test_an_error_is_a_json_document_too(cli: Cli, town: Town) -> None:
    done = cli("status", "nobody", "--json")
    assert done.code == 2
    assert done.document["error"]["type"] == "UnknownName"
    assert done.err == ""


def test_the_faults_of_a_spec_are_in_the_json_of_the_error(cli: Cli, town: Town, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: Bad\ncloud: fake\nhead_node: {}\n")
    error = cli("plan", "-f", str(bad), "--json").document["error"]
    assert error["type"] == "SpecError"
    assert [(fault["line"], fault["path"]) for fault in error["faults"]] == [(1, "name"), (3, "head_node")]


def test_stop_ends_the_control_plane_and_names_what_goes_on(cli: Cli, town: Town, spec: str) -> None:
    assert cli("up", "-f", spec).code == 0
    # The served one lives in this process, so that its end is seen by its file.
    with town.client() as client:
        client.stop()
    town._server.join(15)
    stopped = cli("stop", "--json").document
    assert stopped == {"stopped": False, "clusters": []}
    assert len(town.cloud.inventory("instance")) == 3


def test_providers_lists_plugins_without_a_control_plane(cli: Cli) -> None:
    done = cli("providers", "--json", "--check")
    names = {provider["name"]: provider["broken"] for provider in done.document["providers"]}
    assert names.get("local") == ""
    assert done.code == 0
    assert json.loads(done.out)["providers"][0]["slots"]


def test_a_quota_is_set_shown_with_its_usage_and_deleted(cli: Cli, town: Town, spec: str, tmp_path: Path) -> None:
    assert cli("quota", "list").text == "there is no quota: everybody may use all that the clouds give\n"
    path = tmp_path / "quota.yaml"
    path.write_text("name: team-a\ncloud: fake\nresources: {CPU: 12, memory: 68719476736}\nbudget: 100\n")
    assert cli("quota", "set", "-f", str(path)).code == 0
    assert cli("up", "-f", spec).code == 0
    rows = [line.split() for line in cli("quota", "list").text.splitlines()]
    assert rows[0] == ["QUOTA", "MODE", "FOR", "LIMIT", "USED", "OF"]
    assert rows[1][:4] == ["team-a", "HARD", "cloud=fake", "budget"]
    assert rows[2] == ["resources.CPU", "12", "12"]
    assert rows[3] == ["resources.memory", "48", "GiB", "64", "GiB"]
    (shown,) = cli("quota", "list", "--json").document["quotas"]
    assert [one["path"] for one in shown["limits"]] == ["budget", "resources.CPU", "resources.memory"]
    assert cli("quota", "delete", "team-a").text == "quota team-a is forgotten\n"
    wrong = cli("quota", "delete", "team-a")
    assert (wrong.code, wrong.err) == (2, "error: no quota 'team-a'\n")


def test_a_fault_of_a_quota_names_its_line(cli: Cli, town: Town, tmp_path: Path) -> None:
    path = tmp_path / "quota.yaml"
    path.write_text("name: team-a\nnodes: -1\n")
    refused = cli("quota", "set", "-f", str(path))
    assert refused.code == 2
    assert "line 2: nodes: -1 is negative; 0 lets nothing start" in refused.err
