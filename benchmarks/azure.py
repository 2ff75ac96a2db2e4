"""Machines on the simulated Azure: ours beside as many bare requests as ARM needs at least, and what the first call costs.

The cloud is the simulator in a process of its own. The floor is urllib3 and json with one PUT for each machine, the same bodies
and as many at once. No peer is driven. libcloud signs in at port 443 of a host and nowhere else, and writes booleans as text,
which the published models do not allow; dstack builds its clients of Azure's SDK itself, for Azure's own addresses alone.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import urllib3
from anyscale_azure import machines
from anyscale_azure.client import Azure
from anyscale_azure.cluster import AzureCluster
from anyscale_azure.config import Settings, read_settings
from anyscale_azure.machines import Place
from anyscale_azure.tags import named, stamp

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.instance import Created, InstanceSpec
from anyscale_core.models.owner import Owner
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec
from benchmarks.rows import Row, interleaved, row

COUNTS = (1, 10, 100)
AT_ONCE = 16
VERSION = "2025-04-01"
OWNER = Owner(plane=PlaneId("pln_bench"), cloud=CloudName("azure"), cluster=ClusterId("clu_bench"))
SETS = "Microsoft.Compute/virtualMachineScaleSets"
VMS = "Microsoft.Compute/virtualMachines"


class AccessToken(NamedTuple):
    """What azure-core calls one."""

    token: str
    expires_on: int


@attrs.frozen(kw_only=True)
class Town:
    """A new subscription of the simulator in its process: the settings of a cloud in it, and a token that is good there."""

    settings: dict[str, Any]
    token: str

    @property
    def config(self) -> DriverConfig:
        """The cloud."""
        folder = Path(tempfile.gettempdir())
        return DriverConfig(owner=OWNER, home=folder, region="eastus", settings=self.settings)

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        """Return the token: this is a credential of azure-core."""
        return AccessToken(self.token, int(time.time()) + 3600)


class Bench:
    """The simulator's process, and a new subscription for every measurement."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self.requests: dict[str, list[int]] = {"ours": [], "floor": []}

    def fresh(self) -> Town:
        """Return a new subscription; the one before is no more."""
        self._line.send("fresh")
        settings, token = self._line.recv()
        return Town(settings=settings, token=token)

    def count(self) -> int:
        """Return how many requests the subscription has had."""
        self._line.send("count")
        return int(self._line.recv())

    def ours(self, count: int) -> float:
        """Return the seconds of one batch through the driver."""
        town = self.fresh()
        azure = Azure(read_settings(town.config), town.config.clock, credential=town)
        driver = AzureCluster(town.config, azure)
        soon = town.config.clock.now() + timedelta(minutes=5)
        driver.list(OWNER, deadline=soon)  # connected, and the SDK is loaded
        begun, before = time.perf_counter(), self.count()
        outcomes = driver.create(_specs(count), token=Token("bench"), deadline=soon)
        took = time.perf_counter() - begun
        assert all(isinstance(outcome, Created) for outcome in outcomes), outcomes
        self.requests["ours"].append(self.count() - before)
        driver.close()
        return took

    def floor(self, count: int) -> float:
        """Return the seconds of as many bare PUTs of the same bodies, as many at once."""
        town = self.fresh()
        settings = read_settings(town.config)
        put = _putting(town, settings)
        pairs = [(f"{settings.collection(VMS)}/{named(s.name, OWNER)}", _body(s, settings)) for s in _specs(count)]
        put(f"{settings.collection(SETS)}/warm", {"location": settings.location, "properties": {}})
        begun, before = time.perf_counter(), self.count()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda pair: put(*pair), pairs))
        took = time.perf_counter() - begun
        assert all(answer in (200, 201) for answer in answers), answers
        self.requests["floor"].append(self.count() - before)
        return took

    def scale_set(self, count: int) -> int:
        """Make a flexible scale set and put each machine, which needs a name and a join token of its own, into it."""
        town = self.fresh()
        settings = read_settings(town.config)
        put = _putting(town, settings)
        path = f"{settings.collection(SETS)}/bench"
        properties = {"orchestrationMode": "Flexible", "platformFaultDomainCount": 1}
        assert put(path, {"location": settings.location, "properties": properties}) in (200, 201)
        for spec in _specs(count):
            body = _body(spec, settings)
            body["properties"] = {**body["properties"], "virtualMachineScaleSet": {"id": path}}
            assert put(f"{settings.collection(VMS)}/{named(spec.name, OWNER)}", body) in (200, 201, 409)
        return self.count()


def azure(rounds: int) -> Iterator[Row]:
    """Yield one row for each count of machines, and one for the first call."""
    with _bench() as bench:
        for count in COUNTS:
            ours, floor = interleaved(rounds, partial(bench.ours, count), partial(bench.floor, count))
            counts = ", ".join(f"{who} {statistics.median(n):g}" for who, n in bench.requests.items())
            bench.requests = {"ours": [], "floor": []}
            notes = f"requests: {counts}, scale set {bench.scale_set(count)}"
            yield row(f"azure-create-{count}", "s", ours, floor, notes)
        yield from _first_call(bench, rounds)


