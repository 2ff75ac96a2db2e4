"""A whole story on real Ray: a cloud is set up in the simulated Azure, a job runs on its machines, and all goes again."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from anyscale_conformance.simulators.boot import Machines

from anyscale_core.clock import SystemClock
from tests.conformance.stories import a_home, command_line

SIZE = "Standard_DS1_v2"


@pytest.fixture
def home() -> Iterator[Path]:
    with a_home("acz") as folder:
        yield folder


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.close()


def made(at: Subscription) -> list[str]:
    return sorted(f"{thing.type} {thing.name}" for thing in at.inventory())


def stored_by_machines(simulator: AzureSimulator, at: Subscription) -> set[str]:
    """Return what machines put into the container as their identity: names of Ray's logs, and ``job`` for that of the job.

    They must have read the packed working directory, and have been let at nothing that was not granted.
    """
    (person,) = (t.body["properties"] for t in at.inventory() if t.type.endswith("userAssignedIdentities"))
    used = [each for each in simulator.front.journal if each.who == person["principalId"]]
    assert {each.status for each in used if each.action} <= {200, 201, 206}
    assert any(each.action == "read" and each.path.startswith("packages/") for each in used)
    put = [each.path for each in used if each.action == "write"]
    return {"job" if "/jobs/" in path else path.rpartition("/")[2] for path in put}


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_cloud_is_set_up_a_job_runs_on_its_machines_and_nothing_stays(machines: Machines, home: Path) -> None:
    with AzureSimulator() as simulator:
        at = simulator.subscription(SystemClock(), machines=machines)
        at.boot = at.propagation = timedelta(seconds=1)
        at.pace = 0.1
        at.group("rg")
        before = made(at)
        settings = {
            "subscription_id": at.id, "tenant_id": at.tenant_id, "resource_group": "rg", "endpoint": simulator.url,
            "authority": simulator.url, "ca_file": str(simulator.ca_path), "python": sys.executable,
            "storage_account": "realray", "blob_endpoint": f"{simulator.front.url}/{{account}}",
        }  # fmt: skip
        cloud = {
            "name": "azure", "provider": "azure", "region": "eastus", "network": {"name": "main"},
            "settings": {"azure": settings},
        }  # fmt: skip
        (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
        who = {"AZURE_CLIENT_ID": at.owner.client_id, "AZURE_CLIENT_SECRET": at.owner.secret}
        env = {**who, "AZURE_TENANT_ID": at.tenant_id, "SSL_CERT_FILE": str(simulator.ca_path)}

        def consoles() -> str:
            return "\n".join(machines.console(id) for id in tuple(machines._machines))

        cli = command_line(home, "azure", SIZE, consoles=consoles, env=env)
        try:
            cli("cloud", "setup", "-f", str(home / "cloud.yaml"))
            assert len(made(at)) > len(before)
            said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
            assert "computed at 127." in said
            assert stored_by_machines(simulator, at) >= {"job", "raylet.out", "gcs_server.out"}
            cli("cloud", "delete", "azure", "--delete-data")
        finally:
            cli("stop")
        # The storage account is the customer's from then on, with nothing in it.
        left = [thing for thing in at.inventory() if not thing.type.startswith("Microsoft.Storage/storageAccounts")]
        assert sorted(f"{thing.type} {thing.name}" for thing in left) == before
        assert not [thing for thing in at.inventory() if thing.type.endswith("containers")]
