"""What Ray is told when it starts: arguments, environment, resources. Pure, and light to import."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyscale_core.models.node import NodeConfig

MIN_OBJECT_STORE = 80_000_000
"""Bytes; Ray refuses less than 75 MiB."""
OBJECT_STORE_SHARE = 0.3
"""Of the node's memory: Ray's own default share."""

RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without it Ray 2.60 opens its ports to everybody when no token file happens to exist.
    "RAY_AUTH_MODE": "token",
    # Makes `ray status`, request_resources() and the demand in GetClusterResourceState work without Ray's own monitor.
    "RAY_enable_autoscaler_v2": "1",
    # A killed raylet refuses the connection, so it is noticed after about 1.5 s whatever the timeout; the timeout counts only
    # for a frozen one. 3 s instead of the 1 s that was measured as the fastest: on a machine whose CPUs are all taken, a
    # live raylet may well need a second, and declaring it dead kills the work on it. Frozen machines miss heartbeats too.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    # Raylets and workers end themselves when the GCS has been away for longer (60 s by default): long enough for another
    # instance to take over its storage. Whoever is not to wait for it is stopped by its agent.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    # Under `uv run` Ray would make the node's home the working directory of every job, and hang in packaging it.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_START_HOOK": "anyscale_core.node.rayprivate.lean",
}

TLS_VARIABLES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
"""The variables that name TLS_FILES, in that order."""

TLS_FOLDER, TLS_FILES = "tls", ("cert.pem", "key.pem", "ca.pem")
"""Below a node's home: what Ray shows, its key, and whom it trusts."""

GCS_STORAGE, GCS_PATH = "RAY_gcs_storage", "RAY_gcs_storage_path"

PROTECTED = frozenset({
    *RAY_ENV, *TLS_VARIABLES, "RAY_USE_TLS", GCS_STORAGE, GCS_PATH, "RAY_AUTH_TOKEN", "RAY_CLOUD_INSTANCE_ID",
    "RAY_NODE_TYPE_NAME",
})  # fmt: skip
"""A cluster's ``env_vars`` cannot change these."""

PLAIN = frozenset({"CPU", "GPU", "memory", "object_store_memory"})
"""Resources that have an argument of their own."""


def launcher_environment(inherited: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """Return what a launcher is started with: no stray Ray settings of this machine, this interpreter first in PATH.

    ``home``: the node's; the TLS files below it need not be there yet.
    """
    # Python without byte code files takes 18 s instead of 5 s to start Ray for the first time.
    drop = {"PYTHONDONTWRITEBYTECODE"}
    env = {key: value for key, value in inherited.items() if not key.startswith("RAY_") and key not in drop}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return env | RAY_ENV | tls_environment(home) | {"PATH": path}


def tls_environment(home: Path) -> dict[str, str]:
    """Return what makes Ray's gRPC mutual TLS with the files of a node's home."""
    files = (str(home.absolute() / TLS_FOLDER / name) for name in TLS_FILES)
    return {"RAY_USE_TLS": "1", **dict(zip(TLS_VARIABLES, files, strict=True))}


def node_environment(config: "NodeConfig") -> dict[str, str]:
    """Return what one node's Ray gets beyond that, its token among it: for a pipe, never for argv."""
    users = {key: value for key, value in config.env_vars.items() if key not in PROTECTED}
    return users | {
        "RAY_AUTH_TOKEN": config.ray_token.reveal(),
        "RAY_CLOUD_INSTANCE_ID": config.instance_name,
        "RAY_NODE_TYPE_NAME": config.group,
        "ANYSCALE_CORE_INSTANCE": config.instance_name,
    }


def start_arguments(
    config: "NodeConfig", *, head_address: str | None, address: str, temp_dir: Path, shm_free: int, port: int = 0
) -> tuple[str, ...]:
    """Return the arguments of ``ray start``.

    ``head_address``: ``host:port`` to join; None starts the head, its GCS at ``port`` (0: a free one). ``shm_free``: bytes
    that the shared memory still has.
    """
    place = ("--head", f"--port={port}", "--include-dashboard=false", "--no-monitor", "--disable-usage-stats")
    return (
        *(place if head_address is None else (f"--address={head_address}",)),
        f"--node-ip-address={address}",
        f"--temp-dir={temp_dir}",
        # Ray's defaults are fixed ranges: two raylets on one address would collide.
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--include-log-monitor=false",
        *resource_arguments(config.resources, shm_free=shm_free),
        *label_arguments(config.labels),
    )


def resource_arguments(resources: Mapping[str, float], *, shm_free: int) -> tuple[str, ...]:
    """Return the arguments for resources. Ray takes whole CPUs and GPUs here: what is left of a fraction is not offered."""
    out = [f"--num-cpus={int(resources.get('CPU', 0))}", f"--num-gpus={int(resources.get('GPU', 0))}"]
    if "memory" in resources:
        out.append(f"--memory={int(resources['memory'])}")
    out.append(f"--object-store-memory={object_store_memory(resources, shm_free=shm_free)}")
    custom = {name: amount for name, amount in resources.items() if name not in PLAIN}
    if custom:
        out.append(f"--resources={json.dumps(custom)}")
    return tuple(out)


def object_store_memory(resources: Mapping[str, float], *, shm_free: int) -> int:
    """Return bytes for the object store: as asked for, else a share of the memory that the shared memory has room for."""
    asked = resources.get("object_store_memory")
    if asked:
        return max(MIN_OBJECT_STORE, int(asked))
    share = int(resources.get("memory", 0) * OBJECT_STORE_SHARE)
    # A store larger than the shared memory makes Ray fall back to the disk.
    return max(MIN_OBJECT_STORE, min(share, int(shm_free * 0.9)))


def label_arguments(labels: Mapping[str, str]) -> tuple[str, ...]:
    if not labels:
        return ()
    return (f"--labels={','.join(f'{key}={value}' for key, value in sorted(labels.items()))}",)
