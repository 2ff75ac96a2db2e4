"""A control plane served for real, and the Ray under it as Ray itself shows it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

import attrs
import psutil

from anyscale_core.api.client import Client
from anyscale_core.api.protocol import ClusterView, NodeView
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.phases import NodePhase
from anyscale_core.models.secret import Secret
from benchmarks.gcs import LIMIT, Gcs
from benchmarks.startup import warm
from tests.scenarios.machine import Machine

NAME = "bench"
WAIT = timedelta(milliseconds=250)
"""How long one look waits for an event. Asking without a pause would take half a CPU from the Ray that is starting."""


@attrs.frozen(kw_only=True)
class Plane:
    """A control plane of its own, and one client that keeps its connection."""

    machine: Machine
    client: Client

    def view_when(self, condition: Callable[[ClusterView], bool]) -> ClusterView:
        """Return the cluster as soon as it is so, as ``anyscale-core up`` waits. Raises RuntimeError after two minutes."""
        after, deadline = 0, time.monotonic() + LIMIT
        while not condition(view := self.client.get(NAME)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{NAME} is {view.phase.value}, and not as awaited, after {LIMIT:.0f} s")
            for event in self.client.events(NAME, after=after, wait=WAIT):
                after = event.id
        return view

    def ray(self, view: ClusterView) -> "RealRay":
        """Return how to see the Ray of a cluster that runs."""
        (head,) = [node for node in view.nodes if node.kind is NodeKind.HEAD and node.phase is NodePhase.READY]
        (raylet,) = self.machine.processes(head, having="raylet/raylet")
        address = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--gcs-address="))
        env = raylet.environ()
        return RealRay(address=address, token=Secret(env["RAY_AUTH_TOKEN"]), env=env)

    def dashboard(self, view: ClusterView) -> str:
        """Return ``host:port`` of the dashboard of a cluster, without our gateway in front."""
        (head,) = [node for node in view.nodes if node.kind is NodeKind.HEAD and node.phase is NodePhase.READY]
        for process in self.machine.processes(head, having="dashboard/dashboard.py"):
            options = dict(word.partition("=")[::2] for word in process.cmdline() if word.startswith("--"))
            return f"{options['--host']}:{options['--port']}"
        raise RuntimeError(f"the head of {view.name} has no dashboard")

    def others(self) -> list[psutil.Process]:
        """Return the processes of this home besides the control plane's own."""
        server = self.machine.server
        return [process for process in self.machine.processes() if server is None or process.pid != server.pid]


@attrs.frozen(kw_only=True)
class RealRay:
    """Where the GCS of one of our clusters is."""

    address: str
    token: Secret[str]
    env: Mapping[str, str] = attrs.field(repr=False)
    """Of its raylet: where its certificate is."""

    def gcs(self) -> Gcs:
        """Return a connection to it."""
        return Gcs(self.address, self.token.reveal(), env=self.env)


@contextmanager
def served() -> Iterator[Plane]:
    """Serve a control plane on a home of its own; leave nothing of it behind."""
    warm()
    machine = Machine()
    try:
        machine.serve()
        plane = Plane(machine=machine, client=machine.client)
        try:
            yield plane
        except Exception as error:
            error.add_note(f"what happened last:\n{machine.story()}")
            raise
        finally:
            with suppress(Exception):  # it is all killed next, whatever it still answers
                plane.client.delete(NAME, "the benchmark is over")
                plane.view_when(lambda view: view.ended_at is not None)
            plane.client.close()
    finally:
        machine.close()


def ready(view: ClusterView, group: str = "workers") -> list[NodeView]:
    """Return the nodes of a group that are READY."""
    return [node for node in view.nodes if node.group == group and node.phase is NodePhase.READY]
