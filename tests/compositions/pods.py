"""A composed cloud up to its first Pod: set up, its accounts applied from the manifest, and what a container of it finds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import yaml
from anyscale_conformance.simulators.kubernetes import Cluster, NodeSpec, Servers, mounts
from anyscale_conformance.simulators.kubernetes import Settings as ClusterSettings
from anyscale_kubernetes.manifest import manifest

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.identity import Identity
from anyscale_core.models.manifest import ManifestConfig
from anyscale_core.testing.builders import a_spec

NAMESPACE, ISSUER = "ray", "https://oidc.invalid/id/CLUSTER"
TYPE = "1CPU-2GB"
WORKLOADS = f"system:serviceaccount:{NAMESPACE}:workloads"


@attrs.define(kw_only=True)
class Container:
    """What a container finds: its environment, and its files by their paths."""

    pod: Mapping[str, Any]
    account: Mapping[str, Any]
    environment: Mapping[str, str]
    files: Mapping[str, bytes]


@contextmanager
def a_cluster(*, issuer: str = ISSUER) -> Iterator[Cluster]:
    """Serve a Kubernetes cluster with a namespace, whose tokens an issuer signs; its containers are only played."""
    with Servers() as servers:
        cluster = servers.start(clock=SystemClock(), settings=ClusterSettings(issuer=issuer, starts=timedelta()))
        cluster.make_namespace(NAMESPACE)
        yield cluster


@contextmanager
def a_running_cluster(*, issuer: str = ISSUER) -> Iterator[Cluster]:
    """Serve a Kubernetes cluster that really runs its containers, with a class of volumes."""
    settings = ClusterSettings(nodes=(NodeSpec(name="node-1"),), starts=timedelta(), boots=True, issuer=issuer)
    with Servers() as servers:
        cluster = servers.start(clock=SystemClock(), settings=settings)
        cluster.make_namespace(NAMESPACE)
        cluster.plant({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/disks",
            "metadata": {
                "name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
        })  # fmt: skip
        yield cluster


def kubernetes(cluster: Cluster, home: Path) -> dict[str, Any]:
    """Return the settings of the provider for a cluster that may be called directly."""
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(cluster.kubeconfig(namespace=NAMESPACE)))
    return {
        "namespace": NAMESPACE, "kubeconfig": str(kubeconfig), "image": "example.invalid/ray:1",
        "instance_types": {TYPE: {"resources": {"CPU": 1, "memory": "2Gi"}}},
    }  # fmt: skip


def first_pod(cluster: Cluster, spec: CloudSpec, home: Path) -> tuple[ControlPlane, Identity, Container]:
    """Set a cloud up, apply the accounts of its manifest, and order a cluster; return what its head's container finds."""
    plane = ControlPlane(Settings(home=home / "plane", url="https://plane.invalid"))
    plane.register_cloud(spec, actor="test")
    while plane.foundations.status(spec.name).missing:
        plane.set_up_cloud(spec.name, actor="test")
    identities = plane.foundations.status(spec.name).identities
    config = ManifestConfig(
        cloud=spec.name, provider="kubernetes", url="https://plane.invalid", ca_pem="", image="example.invalid/operator:1",
        namespace=NAMESPACE, node_identities=identities, identity="kubernetes",
    )  # fmt: skip
    for obj in manifest(config):
        if obj["kind"] == "ServiceAccount":
            cluster.plant(obj)
    plane.apply(a_spec("demo", cloud=spec.name, head=TYPE), actor="test")
    for _ in range(50):
        plane.tick()
        for pod in cluster.world.entries("pods", NAMESPACE):
            return plane, identities[0], _container(cluster, pod)
    raise AssertionError("\n".join(f"{event.kind} {event.message}" for event in plane.events()))


def _container(cluster: Cluster, pod: Any) -> Container:
    (container,) = pod.obj["spec"]["containers"]
    volumes = {
        volume["name"]: mounts.files(cluster.world, cluster.tokens, pod, volume)
        for volume in pod.obj["spec"]["volumes"]
    }
    files = {
        f"{mount['mountPath']}/{name}": data
        for mount in container["volumeMounts"]
        for name, data in volumes[mount["name"]].items()
    }
    account = cluster.world.get("serviceaccounts", NAMESPACE, pod.obj["spec"]["serviceAccountName"])
    assert account is not None
    return Container(
        pod=pod.obj, account=account.obj, environment=mounts.variables(cluster.world, pod, container), files=files
    )
