"""Pods from the order to all reported running, beside one apply for each and one watch; on the simulated API server.

Ours, the floor and SkyPilot's provisioner are each a process of its own, at one server; SkyPilot has an environment of its own,
made at its first use below the user's cache. Where it cannot be driven, the row says why.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster, NodeSpec, Servers
from anyscale_conformance.simulators.kubernetes import Settings as Simulated
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.cluster import KubernetesCluster
from anyscale_kubernetes.config import read_settings
from anyscale_kubernetes.kinds import POD
from anyscale_kubernetes.offerings import read_types
from anyscale_kubernetes.pods import Order, render
from anyscale_kubernetes.testing import OWNER, TYPES, specified

from anyscale_core.clock import SystemClock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import InstanceState
from benchmarks.peers import environment
from benchmarks.rows import Row, row

SIZES = (100, 1_000)
BATCH = 100
"""So many instances are one create, as the engine groups them."""
LIMIT_S = 600
CLOCK = SystemClock()
SKYPILOT = "skypilot[kubernetes]==0.14.1"
COLUMNS = (("", "s", "s"), ("-requests", "requests", "requests"), ("-memory", "mb", "MB"))


@attrs.frozen(kw_only=True)
class Cost:
    """What a run took: seconds from the order, peak memory, requests on the wire."""

    s: float
    mb: float
    requests: int


def kubernetes(rounds: int) -> Iterator[Row]:
    """Measure both sizes, ours and the floor in turns, SkyPilot once, each in a cluster of its own."""
    skypilot = environment("skypilot-kubernetes", (SKYPILOT,))
    with tempfile.TemporaryDirectory() as folder, Servers() as servers:
        for size in SIZES:
            costs: dict[str, list[Cost]] = {"ours": [], "floor": []}
            for _ in range(rounds):
                for who, found in costs.items():
                    found.append(
                        _run(servers, Path(folder), size, [sys.executable, "-m", "benchmarks.kubernetes", who])
                    )
            peer = _peer(servers, Path(folder), size, skypilot)
            for suffix, what, unit in COLUMNS:
                ours, floor = ([float(getattr(cost, what)) for cost in costs[who]] for who in ("ours", "floor"))
                told = peer if isinstance(peer, str) else f"{getattr(peer, what):.4g}"
                yield row(f"kubernetes-{size}{suffix}", unit, ours, floor, f"skypilot {told}")


def ours(job: Mapping[str, Any]) -> float:
    """Return the seconds from the order to all reported running."""
    driver = KubernetesCluster(_config(job))
    specs = [specified(f"node-{number}") for number in range(job["size"])]
    began = time.monotonic()
    for place in range(0, len(specs), BATCH):
        driver.create(specs[place : place + BATCH], token=Token(f"t{place}"), deadline=_soon())
    while True:
        shown = driver.list(OWNER, deadline=_soon())
        if sum(instance.state is InstanceState.RUNNING for instance in shown) == len(specs):
            break
        time.sleep(0.05)
    took = time.monotonic() - began
    driver.close()
    return took


def floor(job: Mapping[str, Any]) -> float:
    """Return the same of one apply for each Pod and one watch, over as many connections."""
    settings = read_settings(_config(job))
    api, type = Api(settings, CLOCK), read_types(TYPES, subject="types")["1CPU-1GB"]
    order = Order(token=Token("t"), fingerprint="f", secret="none")
    pods = [render(specified(f"node-{number}"), type, order, settings) for number in range(job["size"])]
    began = time.monotonic()
    with ThreadPoolExecutor(settings.connections + 1) as pool:
        watching = pool.submit(_watch, api, len(pods))
        list(pool.map(lambda pod: api.apply(POD, pod, manager="floor", deadline=_soon()), pods))
        watching.result()
    took = time.monotonic() - began
    api.close()
    return took


def _watch(api: Api, size: int) -> None:
    running: set[str] = set()
    for event in api.watch(POD, selector="", version="0", seconds=LIMIT_S):
        if (event["object"].get("status") or {}).get("phase") == "Running":
            running.add(event["object"]["metadata"]["uid"])
        if len(running) == size:
            return


def _peer(servers: Servers, folder: Path, size: int, interpreter: str) -> Cost | str:
    """Return what SkyPilot took, or why it took nothing."""
    if not interpreter.startswith("/"):
        return f"not driven: {interpreter}"
    # Without -P a module beside the script would stand in for the SDK of its name.
    script = str(Path(__file__).with_name("kubernetes_peers.py"))
    try:
        return _run(servers, folder, size, [interpreter, "-P", script])
    except subprocess.TimeoutExpired:
        return f"not done within {LIMIT_S} s"
    except subprocess.CalledProcessError as error:
        return f"failed: {(str(error.stderr).strip().splitlines() or ['?'])[-1][:120]}"


def _run(servers: Servers, folder: Path, size: int, words: Sequence[str]) -> Cost:
    """Run one of them in a cluster of its own."""
    cluster = _land(servers, size)
    try:
        kubeconfig = folder / "kubeconfig"
        known = cluster.kubeconfig(cluster.admin_token, namespace="default")
        kubeconfig.write_text(yaml.safe_dump(known))
        container = {
            "name": "ray", "image": "ray:1", "command": ["sleep", "3600"],
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
        }  # fmt: skip
        job = {
            "kubeconfig": str(kubeconfig), "namespace": "default", "context": known["current-context"], "size": size,
            "pod": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [container]}},
        }  # fmt: skip
        done = subprocess.run(
            [*words, json.dumps(job)], env={**os.environ, "HOME": str(folder)}, capture_output=True, text=True, check=True,
            timeout=LIMIT_S,
        )  # fmt: skip
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return Cost(s=found["s"], mb=found["mb"], requests=len(cluster.requests))
    finally:
        cluster.close()


def _land(servers: Servers, size: int) -> Cluster:
    nodes = tuple(
        NodeSpec(name=f"node-{number}", capacity={"cpu": "600", "memory": "2Ti", "pods": "1000"}) for number in range(3)
    )
    cluster = servers.start(clock=CLOCK, settings=Simulated(nodes=nodes))
    keys = {f"node-{number}": "" for number in range(size)}
    # A Pod of the floor waits for what it mounts.
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "none", "namespace": "default"}, "data": keys}
    cluster.plant(secret)
    return cluster


def _config(job: Mapping[str, Any]) -> DriverConfig:
    settings: dict[str, Any] = {
        "kubeconfig": job["kubeconfig"], "image": "ray:1", "instance_types": TYPES, "sight": "watch",
    }  # fmt: skip
    return DriverConfig(owner=OWNER, home=Path(job["kubeconfig"]).parent, settings=settings, clock=CLOCK)


def _soon() -> datetime:
    return CLOCK.now() + timedelta(seconds=LIMIT_S)


if __name__ == "__main__":
    took = {"ours": ours, "floor": floor}[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps({"s": took, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
