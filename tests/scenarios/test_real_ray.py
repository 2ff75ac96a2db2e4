"""Long stories on real Ray: come up, work, lose a node, heal, go. Each ends with nothing left on this machine."""

import os
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import pytest

from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase
from tests.scenarios import strangers
from tests.scenarios.machine import Machine, a_spec

pytestmark = [pytest.mark.real_ray, pytest.mark.timeout(180)]

AWAY = 60
"""Seconds: five times what a node may be silent before it is lost."""


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
    finally:
        machine.close()


def script(folder: Path, text: str) -> str:
    """Write a Ray script; return the command that runs it."""
    path = folder / "job.py"
    path.write_text("import os, sys, time, ray\n" + textwrap.dedent(text))
    return f"python {path}"


def test_run_prints_what_the_workers_computed_and_leaves_nothing_but_its_logs(machine: Machine) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(machine.home), "run"]
    command += ["-f", "examples/quickstart.yaml", "--", "python", "examples/quickstart.py"]
    done = subprocess.run(command, cwd=root, env=machine.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pi is about 3.141131" in done.stdout
    assert machine.leftovers() == []
    kept = [str(path) for path in (machine.home / "local" / "buckets").rglob("*") if path.is_file()]
    assert [path for path in kept if "/jobs/job_" in path and path.endswith("-1.log")]
    for part in ("quickstart-head", "quickstart-workers"):
        assert [path for path in kept if part in path and path.endswith("raylet.out")]


def test_a_job_that_fails_gives_run_its_exit_status_and_the_cluster_goes_all_the_same(
    machine: Machine, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: small, cloud: local, head_node: {instance_type: local.1cpu}}")
    command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(machine.home), "run", "-f", str(spec), "--"]
    command += ["sh", "-c", "echo to be read; exit 7"]
    done = subprocess.run(command, cwd=tmp_path, env=machine.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert "to be read" in done.stdout
    assert machine.leftovers() == []


def test_ctrl_c_during_run_takes_the_cluster_down(machine: Machine, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: small, cloud: local, head_node: {instance_type: local.1cpu}}")
    command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(machine.home), "run", "-f", str(spec), "--"]
    command += ["sh", "-c", "echo begun; sleep 600"]
    run = subprocess.Popen(command, cwd=tmp_path, env=machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert run.stdout is not None
        while b"begun" not in run.stdout.readline():
            assert run.poll() is None
        os.kill(run.pid, signal.SIGINT)
        run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130
    assert machine.leftovers() == []


def test_a_killed_raylet_is_replaced_and_a_task_that_waits_for_it_then_runs(machine: Machine, tmp_path: Path) -> None:
    machine.serve()
    machine.up(a_spec(low=1, high=1))
    (worker,) = machine.nodes(group="workers")
    entrypoint = script(
        tmp_path,
        """
        ray.init(log_to_driver=False)
        mark, = sys.argv[1:]

        @ray.remote(num_cpus=1, max_retries=-1, label_selector={"ray.io/node-group": "workers"})
        def work():
            open(mark, "a").write("began\\n")
            time.sleep(6)
            return "done"

        print(ray.get(work.remote()))
        """,
    )
    mark = tmp_path / "mark"
    job = machine.job(f"{entrypoint} {mark}")
    machine.wait(mark.exists, "the task to begin")
    machine.kill_raylet(worker)
    began = time.monotonic()

    def replaced() -> bool:
        return [node.id for node in machine.nodes(group="workers")] not in ([], [worker.id])

    machine.wait(replaced, "a replacement")
    print(f"replaced after {time.monotonic() - began:.1f} s")
    kinds = machine.kinds(worker.name)
    lost = kinds.index("node.lost")
    assert kinds[lost - 1] == "node.suspect"
    machine.succeeded(job)
    assert mark.read_text().count("began") == 2, "once on the node that died, once on its replacement"
    machine.down()


@pytest.mark.parametrize("recovery", ["RESTART", "NONE"])
def test_a_killed_head_is_recovered_or_the_cluster_fails_clearly(
    machine: Machine, tmp_path: Path, recovery: str
) -> None:
    machine.serve()
    machine.up(a_spec(low=1, high=1, head_recovery=recovery))
    (head,), (worker,) = machine.nodes(group="head"), machine.nodes(group="workers")
    if recovery == "RESTART":
        assert counted(machine, tmp_path) == 1
    (raylet,) = machine.processes(worker, having="raylet/raylet")
    machine.kill_node(head)
    if recovery == "NONE":
        machine.wait(lambda: machine.get().phase is ClusterPhase.FAILED, "the cluster to fail")
        assert "head_recovery is NONE" in machine.get().reason
        assert not list((machine.home / "local" / "instances").iterdir())
        return
    machine.wait(lambda: machine.get().phase is ClusterPhase.RECOVERING, "RECOVERING")
    machine.wait(lambda: machine.get().phase is ClusterPhase.RUNNING, "RUNNING again")
    assert [node.id for node in machine.nodes(group="head")] != [head.id]
    assert [node.id for node in machine.nodes(group="workers")] == [worker.id]
    assert counted(machine, tmp_path) == 2, "the detached actor goes on where it was"
    assert raylet.is_running(), "for the worker's Ray went on too, and the new head with what the old one knew"
    (head,) = machine.nodes(group="head")
    machine.kill_raylet(head)
    machine.wait(lambda: machine.get().phase is ClusterPhase.RECOVERING, "RECOVERING")
    machine.wait(lambda: machine.get().phase is ClusterPhase.RUNNING, "RUNNING again")
    assert {node.id for node in machine.nodes()} == {head.id, worker.id}, (
        "its agent started Ray again, and no node is lost"
    )
    assert counted(machine, tmp_path) == 3
    machine.down()
    assert not list((machine.home / "local" / "volumes").iterdir())


def counted(machine: Machine, folder: Path) -> int:
    """Let a detached actor on a worker count one further, by a job; return what it says."""
    entrypoint = script(
        folder,
        """
        ray.init(log_to_driver=False, namespace="kept")

        @ray.remote(num_cpus=0, lifetime="detached", label_selector={"ray.io/node-group": "workers"})
        class Counter:
            value = 0
            def up(self):
                self.value += 1
                return self.value

        @ray.remote(num_cpus=1, label_selector={"ray.io/node-group": "workers"})
        def ask(counter):
            return ray.get(counter.up.remote())

        counter = Counter.options(name="counter", get_if_exists=True).remote()
        open(sys.argv[1], "w").write(str(ray.get(ask.remote(counter))))
        """,
    )
    answer = folder / "answer"
    machine.succeeded(machine.job(f"{entrypoint} {answer}"))
    return int(answer.read_text())


def test_pending_tasks_grow_a_group_to_its_maximum_and_idle_nodes_go_without_losing_one(
    machine: Machine, tmp_path: Path
) -> None:
    machine.serve()
    spec = a_spec(low=1, high=3, idle_worker_seconds=3)
    machine.up(spec)
    entrypoint = script(
        tmp_path,
        """
        ray.init(log_to_driver=False)

        @ray.remote(num_cpus=1, max_retries=0)
        def work(i):
            time.sleep(4)
            return i

        got = ray.get([work.remote(i) for i in range(12)])
        assert got == list(range(12)), got
        time.sleep(600)
        """,
    )
    job = machine.job(entrypoint)
    seen = 0

    def grown() -> bool:
        nonlocal seen
        alive = (NodePhase.RECORDED, NodePhase.LAUNCHING, NodePhase.STARTING, NodePhase.READY, NodePhase.SUSPECT)
        seen = max(seen, len(machine.nodes(*alive, group="workers")))
        return len(machine.nodes(*alive, group="workers")) == 3

    machine.wait(grown, "three workers, ready or on their way")
    created = [event.fields for event in machine.client.events("real") if event.kind == "nodes.create"][-1]
    assert any("CPU=1" in held for held in created["holds"]), "the decision says what the nodes are for"
    assert created["price_per_hour_after"] >= created["price_per_hour_before"]
    machine.wait(
        lambda: any("max_nodes of" in why for why in machine.client.plan(spec).unmet), "the plan to say what stops it"
    )
    machine.wait(lambda: not grown() and len(machine.nodes(group="workers")) == 1, "the idle ones to go")
    time.sleep(4)
    assert len(machine.nodes(group="workers")) == 1, "the minimum stays"
    assert seen == 3, "and never more than the maximum"
    assert machine.job_view(job).phase is JobPhase.RUNNING, "every task came back, and none had a retry"
    machine.down()


def test_the_control_plane_killed_and_started_again_finds_the_same_nodes_and_the_job_goes_on(
    machine: Machine, tmp_path: Path
) -> None:
    machine.serve()
    before = machine.up(a_spec(low=1, high=1))
    entrypoint = script(
        tmp_path,
        """
        ray.init(log_to_driver=False)
        mark, go = sys.argv[1:]
        open(mark, "a").write("began\\n")
        @ray.remote(num_cpus=1, max_retries=-1, label_selector={"ray.io/node-group": "workers"})
        def square(i):
            time.sleep(0.1)
            return i * i

        while not os.path.exists(go):
            time.sleep(0.1)
        assert sum(ray.get([square.remote(i) for i in range(20)])) == 2470
        """,
    )
    mark, go = tmp_path / "mark", tmp_path / "go"
    job = machine.job(f"{entrypoint} {mark} {go}")
    machine.wait(mark.exists, "the job to begin")
    pids = {process.pid for process in machine.processes(having="raylet/raylet")}
    machine.kill()
    time.sleep(3)
    machine.serve()
    machine.wait(lambda: machine.get().phase is ClusterPhase.RUNNING, "RUNNING")
    time.sleep(6)
    after = machine.get()
    assert [(node.id, node.name, node.phase) for node in after.nodes] == [
        (node.id, node.name, NodePhase.READY) for node in before.nodes
    ]
    assert {process.pid for process in machine.processes(having="raylet/raylet")} == pids
    # Away again, and this time a worker is lost meanwhile.
    machine.kill()
    (worker,) = (node for node in after.nodes if node.group == "workers")
    machine.kill_raylet(worker)
    time.sleep(AWAY)
    assert len(machine.processes(having="raylet/raylet")) == 1, "nobody is there to replace it"
    machine.serve()
    machine.wait(lambda: machine.get().phase is ClusterPhase.RECOVERING, "the loss to be noticed")
    go.touch()
    machine.succeeded(job)
    machine.wait(lambda: machine.get().phase is ClusterPhase.RUNNING, "RUNNING")
    assert mark.read_text() == "began\n", "the job was begun once"
    assert machine.job_view(job).attempt == 1
    assert [node.name for node in machine.nodes(group="head")] == [node.name for node in before.nodes[:1]]
    assert len(machine.nodes(group="workers")) == 1
    story = machine.kinds(worker.name)
    assert [kind for kind in story if kind in ("node.suspect", "node.lost")] == ["node.suspect", "node.lost"]
    assert machine.kinds().count("nodes.create") == 3, "a head, a worker, and one in its place"
    machine.down()


def _nobody_gets_in(machine: Machine) -> None:
    """Ray of the first cluster is for who has its certificate and its token; with the second's nobody joins, reads or submits."""
    (raylet, gcs), (foreign, _) = (
        [machine.processes(head, having=f"/{name} ")[0] for name in ("raylet", "gcs_server")]
        for head in (machine.nodes(name=name)[0] for name in ("one", "two"))
    )
    mine = raylet.environ()
    address = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address="))
    ended = {
        how: strangers.attempts(address, papers, mine["RAY_AUTH_TOKEN"] if has_token else "")
        for how, (papers, has_token) in strangers.channels(mine, foreign.environ()).items()
    }
    print(ended)
    refused = dict.fromkeys(("read", "join", "submit"), grpc.StatusCode.UNAVAILABLE)
    assert ended.pop("with both") == {"read": grpc.StatusCode.OK}
    assert ended.pop("without the token") == dict.fromkeys(refused, grpc.StatusCode.UNAUTHENTICATED)
    assert set(ended) == {"plain", "without a certificate", "with another cluster's"}
    assert all(answer == refused for answer in ended.values())
    assert strangers.speaks_plain(raylet) == strangers.speaks_plain(gcs) == []


def test_two_clusters_side_by_side_are_strangers_to_each_other(machine: Machine) -> None:
    machine.serve()
    machine.up(a_spec("one", low=0))
    machine.up(a_spec("two", low=0))
    for name in ("one", "two"):
        machine.wait(lambda name=name: bool(machine.get(name).endpoint), f"a way in to {name}")  # type: ignore[misc]
        machine.wait(lambda name=name: machine.get(name).nodes[0].address != "", f"the head of {name}")  # type: ignore[misc]
    one, two = machine.get("one"), machine.get("two")
    assert {node.address for node in one.nodes}.isdisjoint({node.address for node in two.nodes})
    access = machine.client.access("one")

    def ask(url: str, name: str) -> int:
        context = ssl.create_default_context(cadata=access.ca_pem)
        with httpx.Client(verify=context) as client:
            headers = {"Authorization": f"Bearer {access.token.reveal()}", "Host": name}
            return client.get(f"{url}/api/jobs/", headers=headers, extensions={"sni_hostname": name}).status_code

    assert ask(one.endpoint, access.server_name) == 200
    assert ask(two.endpoint, machine.client.access("two").server_name) == 401
    _nobody_gets_in(machine)
    machine.down("one")
    time.sleep(2)
    assert machine.get("two").phase is ClusterPhase.RUNNING
    assert [node.id for node in machine.nodes(name="two")] == [node.id for node in two.nodes]
    machine.down("two")
    machine.wait(lambda: len(machine.processes()) == 1, "only the control plane to be left", timedelta(seconds=10))
