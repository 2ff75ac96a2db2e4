"""The only places where we reach into Ray's private parts. Ray's minor is pinned for them; tests/node/test_rayprivate.py
fails when one of them moves."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs

LOOK = 0.02
"""Seconds between two looks at something that is about to happen."""

OPTIONAL_COMMANDS = ("ray.util.state.state_cli", "ray.dashboard.modules.job.cli", "ray.serve.scripts")
"""Subcommands that ray.scripts.scripts adds to `ray` if they can be imported, and does without if not; 0.3 s of CPU."""

_raylets: list[Any] = []
"""The Nodes of this process whose raylet has been started."""


@attrs.frozen(kw_only=True)
class Started:
    """One node of Ray on this machine, as far as it is needed to watch it, stop it and give it a dashboard.

    ``gcs_pid`` is 0 on workers. ``address`` is the node's own; ``gcs_address`` ``host:port``; ``session_dir`` holds logs.
    """

    raylet_pid: int
    gcs_pid: int
    ray_id: str
    address: str
    gcs_address: str
    temp_dir: str
    session_dir: str
    cluster_id: str = ""
    """Hex: what Ray calls the cluster. It is kept with the GCS's state, so it tells whether a GCS goes on from the same."""
    gcs_command: tuple[str, ...] = ()
    """How to start the GCS again at the same port; empty on workers."""

    def pids(self) -> tuple[int, ...]:
        """Return the processes without which this node of Ray is no more."""
        return tuple(pid for pid in (self.raylet_pid, self.gcs_pid) if pid)


def warm_up() -> None:
    """Import ``ray start``, without the subcommands that nobody calls here."""
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    sys.modules.update(dict.fromkeys(OPTIONAL_COMMANDS))  # type: ignore[arg-type]
    import ray.scripts.scripts  # noqa: F401


def lean(ray_params: Any, head: bool) -> None:
    """The start hook (RAY_START_HOOK, ``ray start`` calls it just before it acts): leave out what nobody needs yet."""
    # ray.scripts.scripts.start sets 10001 whenever grpcio can be imported and refuses 0: -50 MB, -0.5 s.
    ray_params.ray_client_server_port = None
    import ray._private.node as node

    # `ray start --include-dashboard=false` starts dashboard.py nevertheless and waits for it (+0.7 s): see start_dashboard.
    if head:
        node.Node.start_api_server = lambda self, **_: setattr(self, "_webui_url", "")
    # `ray start` keeps its Node to itself; pids, session folder and node id are only there.
    node.Node.start_ray_processes = _remembering(node.Node.start_ray_processes)


def await_alive(tell: Callable[[Started], None]) -> None:
    """Tell once the node that ``ray start`` is starting in another thread is ALIVE in the GCS; for ever, so a daemon thread.

    ``ray start`` itself looks only once a second whether it is (GlobalState.get_node).
    """
    from ray import NodeID

    pause = threading.Event()
    while not _raylets:
        pause.wait(LOOK)
    node = _raylets[-1]
    client, ids = node.get_gcs_client(), [NodeID.from_hex(node.node_id)]
    while not _is_alive(client, ids):
        pause.wait(LOOK)
    tell(_describe(node))


def _is_alive(client: Any, ids: list[Any]) -> bool:
    try:
        return bool(client.check_alive(ids, timeout=1)[0])
    except Exception:  # the GCS does not answer; whoever runs `ray start` learns that from itself
        return False


def restart_gcs(ray: Started, *, answers: Callable[[], bool]) -> Started:
    """Start the GCS of a head again, whose raylet goes on, and wait until it ``answers``. Raises RuntimeError if it ends instead.

    It reads what the one before has stored; the raylets of the cluster find it at the same address.
    """
    process = subprocess.Popen(ray.gcs_command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pause = threading.Event()
    while not answers():
        if process.poll() is not None:
            raise RuntimeError(f"the gcs_server ended with {process.returncode}; see its log in {ray.session_dir}/logs")
        pause.wait(LOOK)
    return attrs.evolve(ray, gcs_pid=process.pid)


def _describe(node: Any) -> Started:
    processes = node.all_processes
    return Started(
        raylet_pid=processes["raylet"][0].process.pid,
        gcs_pid=processes["gcs_server"][0].process.pid if "gcs_server" in processes else 0,
        ray_id=node.node_id,
        address=node.node_ip_address,
        gcs_address=node.gcs_address,
        temp_dir=node.get_temp_dir_path(),
        session_dir=node.get_session_dir_path(),
        cluster_id=node.cluster_id.hex(),
        gcs_command=tuple(_gcs_command(node)) if "gcs_server" in processes else (),
    )


def _gcs_command(node: Any) -> Iterator[str]:
    """Yield the words that the GCS was started with, the port that it chose in the place of 0."""
    for word in node.all_processes["gcs_server"][0].process.args:
        chosen = word.startswith("--gcs_server_port=")
        yield f"--gcs_server_port={node.gcs_address.rpartition(':')[2]}" if chosen else word


def start_dashboard(ray: Started) -> tuple[str, Any]:
    """Start the dashboard of a head that runs without one, and wait for it; return ``host:port`` and its Popen.

    It listens on the head's own address alone, at a free port. Raises RuntimeError when it does not come up.
    """
    import socket

    import ray._private.services as services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=ray.gcs_address)
    # A dashboard that died has left its address behind, and start_api_server would take it for the new one's.
    client.internal_kv_del(b"dashboard", False, b"dashboard")
    with socket.socket() as probe:
        probe.bind((ray.address, 0))
        port = probe.getsockname()[1]
    logs = f"{ray.session_dir}/logs"
    url, process = services.start_api_server(
        True,
        True,
        ray.address,
        ray.gcs_address,
        client.cluster_id.hex(),
        ray.address,
        ray.temp_dir,
        logs,
        ray.session_dir,
        port=port,
        fate_share=False,
        max_bytes=64 << 20,
        backup_count=2,
        stdout_filepath=f"{logs}/dashboard.out",
        stderr_filepath=f"{logs}/dashboard.err",
    )
    # Node.start_api_server writes this for `ray.init()` and the workers' own pages.
    client.internal_kv_put(b"webui:url", url.encode(), True, b"dashboard")
    return url, process.process


def _remembering(original: Any) -> Any:
    def start_ray_processes(self: Any) -> None:
        original(self)
        _raylets.append(self)

    return start_ray_processes
