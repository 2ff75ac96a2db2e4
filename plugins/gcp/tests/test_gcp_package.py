"""The package as a whole."""

import gc
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

from anyscale_conformance.simulators.gcp import GcpSimulator, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.cluster import GcpCluster
from anyscale_gcp.config import read_settings
from anyscale_gcp.kit.world import REGION, Ambient, endpoints_of

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.testing.builders import owner

SDKS = ("google", "googleapiclient", "httplib2", "obstore", "urllib3")

CODE = f"""
import sys
from pathlib import Path
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.testing.builders import owner
from anyscale_gcp.plugin import anyscale_provider
config = DriverConfig(owner=owner(), home=Path(), region="us-central1", settings={{"project": "research-123456"}})
provider = anyscale_provider()
drivers = [make(config) for make in (provider.cluster, provider.identity, provider.storage, provider.networking)]
drivers[1].permissions(["cluster.create"])
loaded = [name for name in sys.modules if name.partition('.')[0] in {SDKS!r}]
sys.exit(f'loaded: {{loaded}}' if loaded else 0)
"""


def test_making_every_driver_loads_no_sdk() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_further_client_holds_less_than_a_tenth_of_a_megabyte(tmp_path: Path) -> None:
    with GcpSimulator() as simulator:
        project = simulator.add_project("gcp-clients", timings=Timings.none())
        settings = {"project": project.id, "endpoints": endpoints_of(simulator)}
        config = DriverConfig(owner=owner(), home=tmp_path, region=REGION, settings=settings)

        def another() -> GcpCluster:
            client = Client(read_settings(config), config.clock, credentials=Ambient(project))
            driver = GcpCluster(config, client)
            driver.list(owner(), deadline=datetime.now(UTC) + timedelta(seconds=60))
            return driver

        drivers = [another()]
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            drivers += [another() for _ in range(20)]
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (after - before) / 20 < 100_000, "the simulator's own memory of the requests is in this, too"
