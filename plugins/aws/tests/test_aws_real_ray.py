"""A whole story on real Ray: a cloud is set up in the simulated AWS, a job runs on its machines, and all goes again."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import yaml
from anyscale_conformance.simulators.aws import AwsSimulator, Timing
from anyscale_conformance.simulators.boot import Machines

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from tests.conformance.aws import REGION, TYPE
from tests.conformance.aws_cases import CLOUD, Town
from tests.scenarios.machine import ENV

SPEC = {
    "name": "onaws",
    "cloud": "aws",
    "head_node": {"instance_type": TYPE},
    "worker_nodes": [{"name": "workers", "instance_type": TYPE, "min_nodes": 2, "max_nodes": 2}],
}
JOB = """
import ray
ray.init()

@ray.remote
def square(number):
    return number * number

print("nodes", len([node for node in ray.nodes() if node["Alive"]]))
print("sum", sum(ray.get([square.remote(number) for number in range(10)])))
"""
SOON = timedelta(seconds=0.5)


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.close()


@pytest.fixture
def simulator(machines: Machines) -> Iterator[AwsSimulator]:
    found = AwsSimulator(machines=machines)
    yield found
    found.close()


@pytest.fixture
def home() -> Iterator[Path]:
    # Short: Ray's sockets lie below the temporary folder.
    folder = Path(tempfile.mkdtemp(prefix="acs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_with_the_least_permissions_a_cloud_is_set_up_a_job_runs_on_its_machines_and_nothing_stays(
    machines: Machines, simulator: AwsSimulator, home: Path
) -> None:
    plane = ControlPlane(Settings(home=home / "plane"))
    plane.close()
    timing = Timing(pending=SOON, shutting_down=SOON, provisioning=SOON, healthy=SOON)
    town = Town(simulator, 1, home, owner=attrs.evolve(CLOUD, plane=plane.id), clock=SystemClock(), timing=timing)
    before = town.inventory()
    settings = {**town.config().settings, "endpoint": "address", "python": sys.executable, "zones": [f"{REGION}a"]}
    cloud = {"name": "aws", "provider": "aws", "region": REGION, "settings": {"aws": settings}}
    (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
    (home / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    (home / "work").mkdir()
    (home / "work" / "job.py").write_text(JOB)
    env = ENV | {
        "AWS_ACCESS_KEY_ID": town.plane.id,
        "AWS_SECRET_ACCESS_KEY": town.plane.secret,
        "AWS_ALLOW_HTTP": "true",
    }

    def cli(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anyscale_core.cli", "--home", str(home / "plane"), *words], cwd=home / "work", env=env,
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        consoles = "\n".join(machines.console(id) for id in town.at.lives)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{consoles}"
        return done.stdout

    try:
        cli("cloud", "setup", "-f", str(home / "cloud.yaml"))
        assert {"network", "bucket", "identity"} <= dict(town.inventory()).keys()
        said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
        assert "nodes 3" in said
        assert "sum 285" in said
        assert town.calls("RunInstances") == 2, "a head, and both workers in one call"
        cli("cloud", "delete", "aws", "--delete-data")
    finally:
        cli("stop")
    assert town.inventory() == before
