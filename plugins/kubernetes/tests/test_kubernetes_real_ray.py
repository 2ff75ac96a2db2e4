"""A whole story on real Ray: a cloud is set up in the simulated Kubernetes cluster, a job runs in Pods, and all goes again."""

import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster, NodeSpec, Servers, Settings
from anyscale_kubernetes.kit_stages import store_keys
from anyscale_kubernetes.kit_store import store_url

from anyscale_core.clock import SystemClock
from tests.conformance.stories import a_home, command_line

NAMESPACE = "ray"
TYPE = "1CPU-2GB"


@pytest.fixture
def home() -> Iterator[Path]:
    with a_home("ack") as folder:
        yield folder


@pytest.fixture
def store() -> str:
    """An S3-compatible store that takes signed requests alone, from the control plane and the nodes alike."""
    return store_url()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    nodes = tuple(NodeSpec(name=f"node-{zone}", zone=zone) for zone in ("z-1", "z-2"))
    settings = Settings(nodes=nodes, starts=timedelta(), provisions=timedelta(), boots=True)
    with Servers() as servers:
        cluster = servers.start(clock=SystemClock(), settings=settings)
        cluster.make_namespace(NAMESPACE)
        cluster.plant({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store", "namespace": NAMESPACE}, "data": store_keys(),
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


def settings_of(home: Path, store: str) -> dict[str, Any]:
    """Return the provider's settings; Pods run this interpreter."""
    return {
        "namespace": NAMESPACE, "kubeconfig": str(home / "kubeconfig"), "image": "example.invalid/ray:1",
        "python": sys.executable, "grace_seconds": 5, "store": {"endpoint": store, "secret": "store"},
        "instance_types": {TYPE: {"resources": {"CPU": 1, "memory": "2Gi"}}},
    }  # fmt: skip


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_cloud_is_set_up_a_job_runs_in_its_pods_and_nothing_stays(cluster: Cluster, store: str, home: Path) -> None:
    before = made(cluster)
    (home / "kubeconfig").write_text(yaml.safe_dump(cluster.kubeconfig(namespace=NAMESPACE)))
    cloud = {"name": "k8s", "provider": "kubernetes", "settings": {"kubernetes": settings_of(home, store)}}
    (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
    cli = command_line(home, "k8s", TYPE, consoles=partial(consoles, cluster))
    try:
        cli("cloud", "setup", "-f", str(home / "cloud.yaml"))
        said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
        assert "computed at 127." in said
        cli("cloud", "delete", "k8s", "--delete-data")
    finally:
        cli("stop")
    assert made(cluster) == before


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_an_operator_that_its_manifest_installed_runs_a_job_with_no_more_than_its_rights(
    cluster: Cluster, store: str, home: Path
) -> None:
    cli = command_line(home, "k8s", TYPE, consoles=partial(consoles, cluster))
    http = urllib3.PoolManager(
        ca_certs=str(cluster.ca_file), headers={"authorization": f"Bearer {cluster.admin_token}"}
    )
    jwks = http.request("GET", f"{cluster.url}/openid/v1/jwks").json()
    # The control plane knows the cluster's keys and nothing that opens it.
    known = {"namespace": NAMESPACE, "issuer": Settings().issuer, "jwks": jwks}
    cloud = {"name": "k8s", "provider": "kubernetes", "mode": "operator", "settings": {"kubernetes": known}}
    (home / "cloud.yaml").write_text(yaml.safe_dump(cloud))
    (home / "settings.yaml").write_text(yaml.safe_dump({"kubernetes": settings_of(home, store)}))
    try:
        cli("cloud", "register", "-f", str(home / "cloud.yaml"))
        rendered = cli(
            "operator", "manifest", "--cloud", "k8s", "--image", "example.invalid/operator:1", "--namespace", NAMESPACE,
            "--settings", str(home / "settings.yaml"),
        )  # fmt: skip
        objects = list(yaml.safe_load_all(rendered))
        cluster.plant(objects[0])
        # In its Pod the operator would find its token where every Pod has it; a process finds it by the kubeconfig.
        token = cluster.token(NAMESPACE, objects[0]["metadata"]["name"])
        (home / "kubeconfig").write_text(yaml.safe_dump(cluster.kubeconfig(token, namespace=NAMESPACE)))
        for obj in objects[1:]:
            cluster.plant(obj)
        end = time.monotonic() + 60
        while "CONNECTED" not in cli("operator", "list").split():
            assert time.monotonic() < end, consoles(cluster)
        said = cli("run", "-f", str(home / "spec.yaml"), "--", "python", "job.py")
        assert "computed at 127." in said
        left = [name for name in made(cluster) if name.startswith("pods ")]
        assert len(left) == 1, "the operator alone is left"
    finally:
        cli("stop")
