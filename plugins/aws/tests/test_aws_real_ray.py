"""A cluster on simulated EC2 whose machines really run: from ``anyscale-core run`` to a finished Ray job."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from anyscale_conformance.simulators.aws import AwsSimulator, Timing
from anyscale_conformance.simulators.boot import Machines

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.cloud import CloudSpec
from tests.scenarios.machine import ENV

REGION, ACCOUNT, IMAGE = "us-west-2", "123456789012", "ami-0123456789abcdef0"
SPEC = """
name: onaws
cloud: simulated
head_node: {instance_type: c7i.large}
worker_nodes:
  - {name: workers, instance_type: c7i.large, min_nodes: 2, max_nodes: 2}
"""
JOB = """
import ray
ray.init()

@ray.remote
def square(number):
    return number * number

print("nodes", len([node for node in ray.nodes() if node["Alive"]]))
print("sum", sum(ray.get([square.remote(number) for number in range(10)])))
"""


@pytest.fixture
def simulator() -> Iterator[AwsSimulator]:
    machines = Machines()
    simulator = AwsSimulator(machines=machines)
    try:
        yield simulator
    finally:
        simulator.close()
        machines.close()


@pytest.fixture
def simulator_home() -> Iterator[Path]:
    """A home with a short path: Ray's sockets lie below it."""
    home = Path(tempfile.mkdtemp(prefix="acs-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_job_runs_on_an_aws_cluster_and_nothing_is_left_of_it(
    simulator: AwsSimulator, simulator_home: Path, tmp_path: Path
) -> None:
    timing = Timing(pending=timedelta(seconds=0.5), shutting_down=timedelta(seconds=0.5))
    account = simulator.account(ACCOUNT, region=REGION, timing=timing)
    account.images[IMAGE] = "x86_64"
    key = simulator.issue(account.administrator())
    home = simulator_home
    settings = {
        "endpoint_url": simulator.url, "image": IMAGE, "python": sys.executable, "zones": [f"{REGION}a"],
        "instance_types": ["c7i.large"],
    }  # fmt: skip
    cloud = CloudSpec(name="simulated", provider="aws", region=REGION, settings={"aws": settings})
    plane = ControlPlane(Settings(home=home))
    plane.register_cloud(cloud, actor="test")
    plane.close()
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(home), "run", "-f", "spec.yaml", "--"]
    env = ENV | {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret, "AWS_ALLOW_HTTP": "true"}
    done = subprocess.run(
        [*command, "python", "job.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200
    )
    consoles = "".join(simulator.machines.console(id) for id in account.lives) if simulator.machines else ""
    assert done.returncode == 0, f"{done.stderr}\n{consoles}"
    assert "nodes 3" in done.stdout
    assert "sum 285" in done.stdout
    runs = [call for call in account.requests if call.action == "RunInstances"]
    assert len(runs) == 2, "a head, and both workers in one call"
    assert all(life.ended is not None for life in account.lives.values())
