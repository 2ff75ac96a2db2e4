"""Pods from the order to all reported running, beside one apply for each and one watch; on the simulated API server.

SkyPilot's provisioner is not measured beside it.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

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
from benchmarks.rows import Row, row

SIZES = (100, 1_000)
BATCH = 100
"""So many instances are one create, as the engine groups them."""
LIMIT_S = 600
CLOCK = SystemClock()


def kubernetes(rounds: int) -> Iterator[Row]:
    """Measure both sizes, ours and the floor in turns, each in a cluster of its own; seconds, and requests on the wire."""
    with tempfile.TemporaryDirectory() as folder, Servers() as servers:
        _floor(servers, Path(folder), 1)  # the SDK is loaded, and the server warm
        for size in SIZES:
            pairs = [(_ours(servers, Path(folder), size), _floor(servers, Path(folder), size)) for _ in range(rounds)]
            ours, floor = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            seconds = [each[0] for each in ours], [each[0] for each in floor]
            yield row(f"kubernetes-{size}", "s", *seconds, f"{size} Pods from order to all reported running")
            requests = [each[1] for each in ours], [each[1] for each in floor]
            yield row(f"kubernetes-{size}-requests", "requests", *requests, "floor: one apply a Pod and one watch")


def _ours(servers: Servers, folder: Path, size: int) -> tuple[float, float]:
    cluster, config = _land(servers, folder)
    driver = KubernetesCluster(config)
    specs = [specified(f"node-{number}") for number in range(size)]
    began = time.monotonic()
    for place in range(0, size, BATCH):
        driver.create(specs[place : place + BATCH], token=Token(f"t{place}"), deadline=_soon())
    while True:
        shown = driver.list(OWNER, deadline=_soon())
        if sum(instance.state is InstanceState.RUNNING for instance in shown) == size:
            break
        time.sleep(0.05)
    took = time.monotonic() - began
    driver.close()
    return took, _asked(cluster)


def _floor(servers: Servers, folder: Path, size: int) -> tuple[float, float]:
    cluster, config = _land(servers, folder)
    settings = read_settings(config)
    api, type = Api(settings, CLOCK), read_types(TYPES, subject="types")["1CPU-1GB"]
    order = Order(token=Token("t"), fingerprint="f", secret="none")
    keys = {f"node-{number}": "" for number in range(size)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "none", "namespace": "default"}, "data": keys}
    cluster.plant(secret)  # a Pod waits for what it mounts
    pods = [render(specified(f"node-{number}"), type, order, settings) for number in range(size)]
    began = time.monotonic()
    with ThreadPoolExecutor(settings.connections + 1) as pool:
        watching = pool.submit(_watch, api, size)
        list(pool.map(lambda pod: api.apply(POD, pod, manager="floor", deadline=_soon()), pods))
        watching.result()
    took = time.monotonic() - began
    api.close()
    return took, _asked(cluster)


def _watch(api: Api, size: int) -> None:
    running: set[str] = set()
    for event in api.watch(POD, selector="", version="0", seconds=LIMIT_S):
        if (event["object"].get("status") or {}).get("phase") == "Running":
            running.add(event["object"]["metadata"]["uid"])
        if len(running) == size:
            return


def _land(servers: Servers, folder: Path) -> tuple[Cluster, DriverConfig]:
    nodes: Sequence[NodeSpec] = tuple(
        NodeSpec(name=f"node-{number}", capacity={"cpu": "600", "memory": "2Ti", "pods": "1000"}) for number in range(3)
    )
    cluster = servers.start(clock=CLOCK, settings=Simulated(nodes=tuple(nodes)))
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(cluster.kubeconfig(cluster.admin_token, namespace="default")))
    settings: dict[str, Any] = {
        "kubeconfig": str(kubeconfig), "image": "ray:1", "instance_types": TYPES, "sight": "watch",
    }  # fmt: skip
    return cluster, DriverConfig(owner=OWNER, home=folder, settings=settings, clock=CLOCK)


def _asked(cluster: Cluster) -> float:
    asked = float(len(cluster.requests))
    cluster.close()
    return asked


def _soon() -> datetime:
    return CLOCK.now() + timedelta(seconds=LIMIT_S)
