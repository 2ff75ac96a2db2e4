"""Google Cloud: what a fleet costs in requests and seconds, answers of one driver to many threads, and what is loaded.

The cloud is the simulator in a process of its own. The floor is urllib3 and json with the requests that cannot be done without:
an insert for each node (each has a startup script of its own), one list, a delete for each. libcloud runs in an environment of
its own and waits for every operation, which it looks at again and again. SkyPilot builds its services itself from Google's own
addresses and cannot be pointed here.
"""

import itertools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import urllib3
from anyscale_gcp.client import Client
from anyscale_gcp.cluster import AT_ONCE, GcpCluster
from anyscale_gcp.config import read_settings

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.ids import NodeId, Token
from anyscale_core.models.instance import Created, InstanceSpec
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner
from benchmarks.peers import environment
from benchmarks.rows import Row, interleaved, row

SIZES = (1, 10, 100)
THREADS = 16
GETS = 2_000
BRIEF = timedelta(milliseconds=100)
"""How long an operation takes."""
PROJECT, REGION, ZONE = "benchmarks", "us-central1", "us-central1-a"
PEER = ("apache-libcloud==3.8.0", "cryptography")
PATIENCE_S = 60
OURS = owner(cluster="clu_bench")
_SERIAL = itertools.count()


@attrs.frozen(kw_only=True)
class Round:
    """One round: seconds, and requests as the server counted them."""

    seconds: float
    requests: int


@attrs.frozen(kw_only=True)
class Town:
    """The simulator in its process: where it is, a token that is good there, and how many requests it has had."""

    endpoints: Mapping[str, str]
    token: str
    count: Callable[[], int]


def fleet(rounds: int) -> Iterator[Row]:
    """Measure create, list and delete of 1, 10 and 100 nodes beside the floor."""
    with _town() as town:
        driver = _driver(town)
        for size in SIZES:
            ours, floor = interleaved(
                rounds, lambda size=size: _timed(town, lambda: _with_driver(driver, size)),  # type: ignore[misc]
                lambda size=size: _timed(town, lambda: _with_floor(town, size)),  # type: ignore[misc]
            )  # fmt: skip
            requests = f"requests ours {_most(ours)}, floor {_most(floor)}"
            told = (requests, _libcloud(town, size), "SkyPilot not driven: it takes no other address than Google's")
            yield row(f"gcp-fleet-{size}", "s", [r.seconds for r in ours], [r.seconds for r in floor], *told)


def gets(rounds: int) -> Iterator[Row]:
    """Measure gets of 16 threads through one driver beside the floor's, and count the answers that are another's."""
    with _town() as town:
        driver = _driver(town)
        ids = [outcome.instance.id for outcome in _create(driver, 40) if isinstance(outcome, Created)]
        wanted = [ids[number % len(ids)] for number in range(GETS)]
        wrong: list[str] = []

        def get(id: Any) -> None:
            if driver.get(id, owner=OURS, deadline=_soon()).id != id:
                wrong.append(id)

        floor = _Floor(town)
        ours, least = interleaved(rounds, lambda: _in_threads(get, wanted), lambda: _in_threads(floor.get, wanted))
        rates = f"{GETS / min(ours):.0f} gets a second, floor {GETS / min(least):.0f}; wrong answers {len(wrong)}"
        yield row("gcp-gets", "s", ours, least, f"{GETS} gets in {THREADS} threads", rates)


def loaded(rounds: int) -> Iterator[Row]:
    """Measure what importing the plugin costs over the contract, and what each further client costs."""
    bare = "import anyscale_core.hookspecs; import anyscale_core.models.wire"
    code = "import sys, anyscale_gcp.plugin as p; p.anyscale_provider(); import anyscale_gcp.cluster"
    ours, floor = interleaved(rounds, lambda: _process(code), lambda: _process(bare))
    tell = "print(sorted({name.partition('.')[0] for name in sys.modules} & {'google', 'googleapiclient'}))"
    heavy = subprocess.run([sys.executable, "-c", f"{code}; {tell}"], capture_output=True, text=True, check=True)
    yield row("gcp-import", "ms", ours, floor, f"of Google's loaded: {heavy.stdout.strip()}")
    with _town() as town:
        _driver(town).list(OURS, deadline=_soon())
        first, again = interleaved(rounds, lambda: _a_client(town), lambda: _a_client(town))
        yield row("gcp-client", "ms", first, again, "a further client with its first call; no floor but itself")


class _Floor:
    """Requests as they go on the wire, and nothing else."""

    def __init__(self, town: Town) -> None:
        self._pool = urllib3.PoolManager(maxsize=64)
        self._base = f"{town.endpoints['compute']}projects/{PROJECT}"
        self._headers = {"authorization": f"Bearer {town.token}", "content-type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body)
        answer = self._pool.request(method, f"{self._base}{path}", body=data, headers=self._headers, retries=False)
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.data!r}")
        return json.loads(answer.data)

    def get(self, id: Any) -> None:
        zone, name, number = id.split("/")
        if self.call("GET", f"/zones/{zone}/instances/{name}")["id"] != number:
            raise RuntimeError("another's answer")


def _with_driver(driver: GcpCluster, size: int) -> None:
    made = _create(driver, size)
    ids = [outcome.instance.id for outcome in made if isinstance(outcome, Created)]
    assert len(ids) == size, made
    assert len(driver.list(OURS, deadline=_soon())) == size
    driver.delete(ids, owner=OURS, deadline=_soon())


