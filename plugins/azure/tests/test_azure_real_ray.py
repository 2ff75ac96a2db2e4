"""A whole story on real Ray: a cloud is set up in the simulated Azure, a job runs on its machines, and all goes again."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from anyscale_conformance.simulators.boot import Machines

from anyscale_core.clock import SystemClock

SIZE = "Standard_DS1_v2"
SPEC = {
    "name": "remote",
    "cloud": "azure",
    "head_node": {"instance_type": SIZE, "resources": {"CPU": 1}},
    "worker_nodes": [{"name": "workers", "instance_type": SIZE, "min_nodes": 1, "resources": {"CPU": 1}}],
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
    folder = Path(tempfile.mkdtemp(prefix="acz-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.close()


def made(at: Subscription) -> list[str]:
    return sorted(f"{thing.type} {thing.name}" for thing in at.inventory())


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_cloud_is_set_up_a_job_runs_on_its_machines_and_nothing_stays(machines: Machines, home: Path) -> None:
    with AzureSimulator() as simulator:
        at = simulator.subscription(SystemClock(), machines=machines)
        at.boot = timedelta(seconds=1)
        at.group("rg")
        before = made(at)
        settings = {
            "subscription_id": at.id, "tenant_id": at.tenant_id, "resource_group": "rg", "endpoint": simulator.url,
            "authority": simulator.url, "ca_file": str(simulator.ca_path), "python": sys.executable,
        }  # fmt: skip
        cloud = {
            "name": "azure", "provider": "azure", "storage": "local", "region": "eastus",
            "network": {"name": "main"}, "settings": {"azure": settings},
        }  # fmt: skip
        (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
        (home / "spec.yaml").write_text(yaml.safe_dump(SPEC))
        (home / "work").mkdir()
        (home / "work" / "job.py").write_text(JOB)
        who = {"AZURE_CLIENT_ID": at.owner.client_id, "AZURE_CLIENT_SECRET": at.owner.secret}
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env |= {**who, "AZURE_TENANT_ID": at.tenant_id}

        def cli(*words: str) -> str:
            command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(home / "plane"), *words]
            done = subprocess.run(
                command, cwd=home / "work", env=env, capture_output=True, text=True, timeout=150, check=False
            )
            consoles = "\n".join(machines.console(id) for id in tuple(machines._machines))
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{consoles}"
            return done.stdout

        try:
            cli("cloud", "setup", "-f", str(home / "cloud.yaml"))
            assert len(made(at)) > len(before)
            said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
            assert "computed at 127." in said
            cli("cloud", "delete", "azure", "--delete-data")
        finally:
            cli("stop")
        assert made(at) == before
