"""GKE on real Ray: Pods of Kubernetes that run as a service account of Google Cloud, with a bucket there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, Timings
from anyscale_conformance.simulators.gcp.clients import client
from anyscale_gcp.kit.world import REGION, World
from joserfc.jwk import RSAKey

from tests.compositions import pods
from tests.compositions.stories import Story
from tests.conformance.stories import a_home

PROJECT = "gke-real-ray"
LINK = f"https://container.googleapis.com/v1/projects/{PROJECT}/locations/{REGION}/clusters/main"


@pytest.fixture
def home() -> Iterator[Path]:
    with a_home("gke") as folder:
        yield folder


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    """A project whose Pods may become its service accounts."""
    with GcpSimulator(guard=Guard.PERMISSIONS) as simulator:
        project = simulator.add_project(PROJECT, timings=Timings.none())
        world = World(simulator=simulator, project=project, folder=home, key=RSAKey.generate_key(2048))
        world.let_plane_in()
        for role in ("roles/iam.serviceAccountAdmin", "roles/storage.admin"):
            project.bind("", role, f"serviceAccount:{world.account}")
        pool = {"workloadPool": f"{PROJECT}.svc.id.goog"}
        wanted = {"name": "main", "initialNodeCount": 1, "workloadIdentityConfig": pool}
        clusters = client(simulator, "container", token=project.token()).projects().locations().clusters()
        clusters.create(parent=f"projects/{PROJECT}/locations/{REGION}", body={"cluster": wanted}).execute()
        yield world


def made(world: World) -> set[str]:
    seen = world.project.inventory()
    return {f"{one.kind} {one.name}" for one in seen if one.kind in ("buckets", "serviceAccounts")}


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_job_runs_on_gke_as_its_service_account_and_nothing_stays(world: World, home: Path) -> None:
    with pods.a_running_cluster(issuer=LINK) as cluster:
        world.project.issue_tokens(REGION, "main", cluster.tokens.keys())
        story = Story(name="gke", cluster=cluster, home=home)
        before, in_cluster = made(world), story.in_cluster()
        try:
            story.set_up({
                "provider": "kubernetes", "identity": "gcp", "storage": "gcp", "region": REGION,
                "node_identity": {"subjects": [pods.WORKLOADS]},
                "settings": {"kubernetes": story.kubernetes(), "gcp": world.settings()},
            })  # fmt: skip
            story.run()
            stored = {seen.name.rpartition("/")[2] for seen in world.project.inventory() if seen.kind == "objects"}
            assert stored >= {"raylet.out", "gcs_server.out"}
            story.cli("cloud", "delete", "gke", "--delete-data")
        finally:
            story.cli("stop")
        assert made(world) == before
        assert story.in_cluster() - in_cluster == {"serviceaccounts workloads"}