def _create(driver: GcpCluster, size: int) -> Any:
    serial = next(_SERIAL)
    specs = [_spec(f"b{serial}-{number}") for number in range(size)]
    return driver.create(specs, token=Token(f"bench-{serial}"), deadline=_soon())


def _spec(name: str) -> InstanceSpec:
    spec = an_instance_spec(name, instance_type="n2-standard-2", zones=(ZONE,), owner=OURS, bootstrap=a_bootstrap())
    return attrs.evolve(spec, node_id=NodeId(f"nod_{name}"))


def _with_floor(town: Town, size: int) -> None:
    floor, serial = _Floor(town), next(_SERIAL)
    names = [f"f{serial}-{number}" for number in range(size)]

    def insert(name: str) -> None:
        disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}
        script = {"key": "startup-script", "value": f"#!/bin/sh\n# {name}\n{'x' * 1500}"}
        body = {
            "name": name, "machineType": f"zones/{ZONE}/machineTypes/n2-standard-2", "disks": [disk],
            "networkInterfaces": [{"subnetwork": f"projects/{PROJECT}/regions/{REGION}/subnetworks/default"}],
            "labels": {"whose": "bench"}, "metadata": {"items": [script]},
        }  # fmt: skip
        floor.call("POST", f"/zones/{ZONE}/instances", body)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(insert, names))
        listed = floor.call("GET", "/aggregated/instances?filter=labels.whose%3Dbench")
        assert sum(len(scoped.get("instances", ())) for scoped in listed["items"].values()) == size
        list(threads.map(lambda name: floor.call("DELETE", f"/zones/{ZONE}/instances/{name}"), names))


def _libcloud(town: Town, size: int) -> str:
    """Return what libcloud took for as many nodes, or why it took nothing."""
    interpreter = environment("libcloud", PEER)
    if not interpreter.startswith("/"):
        return f"libcloud not driven: {interpreter}"
    where = urlsplit(town.endpoints["compute"])
    job = {
        "host": where.hostname, "port": where.port, "project": PROJECT, "token": town.token, "zone": ZONE,
        "type": "n2-standard-2", "image": IMAGE, "mark": f"l{next(_SERIAL)}", "size": size,
    }  # fmt: skip
    before, script = town.count(), str(Path(__file__).with_name("gcp_peers.py"))
    try:
        done = subprocess.run(
            [interpreter, script, json.dumps(job)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return f"libcloud not done within {PATIENCE_S} s"
    except subprocess.CalledProcessError as error:
        return f"libcloud failed: {(str(error.stderr).strip().splitlines() or ['?'])[-1][:120]}"
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return f"libcloud {found['s']:.2f} s and {town.count() - before} requests for {found['nodes']} nodes"


IMAGE = "projects/debian-cloud/global/images/family/debian-12"


def _timed(town: Town, act: Callable[[], None]) -> Round:
    time.sleep(4 * BRIEF.total_seconds())  # until the deletes of the round before have ended
    before, begun = town.count(), time.perf_counter()
    act()
    seconds = time.perf_counter() - begun
    return Round(seconds=seconds, requests=town.count() - before)


def _in_threads(act: Callable[[Any], None], items: list[Any]) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(act, items))
    return time.perf_counter() - begun


def _a_client(town: Town) -> float:
    begun = time.perf_counter()
    _driver(town).list(OURS, deadline=_soon())
    return (time.perf_counter() - begun) * 1000


def _process(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begun) * 1000


def _most(rounds: list[Round]) -> int:
    return max(each.requests for each in rounds)


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=120)


@attrs.frozen(kw_only=True)
class _Token:
    token: str
    valid: bool = True
    expiry: None = None


def _driver(town: Town) -> GcpCluster:
    settings = {"project": PROJECT, "endpoints": dict(town.endpoints), "image": IMAGE}
    config = DriverConfig(owner=OURS, home=Path(tempfile.gettempdir()), region=REGION, settings=settings)
    return GcpCluster(config, Client(read_settings(config), config.clock, credentials=_Token(token=town.token)))


@contextmanager
def _town() -> Iterator[Town]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    lock = threading.Lock()

    def count() -> int:
        with lock:
            here.send("count")
            return int(here.recv())

    try:
        endpoints, token = here.recv()
        yield Town(endpoints=endpoints, token=token, count=count)
    finally:
        here.send("end")
        process.join(timeout=10)


def _serve(line: Connection) -> None:
    """Be the simulated cloud: one project with a network."""
    from anyscale_conformance.simulators.gcp import GcpSimulator, Timings

    with GcpSimulator() as simulator:
        # Operations are never done when they are answered: just not for long.
        timings = attrs.evolve(Timings.none(), insert=BRIEF, delete=BRIEF)
        project = simulator.add_project(PROJECT, timings=timings)
        endpoints = {"compute": simulator.endpoint("compute")}
        town = Town(endpoints=endpoints, token=project.token(), count=lambda: 0)
        floor = _Floor(town)
        floor.call("POST", "/global/networks", {"name": "default", "autoCreateSubnetworks": False})
        subnetwork = {"name": "default", "network": "global/networks/default", "ipCidrRange": "10.128.0.0/20"}
        floor.call("POST", f"/regions/{REGION}/subnetworks", subnetwork)
        line.send((endpoints, town.token))
        while line.recv() == "count":
            line.send(len(simulator.requests))
