"""A whole story on real Ray: a cloud is set up in the simulated Kubernetes cluster, a job runs in Pods, and all goes again."""

import os
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster, NodeSpec, Servers, Settings
from moto.server import ThreadedMotoServer

from anyscale_core.clock import SystemClock

NAMESPACE = "ray"
TYPE = "1CPU-2GB"
SPEC = {
    "name": "remote",
    "cloud": "k8s",
    "head_node": {"instance_type": TYPE, "resources": {"CPU": 1}},
    "worker_nodes": [{"name": "workers", "instance_type": TYPE, "min_nodes": 1, "resources": {"CPU": 1}}],
}
JOB = """
import ray
ray.init()
@ray.remote(num_cpus=1)
def where():
    return ray.util.get_node_ip_address()
print("computed at", ray.get(where.remote()))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Short: Ray's sockets lie below the temporary folder.
    folder = Path(tempfile.mkdtemp(prefix="ack-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    nodes = tuple(NodeSpec(name=f"node-{zone}", zone=zone) for zone in ("z-1", "z-2"))
    settings = Settings(nodes=nodes, starts=timedelta(), provisions=timedelta(), boots=True)
    with Servers() as servers:
        cluster = servers.start(clock=SystemClock(), settings=settings)
        cluster.make_namespace(NAMESPACE)
        keys = {"access_key_id": b64encode(b"key").decode(), "secret_access_key": b64encode(b"secret").decode()}
        cluster.plant({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store", "namespace": NAMESPACE}, "data": keys,
        })  # fmt: skip
        annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
        cluster.plant({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/disks",
            "metadata": {"name": "standard", "annotations": annotations},
        })  # fmt: skip
        yield cluster


def made(cluster: Cluster) -> list[str]:
    return sorted(
        f"{plural} {obj['metadata']['name']}" for plural, obj in cluster.inventory(NAMESPACE) if plural != "events"
    )


def consoles(cluster: Cluster) -> str:
    pods = [obj["metadata"]["name"] for plural, obj in cluster.inventory(NAMESPACE) if plural == "pods"]
    return "\n".join(cluster.world.log_of(cluster.pod(NAMESPACE, name)) for name in pods)


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_cloud_is_set_up_a_job_runs_in_its_pods_and_nothing_stays(cluster: Cluster, store: str, home: Path) -> None:
    before = made(cluster)
    (home / "kubeconfig").write_text(yaml.safe_dump(cluster.kubeconfig(namespace=NAMESPACE)))
    settings = {
        "namespace": NAMESPACE, "kubeconfig": str(home / "kubeconfig"), "image": "example.invalid/ray:1",
        "python": sys.executable, "grace_seconds": 5, "store": {"endpoint": store, "secret": "store"},
        "instance_types": {TYPE: {"resources": {"CPU": 1, "memory": "2Gi"}}},
    }  # fmt: skip
    cloud = {"name": "k8s", "provider": "kubernetes", "settings": {"kubernetes": settings}}
    (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
    (home / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    (home / "work").mkdir()
    (home / "work" / "job.py").write_text(JOB)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def cli(*words: str) -> str:
        command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(home / "plane"), *words]
        done = subprocess.run(
            command, cwd=home / "work", env=env, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{consoles(cluster)}"
        return done.stdout

    try:
        cli("cloud", "setup", "-f", str(home / "cloud.yaml"))
        said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
        assert "computed at 127." in said
        cli("cloud", "delete", "k8s", "--delete-data")
    finally:
        cli("stop")
    assert made(cluster) == before
