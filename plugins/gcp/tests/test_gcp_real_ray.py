"""A whole story on real Ray: a cloud is set up in the simulated Google Cloud, a job runs there, and all goes again."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import yaml
from anyscale_conformance.simulators.gcp import GcpSimulator, Running, Timings
from anyscale_gcp.kit.world import REGION, World
from joserfc.jwk import RSAKey

from tests.conformance.stories import a_home, command_line

TYPE = "n2-standard-2"


@pytest.fixture
def home() -> Iterator[Path]:
    with a_home("acg") as folder:
        yield folder


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

    def consoles() -> str:
        return "\n".join(
            world.project.console(seen.name) for seen in world.project.inventory() if seen.kind == "instances"
        )

    cli = command_line(home, "gcp", TYPE, consoles=consoles)
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
