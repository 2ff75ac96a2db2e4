"""A whole story on real Ray: a cloud is set up in the simulated Google Cloud, a job runs there, and all goes again."""

import os
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
from anyscale_conformance.simulators.gcp import GcpSimulator, Running, Timings
from anyscale_gcp.kit.world import REGION, World
from joserfc.jwk import RSAKey

TYPE = "n2-standard-2"
SPEC = {
    "name": "remote",
    "cloud": "gcp",
    "head_node": {"instance_type": TYPE, "resources": {"CPU": 1}},
    "worker_nodes": [{"name": "workers", "instance_type": TYPE, "min_nodes": 1, "resources": {"CPU": 1}}],
}
JOB = """
import ray
ray.init()
@ray.remote(num_cpus=1)
def where():
    return ray.util.get_node_ip_address()
print("computed at", ray.get(where.remote()))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Short: Ray's sockets lie below the temporary folder.
    folder = Path(tempfile.mkdtemp(prefix="acg-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    with GcpSimulator(machines=Running.SCRIPTS) as simulator:
        timings = attrs.evolve(Timings.none(), insert=timedelta(seconds=1), delete=timedelta(seconds=1))
        project = simulator.add_project("gcp-real-ray", timings=timings)
        found = World(simulator=simulator, project=project, folder=home, key=RSAKey.generate_key(2048))
        found.let_plane_in()
        yield found


def made(world: World) -> list[str]:
    ours = ("instances", "disks", "networks", "subnetworks", "routers", "firewalls", "buckets", "serviceAccounts")
    return sorted(f"{seen.kind} {seen.name}" for seen in world.project.inventory() if seen.kind in ours)


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_cloud_is_set_up_a_job_runs_on_its_machines_and_nothing_stays(world: World, home: Path) -> None:
    before = made(world)
    cloud = {"name": "gcp", "provider": "gcp", "region": REGION, "settings": {"gcp": world.settings()}}
    (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
    (home / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    (home / "work").mkdir()
    (home / "work" / "job.py").write_text(JOB)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def cli(*words: str) -> str:
        command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(home / "plane"), *words]
        done = subprocess.run(
            command, cwd=home / "work", env=env, capture_output=True, text=True, timeout=150, check=False
        )
        consoles = "\n".join(
            world.project.console(seen.name) for seen in world.project.inventory() if seen.kind == "instances"
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{consoles}"
        return done.stdout

    try:
        cli("cloud", "setup", "-f", str(home / "cloud.yaml"))
        assert len(made(world)) > len(before)
        said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
        assert "computed at 127." in said
        cli("cloud", "delete", "gcp", "--delete-data")
        assert made(world) == before
        assert world.simulator.faults == []
    finally:
        cli("stop")
