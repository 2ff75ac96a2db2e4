"""Pull mode on real Ray: an operator's process brings a cluster up, dies while a job runs, and another one takes it down."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyscale_core.models.order import OperatorState
from tests.scenarios.machine import Machine

pytestmark = [pytest.mark.real_ray, pytest.mark.timeout(240)]

JOB = (
    "import ray, time; ray.init(); time.sleep(8); "
    "print('sum', sum(ray.get([ray.remote(lambda n: n).remote(n) for n in (40, 2)])))"
)
SPEC = """
name: real
cloud: far
head_node: {instance_type: local.1cpu}
worker_nodes: [{name: workers, instance_type: local.1cpu, min_nodes: 1, max_nodes: 1}]
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    machine.env = machine.env | {"ANYSCALE_CORE_TIMING_OPERATOR_SILENCE": "3"}
    try:
        yield machine
    finally:
        machine.close()


def kinds(machine: Machine) -> list[str]:
    """Return what has happened; nothing before there is a cluster."""
    return [event.kind for event in machine.client.events(limit=1000)]


class Operators:
    """Operators of the cloud ``far``, in folders below the machine's home."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._home = machine, machine.home
        machine.client.register_cloud({"name": "far", "provider": "local", "mode": "operator"})
        token = machine.client.operator_token("far")
        (self._home / "token").write_text(token.token.reveal())
        (self._home / "ca.pem").write_text(token.ca_pem)
        self._url = token.url

    def start(self) -> "subprocess.Popen[bytes]":
        words = ["--url", self._url, "--ca", str(self._home / "ca.pem"), "--cloud", "far"]
        words += ["--token-file", str(self._home / "token")]
        command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(self._home), "operator", "run", *words]
        with (self._home / "operator.log").open("ab") as log:
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._machine.env, start_new_session=True
            )
        self._machine.wait(lambda: self.state() is OperatorState.CONNECTED, "the operator to come")
        return started

    def state(self) -> OperatorState | None:
        (view,) = [view for view in self._machine.client.clouds() if view.name == "far"]
        return view.operator.state if view.operator is not None else None


def test_a_job_runs_to_its_end_although_its_operator_dies_and_the_next_one_takes_the_cluster_down(
    machine: Machine, tmp_path: Path
) -> None:
    machine.serve()
    operators = Operators(machine)
    first = operators.start()
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(machine.home), "run", "-f", str(spec)]
    run = subprocess.Popen(
        [*command, "--", "python", "-c", JOB], cwd=tmp_path, env=machine.env, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        machine.wait(lambda: "job.running" in kinds(machine), "the job to run")
        first.kill()
        first.wait()
        machine.wait(lambda: operators.state() is OperatorState.DISCONNECTED, "the operator to be missed")
        assert len(machine.nodes()) == 2, "nodes live on"
        second = operators.start()
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert "sum 42" in out
    assert "node.lost" not in kinds(machine)
    second.terminate()
    assert second.wait(20) == 0
    machine.client.stop()
    assert machine.server is not None
    machine.server.wait(20)
    assert machine.leftovers() == []
