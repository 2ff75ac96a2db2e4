"""What Ray is told: arguments and environment, without starting it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import NodeConfig
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess
from anyscale_core.node.rayargs import (
    MIN_OBJECT_STORE,
    launcher_environment,
    node_environment,
    object_store_memory,
    resource_arguments,
    start_arguments,
)

CONFIG = NodeConfig(
    version="1",
    cluster_id=ClusterId("clu_1"),
    cluster_name="c",
    node_id=NodeId("nod_1"),
    instance_name="c-w-1",
    kind=NodeKind.WORKER,
    group="cpu",
    head=None,
    ray_token=Secret("very-secret"),
    resources={"CPU": 4.0, "GPU": 1.0, "memory": 8e9, "accelerator_type:T4": 1.0},
    labels={"zone": "a", "market-type": "spot"},
    env_vars={"HF_HOME": "x", "RAY_AUTH_TOKEN": "stolen", "RAY_AUTH_MODE": "disabled"},
    store=StoreAccess(url="file:///b"),
    heartbeat_interval=timedelta(seconds=5),
)


def arguments(
    config: NodeConfig = CONFIG, head_address: str | None = "10.0.0.1:6379", **fields: Any
) -> tuple[str, ...]:
    values: dict[str, Any] = {"address": "10.0.0.2", "temp_dir": Path("/n/r"), "shm_free": 10**12} | fields
    return start_arguments(config, head_address=head_address, **values)


def test_a_worker_joins_with_every_resource_and_label() -> None:
    given = arguments()
    assert "--address=10.0.0.1:6379" in given
    assert {"--num-cpus=4", "--num-gpus=1", "--memory=8000000000"} <= set(given)
    assert '--resources={"accelerator_type:T4": 1.0}' in given
    assert "--labels=market-type=spot,zone=a" in given
    assert not any(argument.startswith(("--head", "--port", "--include-dashboard")) for argument in given)


def test_a_head_takes_a_free_port_and_starts_lean() -> None:
    assert {"--head", "--port=0", "--include-dashboard=false", "--no-monitor"} <= set(arguments(head_address=None))


def test_a_node_without_cpus_is_told_so_and_not_left_to_count_the_machines() -> None:
    assert resource_arguments({}, shm_free=0)[:2] == ("--num-cpus=0", "--num-gpus=0")


def test_the_token_is_in_the_environment_and_never_in_the_arguments() -> None:
    assert not any("very-secret" in argument for argument in arguments())
    assert node_environment(CONFIG)["RAY_AUTH_TOKEN"] == "very-secret"


def test_a_clusters_env_vars_arrive_but_cannot_switch_the_token_off() -> None:
    env = node_environment(CONFIG)
    assert env["HF_HOME"] == "x"
    assert "RAY_AUTH_MODE" not in env
    assert launcher_environment({"RAY_AUTH_MODE": "disabled"}, home=Path("/n"))["RAY_AUTH_MODE"] == "token"


def test_rays_settings_of_the_machine_do_not_leak_into_a_node() -> None:
    env = launcher_environment(
        {"RAY_ADDRESS": "auto", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin", "HOME": "/h"}, home=Path("/n")
    )
    assert "RAY_ADDRESS" not in env
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert env["HOME"] == "/h"
    assert env["PATH"].endswith(":/bin")


def test_the_object_store_is_a_share_of_memory_within_the_shared_memory_and_rays_minimum() -> None:
    assert object_store_memory({"memory": 10e9}, shm_free=10**12) == 3_000_000_000
    assert object_store_memory({"memory": 10e9}, shm_free=10**9) == 900_000_000
    assert object_store_memory({}, shm_free=10**12) == MIN_OBJECT_STORE
    assert object_store_memory({"object_store_memory": 5e9, "memory": 10e9}, shm_free=0) == 5_000_000_000


def test_a_node_reports_its_instance_and_group_to_ray() -> None:
    env = node_environment(attrs.evolve(CONFIG, env_vars={}))
    assert (env["RAY_CLOUD_INSTANCE_ID"], env["RAY_NODE_TYPE_NAME"]) == ("c-w-1", "cpu")
