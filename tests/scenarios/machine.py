"""A control plane served for real on this machine, and real Ray under it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from anyscale_core.api.client import Client, Connection, read_connection
from anyscale_core.api.protocol import ClusterView, JobView, NodeView
from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase

ENV = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def a_spec(name: str = "real", *, low: int = 1, high: int = 2, **fields: Any) -> dict[str, Any]:
    """Return a spec of one-CPU nodes: a head and a group ``workers``."""
    group = {"name": "workers", "instance_type": "local.1cpu", "min_nodes": low, "max_nodes": high}
    head = {"instance_type": "local.1cpu"}
    return {"name": name, "cloud": "local", "head_node": head, "worker_nodes": [group], **fields}


class Machine:
    """One home: serve, kill and serve again; ``close`` leaves nothing behind."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="acs-"))
        self.temp = Path(tempfile.mkdtemp(prefix="act-"))
        """The only place for temporary files that anything here is given."""
        self.env = ENV | {"TMPDIR": str(self.temp)}
        self.server: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Start a control plane and wait until it answers."""
        log = (self.home / "serve.log").open("ab")
        self.server = subprocess.Popen(
            [sys.executable, "-m", "anyscale_core.cli", "--home", str(self.home), "serve"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True,
        )  # fmt: skip
        log.close()
        pid = self.server.pid
        self.wait(lambda: getattr(read_connection(self.home), "pid", None) == pid, "the control plane to answer")

    @property
    def connection(self) -> Connection:
        connection = read_connection(self.home)
        assert connection is not None
        return connection

    @property
    def client(self) -> Client:
        connection = self.connection
        return Client(connection.url, connection.token, connection.ca_pem)

    def kill(self) -> None:
        """SIGKILL the control plane."""
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def get(self, name: str = "real") -> ClusterView:
        return self.client.get(name)

    def up(self, spec: Mapping[str, Any]) -> ClusterView:
        self.client.apply(spec)
        self.wait(lambda: self.get(spec["name"]).phase is ClusterPhase.RUNNING, f"{spec['name']} to run")
        return self.get(spec["name"])

    def nodes(self, *phases: NodePhase, group: str | None = None, name: str = "real") -> list[NodeView]:
        """Return the nodes in these phases (default: READY)."""
        wanted = phases or (NodePhase.READY,)
        return [node for node in self.get(name).nodes if node.phase in wanted and group in (None, node.group)]

    def job(self, entrypoint: str, name: str = "real", *, max_retries: int = 1) -> str:
        """Submit a job; return its id."""
        return self.client.submit(name, JobSpec(entrypoint=entrypoint, max_retries=max_retries)).id

    def job_view(self, id: str, name: str = "real") -> JobView:
        return next(job for job in self.get(name).jobs if job.id == id)

    def succeeded(self, id: str, name: str = "real") -> None:
        """Wait until a job has succeeded; fail at once when it ends otherwise."""

        def done() -> bool:
            job = self.job_view(id, name)
            assert job.phase not in (JobPhase.FAILED, JobPhase.LOST, JobPhase.STOPPED), job.message
            return job.phase is JobPhase.SUCCEEDED

        self.wait(done, f"job {id} to succeed")

    def kinds(self, node: str = "", name: str = "real") -> list[str]:
        return [event.kind for event in self.client.events(name, limit=5000) if node in ("", event.node)]

    def down(self, name: str = "real") -> ClusterView:
        self.client.delete(name)
        ended = (ClusterPhase.TERMINATED, ClusterPhase.FAILED)
        self.wait(lambda: self.get(name).phase in ended, f"{name} to end")
        return self.get(name)

    def processes(self, node: NodeView | None = None, *, having: str = "") -> list[psutil.Process]:
        """Return the processes of this home (of one node), whose command line has ``having`` in it."""
        out = []
        for process in psutil.process_iter():
            try:
                environ, command = process.environ(), " ".join(process.cmdline())
            except psutil.Error:
                continue
            mine = environ.get("ANYSCALE_LOCAL_STATE", "").startswith(str(self.home)) or str(self.home) in command
            named = node is None or environ.get("ANYSCALE_CORE_INSTANCE") == node.name
            if mine and named and having in command and process.status() != psutil.STATUS_ZOMBIE:
                out.append(process)
        return out

    def leftovers(self) -> list[str]:
        """Return what a home without clusters and control plane must not have: processes, instances, temporary files."""
        folders = [self.temp, *(self.home / "local" / name for name in ("instances", "volumes", "gone"))]
        left = [str(path) for folder in folders if folder.exists() for path in folder.iterdir()]
        return left + [" ".join(process.cmdline()) for process in self.processes()]

    def kill_raylet(self, node: NodeView) -> None:
        (raylet,) = self.processes(node, having="raylet/raylet")
        raylet.kill()

    def kill_node(self, node: NodeView) -> None:
        """SIGKILL everything on a node at once, its agent too: the power is gone.

        By session: processes that have set their title no longer show their environment.
        """
        sessions = {os.getsid(process.pid) for process in self.processes(node)}
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) in sessions:
                    process.kill()

    def wait(self, condition: Callable[[], bool], what: str, timeout: timedelta = timedelta(seconds=60)) -> float:
        """Wait for something real to happen; return the seconds that it took. Fails with the last events."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout.total_seconds():
                raise AssertionError(f"waited {timeout} for {what}\n{self.story()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def story(self) -> str:
        """Return what happened last, for a failure's reader."""
        try:
            lines = [
                f"{event.at:%H:%M:%S.%f} {event.kind} {event.message}" for event in self.client.events(limit=5000)[-40:]
            ]
        except Exception as error:
            lines = [f"no events: {error}"]
        log = self.home / "serve.log"
        return "\n".join([*lines, log.read_text()[-3000:] if log.exists() else ""])

    def close(self) -> None:
        """Stop all that this home has started, and remove it."""
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
            try:
                self.server.wait(20)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
        for process in self.processes():
            process.kill()
        for folder in (self.home, self.temp):
            shutil.rmtree(folder, ignore_errors=True)
