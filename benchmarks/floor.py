"""The floor: what plain ``ray start`` needs for one head and its workers, lean, on this machine.

``python -m benchmarks.floor`` prints one row. Head first; all workers together as soon as the head is ALIVE; token auth
on; from the first spawn to all ALIVE, then from SIGTERM to nothing left. Cleans up exactly the sessions that it started.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import attrs
import psutil

from benchmarks.gcs import LOOK, Gcs, until

HOOK = "def lean(ray_params, head):\n    ray_params.ray_client_server_port = None\n"
HEAD_IP = "127.0.0.2"
HEAD = ("--include-dashboard=false", "--no-monitor", "--disable-usage-stats")
COMMON = (
    "--num-cpus=1",
    "--include-log-monitor=false",
    "--object-store-memory=80000000",
    "--min-worker-port=0",
    "--max-worker-port=0",
    "--dashboard-agent-listen-port=0",
)
GOOD_BYE = 0.5
"""Seconds that raylets have to leave in order before everything is killed."""


@attrs.frozen(kw_only=True)
class Floor:
    """Seconds: the head ALIVE, all ALIVE (both from the first spawn), and everything gone after SIGTERM to the raylets."""

    head: float
    ready: float
    teardown: float


def floor(*, workers: int = 2) -> Floor:
    """Measure once. Raises RuntimeError when Ray does not come up or does not go away."""
    with RawRay() as ray:
        begin = time.perf_counter()
        ray.start_head()
        head = time.perf_counter() - begin
        ray.start_workers(workers)
        ready = time.perf_counter() - begin
        begin = time.perf_counter()
        ray.stop()
        return Floor(head=head, ready=ready, teardown=time.perf_counter() - begin)


class RawRay:
    """A Ray cluster of plain ``ray start`` processes. Methods raise RuntimeError when Ray does not do as told."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="fl"))
        (self._home / "floorhook.py").write_text(HOOK)
        token = secrets.token_hex(16)
        self._env = _environment(self._home, token)
        self._address = f"{HEAD_IP}:{_free_port(HEAD_IP)}"
        self._gcs = Gcs(self._address, token)
        self._head: list[subprocess.Popen[bytes]] = []
        self._workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "RawRay":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_head(self) -> float:
        """Start the head; return the seconds until it is ALIVE."""
        begin = time.perf_counter()
        port = self._address.rpartition(":")[2]
        self._head.append(self._start("h", HEAD_IP, "--head", f"--port={port}", *HEAD))
        until(lambda: len(self._gcs.alive()) >= 1, "the head is not ALIVE")
        return time.perf_counter() - begin

    def start_workers(self, count: int = 1) -> float:
        """Start workers, all at once; return the seconds until all are ALIVE."""
        before = self._gcs.alive()
        begin = time.perf_counter()
        for _ in range(count):
            number = len(self._workers)
            self._workers.append(self._start(f"w{number}", f"127.0.0.{3 + number}", f"--address={self._address}"))
        until(lambda: len(self._gcs.alive() - before) >= count, "the workers are not ALIVE")
        return time.perf_counter() - begin

    def run(self, script: Path, *arguments: Path) -> None:
        """Run a Python script as a driver of this Ray."""
        env = self._env | {"RAY_ADDRESS": self._address}
        subprocess.run((sys.executable, script, *arguments), env=env, check=True, capture_output=True)

    def stop_workers(self) -> None:
        """Stop all workers, and wait until their head knows."""
        stop_sessions([child.pid for child in self._workers])
        until(lambda: len(self._gcs.alive()) == 1, "the head does not see its workers go")

    def stop(self) -> None:
        """Stop everything; return when no process is left."""
        stop_sessions([child.pid for child in (*self._head, *self._workers)])

    def close(self) -> None:
        """Kill what is left and remove the files."""
        children = [*self._head, *self._workers]
        _kill(child.pid for child in children)
        for child in children:
            child.wait()
        self._gcs.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _start(self, folder: str, ip: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = (str(Path(sys.executable).parent / "ray"), "start", *arguments, *COMMON)
        return subprocess.Popen(
            (*command, f"--node-ip-address={ip}", f"--temp-dir={self._home / folder}"),
            env=self._env,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def stop_sessions(sessions: Iterable[int]) -> None:
    """Raylets first, so that they leave in order; then whatever is left."""
    mine = frozenset(sessions)
    for process in _raylets(mine):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GOOD_BYE
    while _raylets(mine) and time.monotonic() < deadline:
        time.sleep(LOOK)
    _kill(mine)
    until(lambda: not members(mine), "processes are left")


def members(sessions: Collection[int]) -> list[psutil.Process]:
    """Return the processes of these sessions; one that ends meanwhile is no error."""
    out = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) in sessions:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    out.append(process)
    return out


def _environment(home: Path, token: str) -> dict[str, str]:
    drop = {"PYTHONDONTWRITEBYTECODE"}
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key not in drop}
    return env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(home),
        "RAY_START_HOOK": "floorhook.lean",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_enable_autoscaler_v2": "1",
    }


def _kill(sessions: Iterable[int]) -> None:
    for process in members(frozenset(sessions)):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _raylets(sessions: Collection[int]) -> list[psutil.Process]:
    out = []
    for process in members(sessions):
        with suppress(psutil.NoSuchProcess):
            if process.name() == "raylet":
                out.append(process)
    return out


def _free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    row = floor()
    print(f"floor: head {row.head:.2f} s, ready {row.ready:.2f} s, teardown {row.teardown:.2f} s")
