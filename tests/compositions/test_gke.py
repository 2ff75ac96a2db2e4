"""GKE: Pods of Kubernetes with service accounts and a bucket of Google Cloud, by Workload Identity Federation."""

import json
from pathlib import Path
from typing import Any

import pytest
import urllib3
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, Timings
from anyscale_conformance.simulators.gcp.clients import client
from anyscale_gcp.kit.world import World
from joserfc.jwk import RSAKey
from obstore.exceptions import PermissionDeniedError
from obstore.store import from_url

from anyscale_core.controlplane.grants import granted
from anyscale_core.models.cloud import CloudSpec, NodeIdentity
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from tests.compositions import pods

REGION = "us-central1"
EXCHANGE = "urn:ietf:params:oauth"


class MetadataServer:
    """What a node of GKE does for its Pods: exchanges their account's token, and becomes its service account."""

    def __init__(self, world: World, cluster: str) -> None:
        self._world, self._cluster = world, cluster
        self._http = urllib3.PoolManager()

    def federated(self, token: str) -> Any:
        """Return STS's answer to a Pod's token."""
        pool = f"{self._world.project.id}.svc.id.goog"
        return self._post("sts", "v1/token", {
            "audience": f"identitynamespace:{pool}:{self._cluster}", "subjectToken": token,
            "subjectTokenType": f"{EXCHANGE}:token-type:jwt", "requestedTokenType": f"{EXCHANGE}:token-type:access_token",
            "grantType": f"{EXCHANGE}:grant-type:token-exchange", "scope": "https://www.googleapis.com/auth/cloud-platform",
        })  # fmt: skip

    def access(self, token: str, email: str) -> Any:
        """Return the answer to a Pod that wants its service account's token."""
        federated = self.federated(token)
        path = f"v1/projects/-/serviceAccounts/{email}:generateAccessToken"
        body = {"scope": ["https://www.googleapis.com/auth/devstorage.read_write"]}
        return self._post("iamcredentials", path, body, federated["access_token"])

    def _post(self, api: str, path: str, body: Any, token: str = "") -> Any:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        where = f"{self._world.simulator.endpoint(api)}{path}"
        return self._http.request("POST", where, body=json.dumps(body), headers=headers).json()


def test_a_pods_own_token_becomes_the_service_account_and_reaches_its_prefix_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = f"https://container.googleapis.com/v1/projects/gke-project/locations/{REGION}/clusters/main"
    with GcpSimulator(guard=Guard.PERMISSIONS) as simulator, pods.a_cluster(issuer=link) as cluster:
        project = simulator.add_project("gke-project", timings=Timings.none())
        world = World(simulator=simulator, project=project, folder=tmp_path, key=RSAKey.generate_key(2048))
        world.let_plane_in()
        for role in ("roles/iam.serviceAccountAdmin", "roles/storage.admin"):
            project.bind("", role, f"serviceAccount:{world.account}")
        wanted = {
            "name": "main",
            "initialNodeCount": 1,
            "workloadIdentityConfig": {"workloadPool": "gke-project.svc.id.goog"},
        }
        gke = client(simulator, "container", token=project.token()).projects().locations().clusters()
        gke.create(parent=f"projects/gke-project/locations/{REGION}", body={"cluster": wanted}).execute()
        project.issue_tokens(REGION, "main", cluster.tokens.keys())
        spec = CloudSpec(
            name="gke", provider="kubernetes", identity="gcp", storage="gcp", region=REGION,
            node_identity=NodeIdentity(subjects=(pods.WORKLOADS,)),
            settings={"kubernetes": pods.kubernetes(cluster, tmp_path), "gcp": world.settings()},
        )  # fmt: skip
        plane, identity, container = pods.first_pod(cluster, spec, tmp_path)
        email = container.account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        assert identity.principal == f"serviceAccount:{email}"

        mine = granted(plane.clouds.get("gke"), "mine/", Access.WRITE, token=Token("t"))
        bucket = mine.store.url.split("/")[2]
        server = MetadataServer(world, link)
        token = cluster.token(pods.NAMESPACE, "workloads", audiences=("gke-project.svc.id.goog",))
        access = server.access(token, email)["accessToken"]
        store: Any = from_url(
            f"gs://{bucket}", base_url=simulator.url, bearer_token=access, client_options={"allow_http": True}
        )
        store.put("mine/log", b"said")
        assert bytes(store.get("mine/log").bytes()) == b"said"
        with pytest.raises(PermissionDeniedError):
            store.put("theirs/log", b"said")

        other = cluster.token(pods.NAMESPACE, "default", audiences=("gke-project.svc.id.goog",))
        assert server.access(other, email)["error"]["code"] == 403
        for refused in (cluster.token(pods.NAMESPACE, "workloads", audiences=("vault",)), f"{token[:-8]}AAAAAAAA"):
            assert server.federated(refused)["error"] == "invalid_grant"
        plane.close()
