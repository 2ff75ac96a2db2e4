"""Processes to measure: a control plane on a seeded store and a fake cloud, and a bare Litestar, served alike.

``python -m benchmarks.fakeserver HOME [CLUSTERS NODES]``; without numbers it is the bare one. Each prints one line once it
listens: its port.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import msgspec
from litestar import Litestar, post

from anyscale_core.api import server
from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models import wire
from anyscale_core.models.node import Heartbeat, Orders
from anyscale_core.models.records import Timing
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeProvider, ManualClock
from benchmarks.seeding import a_cloud, seed

NODES = "nodes.json"
DAY = timedelta(days=1)


class Beat(msgspec.Struct):
    """A heartbeat, as Litestar itself would read one."""

    seq: int
    wait_s: float
    config_version: str
    epoch: str
    ray: str
    ray_id: str = ""
    detail: str = ""
    head: dict[str, Any] | None = None


NOTHING = msgspec.json.encode(wire.unstructure(Orders()))


@post("/v1/nodes/heartbeat", status_code=200, media_type="application/json")
async def bare(data: Beat) -> bytes:  # noqa: ARG001
    """Read the body, answer what an unchanged node is answered."""
    return NOTHING


def serve_bare(home: Path) -> None:
    """Serve the bare route with the settings, the certificate and the loop of the real server."""
    plane = ControlPlane(Settings(home=home, url="https://127.0.0.1"), registry=Registry.of())
    app = Litestar(route_handlers=[bare], openapi_config=None, logging_config=None)
    with server._listener(home, "127.0.0.1", 0) as listener:
        config = server._config(app, server._tls(plane, "127.0.0.1", SystemClock()))
        server._settle_in()
        print(listener.getsockname()[1], flush=True)
        asyncio.run(server._Server(config).serve(sockets=[listener]))


def serve_seeded(home: Path, *, clusters: int, nodes: int) -> None:
    """Serve a control plane that has this many clusters of this many nodes, none of which may be missed for a day."""
    clock = ManualClock(SystemClock().now())
    cloud = a_cloud(clock)
    timing = Timing(suspect_after=DAY, lost_after=2 * DAY, heartbeat_interval=timedelta(seconds=10))
    settings = Settings(home=home, timing=timing)
    seed(attrs.evolve(settings, url="https://127.0.0.1"), cloud, clock, clusters=clusters, nodes=nodes)

    def ready(serving: server.Serving) -> None:
        (home / NODES).write_text(json.dumps(list(_nodes(serving.plane))))
        print(serving.connection.url.rpartition(":")[2], flush=True)

    server.serve(settings, registry=Registry.of(FakeProvider(cloud).provider()), ready=ready)


def _nodes(plane: ControlPlane) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each node's credential and its last heartbeat."""
    now = plane.clock.now()
    for id in plane.store.names():
        for node_id, status in plane.store.statuses(id).items():
            credential, _ = plane.heartbeats.credentials.issue(node_id, id, now=now)
            beat = Heartbeat(
                seq=status.seq, wait=timedelta(), config_version=status.config_version, epoch=status.epoch,
                ray=status.ray, ray_id=status.ray_id, detail=status.detail, head=status.head,
            )  # fmt: skip
            yield credential.reveal(), wire.unstructure(beat)


def main(argv: list[str]) -> None:
    """Serve until SIGTERM."""
    home = Path(argv[0])
    if len(argv) == 1:
        serve_bare(home)
    else:
        serve_seeded(home, clusters=int(argv[1]), nodes=int(argv[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
