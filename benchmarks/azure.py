"""Machines on the simulated Azure: ours beside as many bare requests as ARM needs at least, and beside a flexible scale set.

dstack and libcloud are not driven: neither takes another endpoint for ARM together with another authority and certificate.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import requests
from anyscale_azure import machines
from anyscale_azure.client import Azure
from anyscale_azure.cluster import AzureCluster
from anyscale_azure.config import Settings, read_settings
from anyscale_azure.machines import Place
from anyscale_azure.tags import named, stamp
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.instance import Created, InstanceSpec
from anyscale_core.models.owner import Owner
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec
from anyscale_core.testing.clock import ManualClock
from benchmarks.rows import Row, interleaved, row

COUNTS = (1, 10, 100)
AT_ONCE = 16
VERSION = "2025-04-01"
OWNER = Owner(plane=PlaneId("pln_bench"), cloud=CloudName("azure"), cluster=ClusterId("clu_bench"))
SETS = "Microsoft.Compute/virtualMachineScaleSets"
VMS = "Microsoft.Compute/virtualMachines"


class Bench:
    """A simulator, and a new subscription for every measurement."""

    def __init__(self, simulator: AzureSimulator) -> None:
        self._simulator = simulator
        self._serial = 0
        self.requests: dict[str, list[int]] = {"ours": [], "floor": [], "scale set": []}

    def ours(self, count: int) -> float:
        """Return the seconds of one batch through the driver."""
        at, settings = self._fresh()
        clock = ManualClock()
        azure = Azure(settings, at.clock, credential=at.credential())
        driver = AzureCluster(self._config(at, clock), azure)
        driver.list(OWNER, deadline=at.clock.now() + timedelta(minutes=5))  # connected, and the SDK is loaded
        begun, before = time.perf_counter(), len(at.journal)
        outcomes = driver.create(
            self._specs(count), token=Token("bench"), deadline=at.clock.now() + timedelta(minutes=5)
        )
        took = time.perf_counter() - begun
        assert all(isinstance(outcome, Created) for outcome in outcomes), outcomes
        self.requests["ours"].append(len(at.journal) - before)
        driver.close()
        self._simulator.forget(at)
        return took

    def floor(self, count: int) -> float:
        """Return the seconds of as many bare PUTs of the same bodies, as many at once."""
        at, settings = self._fresh()
        specs = self._specs(count)
        session = self._session(at, settings)
        session.get(f"{settings.endpoint}{settings.group}", params={"api-version": VERSION})
        bodies = [(f"{settings.collection(VMS)}/{named(s.name, OWNER)}", self._body(s, settings)) for s in specs]
        begun, before = time.perf_counter(), len(at.journal)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda pair: self._put(session, settings, *pair), bodies))
        took = time.perf_counter() - begun
        assert all(answer.status_code in (200, 201) for answer in answers), answers[0].text
        self.requests["floor"].append(len(at.journal) - before)
        self._simulator.forget(at)
        return took

    def scale_set(self, count: int) -> None:
        """Make a flexible scale set and put each machine, which needs a name and a join token of its own, into it."""
        at, settings = self._fresh()
        session = self._session(at, settings)
        path = f"{settings.collection(SETS)}/bench"
        properties = {"orchestrationMode": "Flexible", "platformFaultDomainCount": 1}
        answer = self._put(session, settings, path, {"location": settings.location, "properties": properties})
        assert answer.status_code in (200, 201), answer.text
        for spec in self._specs(count):
            body = self._body(spec, settings)
            body["properties"] = {**body["properties"], "virtualMachineScaleSet": {"id": path}}
            answer = self._put(session, settings, f"{settings.collection(VMS)}/{named(spec.name, OWNER)}", body)
            assert answer.status_code in (200, 201, 409), answer.text
        self.requests["scale set"].append(len(at.journal))
        self._simulator.forget(at)

    def _fresh(self) -> tuple[Subscription, Settings]:
        at = self._simulator.subscription(ManualClock())
        at.group("rg")
        where = "/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/net"
        properties: dict[str, object] = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": []}
        at.hands.put(where, {"location": "eastus", "properties": properties})
        at.hands.put(f"{where}/subnets/nodes", {"properties": {"addressPrefix": "10.0.0.0/16"}})
        return at, read_settings(self._config(at, ManualClock()))

    def _config(self, at: Subscription, clock: ManualClock) -> DriverConfig:
        subnet = f"{at.path}/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/net/subnets/nodes"
        settings = {
            "subscription_id": at.id, "tenant_id": at.tenant_id, "resource_group": "rg", "subnet_id": subnet,
            "endpoint": self._simulator.url, "authority": self._simulator.url,
            "ca_file": str(self._simulator.ca_path), "max_calls_at_once": AT_ONCE,
        }  # fmt: skip
        folder = Path(tempfile.gettempdir())
        return DriverConfig(owner=OWNER, home=folder, clock=clock, region="eastus", settings=settings)

    def _specs(self, count: int) -> tuple[InstanceSpec, ...]:
        return tuple(
            an_instance_spec(
                name=f"node-{number}", owner=OWNER, instance_type="Standard_DS1_v2", bootstrap=a_bootstrap()
            )
            for number in range(count)
        )

    def _body(self, spec: InstanceSpec, settings: Settings) -> dict[str, Any]:
        body = machines.render(spec, stamp(Token("bench"), spec), Place(subnet_id=settings.subnet_id), settings)
        return machines.placed(body, None, MarketType.ON_DEMAND, settings)

    def _session(self, at: Subscription, settings: Settings) -> requests.Session:
        session = requests.Session()
        session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=AT_ONCE))
        session.trust_env = False
        session.verify = settings.ca_file
        session.headers["Authorization"] = f"Bearer {at.credential().get_token(settings.token_scope).token}"
        return session

    def _put(self, session: requests.Session, settings: Settings, path: str, body: dict[str, Any]) -> requests.Response:
        return session.put(f"{settings.endpoint}{path}", params={"api-version": VERSION}, json=body)


def azure(rounds: int) -> Iterator[Row]:
    """Yield one row for each count of machines."""
    for count in COUNTS:
        with AzureSimulator() as simulator:
            bench = Bench(simulator)
            ours, floor = interleaved(rounds, partial(bench.ours, count), partial(bench.floor, count))
            bench.scale_set(count)
            counts = ", ".join(f"{who} {statistics.median(n):g}" for who, n in bench.requests.items())
            yield row(f"azure-create-{count}", "s", ours, floor, f"requests: {counts}")
