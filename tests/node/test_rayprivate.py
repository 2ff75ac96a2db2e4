"""The private places of Ray that we stand on: a new Ray that has moved one of them is refused here first."""

import inspect
import subprocess
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.services import start_api_server

from anyscale_core.node.rayprivate import OPTIONAL_COMMANDS, lean, start_dashboard


def test_the_private_places_of_ray_are_where_rayprivate_expects_them() -> None:
    assert set(inspect.signature(Node.start_api_server).parameters) == {"self", "include_dashboard", "raise_on_failure"}
    assert set(inspect.signature(Node.start_ray_processes).parameters) == {"self"}
    for name in ("get_gcs_client", "node_id", "node_ip_address", "gcs_address", "get_session_dir_path"):
        assert hasattr(Node, name)
    assert "ray_client_server_port" in vars(RayParams())
    parameters = list(inspect.signature(start_api_server).parameters)
    assert parameters[:9] == [
        "include_dashboard", "raise_on_failure", "host", "gcs_address", "cluster_id_hex", "node_ip_address", "temp_dir",
        "logdir", "session_dir",
    ]  # fmt: skip
    assert {"port", "fate_share", "max_bytes", "backup_count", "stdout_filepath", "stderr_filepath"} <= set(parameters)
    assert callable(start_dashboard)


def test_the_start_hook_of_a_worker_takes_the_client_server_away_alone() -> None:
    params = RayParams(ray_client_server_port=10001)
    kept = Node.start_ray_processes, Node.start_api_server
    try:
        lean(params, head=False)
        assert params.ray_client_server_port is None
        assert Node.start_api_server is kept[1]
    finally:
        Node.start_ray_processes, Node.start_api_server = kept


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh process; return which of the optional commands it has loaded."""
    code += "; import sys; print([name for name in sys.modules if sys.modules[name] is not None])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in OPTIONAL_COMMANDS if repr(name) in done.stdout}


def test_the_commands_that_are_left_out_are_loaded_otherwise_and_ray_start_is_there_without_them() -> None:
    assert loaded_by("import ray.scripts.scripts") >= set(OPTIONAL_COMMANDS) - {"ray.serve.scripts"}
    warm = "from anyscale_core.node.rayprivate import warm_up; warm_up(); from ray.scripts.scripts import start"
    assert loaded_by(warm) == set()