def _first_call(bench: Bench, rounds: int) -> Iterator[Row]:
    """Yield what a process's first call, which makes a machine, costs in seconds and memory, beside its requests by urllib3."""
    ours, floor = interleaved(rounds, lambda: _process(bench.fresh(), FIRST), lambda: _process(bench.fresh(), BARE))
    goal = "goal 0.5 s and 120 MB more than before the call"
    memory = statistics.median(one["mb"] for one in ours)
    notes = f"memory {memory:.0f} MB, bare {statistics.median(one['mb'] for one in floor):.0f} MB"
    yield row("azure-first-call", "s", [one["s"] for one in ours], [one["s"] for one in floor], notes, goal)


MEASURED = """
import json, sys, time
from pathlib import Path
from datetime import timedelta
from anyscale_azure.plugin import anyscale_provider
from anyscale_core.drivers.base import DriverConfig
from benchmarks.azure import OWNER, Town, _specs
town = Town(**json.loads(sys.stdin.read()))
import anyscale_azure.cluster
soon = town.config.clock.now() + timedelta(minutes=5)
def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
before, begun = resident(), time.perf_counter()
CALL
took = time.perf_counter() - begun
after = resident()
print(json.dumps({"s": took, "mb": (after - before) / 1024}))
"""
FIRST = """
from anyscale_azure.client import Azure
from anyscale_azure.config import read_settings
from anyscale_core.models.ids import Token
azure = Azure(read_settings(town.config), town.config.clock, credential=town)
driver = anyscale_azure.cluster.AzureCluster(town.config, azure)
assert driver.create(_specs(1), token=Token("bench"), deadline=soon)[0].instance
"""
BARE = """
import urllib3
from anyscale_azure.config import read_settings
from benchmarks.azure import _bare
assert _bare(town, read_settings(town.config)) in (200, 201)
"""


def _bare(town: Town, settings: Settings) -> int:
    """Look for machines and put one; return the status."""
    pool = urllib3.PoolManager(ca_certs=settings.ca_file)
    url, headers = f"{settings.endpoint}{settings.collection(VMS)}", {"authorization": f"Bearer {town.token}"}
    assert pool.request("GET", f"{url}?api-version={VERSION}", headers=headers).status == 200
    (spec,) = _specs(1)
    body, headers = json.dumps(_body(spec, settings)), {**headers, "content-type": "application/json"}
    answer = pool.request("PUT", f"{url}/bare?api-version={VERSION}", body=body, headers=headers)
    return int(answer.status)


def _process(town: Town, call: str) -> dict[str, float]:
    code = MEASURED.replace("CALL", call)
    told = json.dumps(attrs.asdict(town))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], input=told, capture_output=True, text=True, check=True, env=env)
    return dict(json.loads(done.stdout))


def _specs(count: int) -> tuple[InstanceSpec, ...]:
    return tuple(
        an_instance_spec(name=f"node-{number}", owner=OWNER, instance_type="Standard_DS1_v2", bootstrap=a_bootstrap())
        for number in range(count)
    )


def _body(spec: InstanceSpec, settings: Settings) -> dict[str, Any]:
    body = machines.render(spec, stamp(Token("bench"), spec), Place(subnet_id=settings.subnet_id), settings)
    return machines.placed(body, None, MarketType.ON_DEMAND, settings)


def _putting(town: Town, settings: Settings) -> Callable[[str, dict[str, Any]], int]:
    """Return what sends a PUT and returns its status."""
    pool = urllib3.PoolManager(maxsize=AT_ONCE, ca_certs=settings.ca_file)
    headers = {"authorization": f"Bearer {town.token}", "content-type": "application/json"}

    def put(path: str, body: dict[str, Any]) -> int:
        url = f"{settings.endpoint}{path}?api-version={VERSION}"
        return int(pool.request("PUT", url, body=json.dumps(body), headers=headers, retries=False).status)

    return put


@contextmanager
def _bench() -> Iterator[Bench]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield Bench(here)
    finally:
        here.send("end")
        process.join(timeout=10)


def _serve(line: Connection) -> None:
    """Be the simulated cloud: one subscription at a time, with a group, a network and a subnet."""
    from anyscale_conformance.simulators.azure import AzureSimulator

    with AzureSimulator() as simulator:
        at = simulator.subscription()
        while (word := line.recv()) != "end":
            if word == "count":
                line.send(len(at.journal))
                continue
            simulator.forget(at)
            at = simulator.subscription()
            at.group("rg")
            where = "/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/net"
            space: dict[str, object] = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": []}
            at.hands.put(where, {"location": "eastus", "properties": space})
            at.hands.put(f"{where}/subnets/nodes", {"properties": {"addressPrefix": "10.0.0.0/16"}})
            settings = {
                "subscription_id": at.id, "tenant_id": at.tenant_id, "resource_group": "rg",
                "subnet_id": f"{at.path}{where}/subnets/nodes", "endpoint": simulator.url, "authority": simulator.url,
                "ca_file": str(simulator.ca_path), "max_calls_at_once": AT_ONCE,
            }  # fmt: skip
            line.send((settings, at.credential().get_token().token))
