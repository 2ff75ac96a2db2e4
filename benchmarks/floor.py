"""The floor: what plain ``ray start`` needs for one head and two workers, lean, on this machine.

``python -m benchmarks.floor`` prints one row. Head first; both workers together as soon as the head is ALIVE; token auth
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import psutil

HOOK = "def lean(ray_params, head):\n    ray_params.ray_client_server_port = None\n"
LIMIT = 120.0
"""Seconds after which a start or a stop counts as failed."""


@attrs.frozen(kw_only=True)
class Floor:
    """Seconds: the head ALIVE, all ALIVE (both from the first spawn), and everything gone after SIGTERM to the raylets."""

    head: float
    ready: float
    teardown: float


def floor(*, workers: int = 2) -> Floor:
    """Measure once. Raises RuntimeError when Ray does not come up or does not go away."""
    home = Path(tempfile.mkdtemp(prefix="fl", dir="/tmp"))
    token = secrets.token_hex(16)
    children: list[subprocess.Popen[bytes]] = []
    try:
        port = _free_port()
        env = _environment(home, token)
        see = _Gcs(f"127.0.0.2:{port}", token)
        begin = time.perf_counter()
        children.append(_start(home / "h", env, "--head", f"--port={port}", "--num-cpus=1", *HEAD, ip="127.0.0.2"))
        _until(lambda: see.alive() >= 1, "the head is not ALIVE")
        head = time.perf_counter() - begin
        for number in range(workers):
            join = ("--num-cpus=1", f"--address=127.0.0.2:{port}")
            children.append(_start(home / f"w{number}", env, *join, ip=f"127.0.0.{3 + number}"))
        _until(lambda: see.alive() >= 1 + workers, "the workers are not ALIVE")
        ready = time.perf_counter() - begin
        begin = time.perf_counter()
        _stop({child.pid for child in children})
        return Floor(head=head, ready=ready, teardown=time.perf_counter() - begin)
    finally:
        with _sessions({child.pid for child in children}) as left:
            for process in left:
                process.kill()
        for child in children:
            child.wait()
        shutil.rmtree(home, ignore_errors=True)


HEAD = ("--include-dashboard=false", "--no-monitor", "--disable-usage-stats")
COMMON = (
    "--include-log-monitor=false",
    "--object-store-memory=80000000",
    "--min-worker-port=0",
    "--max-worker-port=0",
    "--dashboard-agent-listen-port=0",
)


class _Gcs:
    """Counts the nodes that are ALIVE. Ray is imported before the clock starts."""

    def __init__(self, address: str, token: str) -> None:
        import grpc
        from ray.core.generated import autoscaler_pb2, autoscaler_pb2_grpc

        self._errors = grpc.RpcError
        # Without it a first refused connection is tried again only after a second.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 50)]
        stub = autoscaler_pb2_grpc.AutoscalerStateServiceStub(grpc.insecure_channel(address, options=options))
        self._request = autoscaler_pb2.GetClusterResourceStateRequest()
        self._dead = autoscaler_pb2.NodeStatus.Value("DEAD")
        self._call: Any = stub.GetClusterResourceState
        self._metadata = (("authorization", f"Bearer {token}"),)

    def alive(self) -> int:
        try:
            answer = self._call(self._request, timeout=1, metadata=self._metadata)
        except self._errors:
            return 0
        return sum(node.status != self._dead for node in answer.cluster_resource_state.node_states)


def _environment(home: Path, token: str) -> dict[str, str]:
    (home / "floorhook.py").write_text(HOOK)
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


def _start(temp: Path, env: Mapping[str, str], *arguments: str, ip: str) -> "subprocess.Popen[bytes]":
    command = (str(Path(sys.executable).parent / "ray"), "start", *arguments, *COMMON)
    return subprocess.Popen(
        (*command, f"--node-ip-address={ip}", f"--temp-dir={temp}"),
        env=dict(env),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _stop(sessions: set[int]) -> None:
    """Raylets first, so that they leave in order; then whatever is left."""
    with _sessions(sessions) as processes:
        for process in processes:
            if process.name() == "raylet":
                process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        with _sessions(sessions) as processes:
            if not any(process.name() == "raylet" for process in processes):
                break
        time.sleep(0.02)
    with _sessions(sessions) as processes:
        for process in processes:
            process.kill()
    _until(lambda: not _left(sessions), "processes are left")


def _left(sessions: set[int]) -> list[psutil.Process]:
    with _sessions(sessions) as processes:
        return processes


@contextmanager
def _sessions(sessions: set[int]) -> Iterator[list[psutil.Process]]:
    """Yield the processes of these sessions; one that ends meanwhile is no error."""
    out = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) in sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                out.append(psutil.Process(pid))
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    with suppress(psutil.NoSuchProcess):
        yield out


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return int(probe.getsockname()[1])


def _until(holds: Any, otherwise: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} after {LIMIT:.0f} s")
        time.sleep(0.02)


if __name__ == "__main__":
    row = floor()
    print(f"floor: head {row.head:.2f} s, ready {row.ready:.2f} s, teardown {row.teardown:.2f} s")
