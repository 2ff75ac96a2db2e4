"""GKE on real Ray: Pods of Kubernetes that run as a service account of Google Cloud, with a bucket there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import yaml
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, Timings
from anyscale_conformance.simulators.gcp.clients import client
from anyscale_conformance.simulators.kubernetes import Cluster, NodeSpec, Servers, Settings
from anyscale_gcp.kit.world import REGION, World
from joserfc.jwk import RSAKey

from anyscale_core.clock import SystemClock
from tests.compositions import pods
from tests.compositions.test_aks import JOB, SPEC

PROJECT = "gke-real-ray"
LINK = f"https://container.googleapis.com/v1/projects/{PROJECT}/locations/{REGION}/clusters/main"


@attrs.define(kw_only=True)
class Gke:
    """A project with a cluster of GKE whose Pods may become its service accounts, and a command line."""

    world: World
    cluster: Cluster
    home: Path

    def cli(self, *words: str) -> str:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(self.home / "plane"), *words]
        done = subprocess.run(
            command, cwd=self.home / "work", env=env, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.consoles()}"
        return done.stdout

    def consoles(self) -> str:
        names = [obj["metadata"]["name"] for kind, obj in self.cluster.inventory(pods.NAMESPACE) if kind == "pods"]
        return "\n".join(self.cluster.world.log_of(self.cluster.pod(pods.NAMESPACE, name)) for name in names)

    def cloud(self) -> dict[str, object]:
        kubernetes = pods.kubernetes(self.cluster, self.home) | {"python": sys.executable, "grace_seconds": 5}
        return {
            "name": "gke", "provider": "kubernetes", "identity": "gcp", "storage": "gcp", "region": REGION,
            "node_identity": {"subjects": [pods.WORKLOADS]},
            "settings": {"kubernetes": kubernetes, "gcp": self.world.settings()},
        }  # fmt: skip

    def made(self) -> set[str]:
        in_cluster = {
            f"{kind} {obj['metadata']['name']}"
            for kind, obj in self.cluster.inventory(pods.NAMESPACE)
            if kind != "events"
        }
        return in_cluster | {
            f"{seen.kind} {seen.name}"
            for seen in self.world.project.inventory()
            if seen.kind in ("buckets", "serviceAccounts")
        }


@pytest.fixture
def gke() -> Iterator[Gke]:
    # Short: Ray's sockets lie below the temporary folder.
    home = Path(tempfile.mkdtemp(prefix="gke-"))
    settings = Settings(nodes=(NodeSpec(name="node-1"),), starts=timedelta(), boots=True, issuer=LINK)
    with GcpSimulator(guard=Guard.PERMISSIONS) as simulator, Servers() as servers:
        project = simulator.add_project(PROJECT, timings=Timings.none())
        world = World(simulator=simulator, project=project, folder=home, key=RSAKey.generate_key(2048))
        world.let_plane_in()
        for role in ("roles/iam.serviceAccountAdmin", "roles/storage.admin"):
            project.bind("", role, f"serviceAccount:{world.account}")
        pool = {"workloadPool": f"{PROJECT}.svc.id.goog"}
        wanted = {"name": "main", "initialNodeCount": 1, "workloadIdentityConfig": pool}
        clusters = client(simulator, "container", token=project.token()).projects().locations().clusters()
        clusters.create(parent=f"projects/{PROJECT}/locations/{REGION}", body={"cluster": wanted}).execute()
        cluster = servers.start(clock=SystemClock(), settings=settings)
        cluster.make_namespace(pods.NAMESPACE)
        cluster.plant({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "pd.csi.storage.gke.io",
            "metadata": {
                "name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
        })  # fmt: skip
        project.issue_tokens(REGION, "main", cluster.tokens.keys())
        yield Gke(world=world, cluster=cluster, home=home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_job_runs_on_gke_as_its_service_account_and_nothing_stays(gke: Gke) -> None:
    before = gke.made()
    (gke.home / "work").mkdir()
    (gke.home / "work" / "job.py").write_text(JOB)
    (gke.home / "spec.yaml").write_text(yaml.safe_dump({**SPEC, "cloud": "gke"}))
    (gke.home / "cloud.yaml").write_text(yaml.safe_dump(gke.cloud()))
    try:
        gke.cli("cloud", "setup", "-f", str(gke.home / "cloud.yaml"))
        (view,) = (each for each in json.loads(gke.cli("cloud", "list", "--json"))["clouds"] if each["name"] == "gke")
        (identity,) = view["identities"]
        account = {"name": "workloads", "namespace": pods.NAMESPACE, "annotations": identity["binding"]["account"]}
        gke.cluster.plant({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        gke.cli("cloud", "verify", "gke")
        said = gke.cli("run", "--keep", "-f", "../spec.yaml", "--", "python", "job.py")
        assert "computed at 127." in said
        ran_as = [each.obj["spec"]["serviceAccountName"] for each in gke.cluster.world.entries("pods", pods.NAMESPACE)]
        assert ran_as == ["workloads"] * 2
        gke.cli("down", "remote")
        stored = {seen.name.rpartition("/")[2] for seen in gke.world.project.inventory() if seen.kind == "objects"}
        assert stored >= {"raylet.out", "gcs_server.out"}
        gke.cli("cloud", "delete", "gke", "--delete-data")
    finally:
        gke.cli("stop")
    assert gke.made() - before == {"serviceaccounts workloads"}
