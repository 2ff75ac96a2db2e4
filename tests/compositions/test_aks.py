"""AKS on real Ray: cluster and networking of Kubernetes by pull mode, identity and storage of Azure."""

import json
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import pytest
import urllib3
import yaml
from anyscale_azure.config import Settings as AzureSettings
from anyscale_azure.permissions import custom_role, permissions_for
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from anyscale_conformance.simulators.kubernetes import Cluster, NodeSpec, Servers, Settings
from anyscale_conformance.simulators.kubernetes.webhooks import azure_workload_identity

from anyscale_core.cli import background
from anyscale_core.clock import SystemClock
from tests.conformance.stories import a_home, command_line

NAMESPACE, ISSUER, GROUP = "ray", "https://oidc.invalid/aks/", "rg"
TYPE = "1CPU-2GB"
NODES, OPERATOR = (f"system:serviceaccount:{NAMESPACE}:{name}" for name in ("workloads", "anyscale-operator"))
OPERATOR_NEEDS = (
    *("identity.get", "identity.list", "storage.get", "storage.list"),
    *("storage.grant", "storage.revoke", "storage.objects"),
)


@attrs.define(kw_only=True)
class Aks:
    """A subscription, a Kubernetes cluster whose tokens Entra ID trusts, and a command line with a home of its own."""

    simulator: AzureSimulator
    at: Subscription
    cluster: Cluster
    account: str
    home: Path

    def arm(self, path: str, body: dict[str, Any]) -> Any:
        """Make something as the customer does (``az rest --method put``); ``path`` begins after the subscription."""
        token = self.at.credential().get_token("https://management.azure.com/.default").token
        http = urllib3.PoolManager(ca_certs=str(self.simulator.ca_path))
        answer = http.request(
            "PUT", f"{self.simulator.url}{self.at.path}{path}?api-version=2023-01-31", body=json.dumps(body),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )  # fmt: skip
        assert answer.status in (200, 201), answer.data
        return answer.json()

    def azure(self, **fields: Any) -> dict[str, Any]:
        return {
            "subscription_id": self.at.id, "tenant_id": self.at.tenant_id, "resource_group": GROUP,
            "endpoint": self.simulator.url, "authority": self.simulator.url, "ca_file": str(self.simulator.ca_path),
            "storage_account": self.account, "oidc_issuer": ISSUER,
            "blob_endpoint": f"{self.simulator.front.url}/{{account}}", **fields,
        }  # fmt: skip

    def kubernetes(self) -> dict[str, Any]:
        """Return the operator's settings: Pods run this interpreter, and trust the authority of the simulated Azure."""
        trust = {"name": "SSL_CERT_FILE", "value": str(self.simulator.ca_path)}
        return {
            "namespace": NAMESPACE, "kubeconfig": str(self.home / "kubeconfig"), "image": "example.invalid/ray:1",
            "python": sys.executable, "grace_seconds": 10, "flavor": "aks",
            "instance_types": {TYPE: {"resources": {"CPU": 1, "memory": "2Gi"}}},
            "patches": [{"patch": [{"op": "add", "path": "/spec/containers/0/env/-", "value": trust}]}],
        }  # fmt: skip

    @cached_property
    def cli(self) -> Callable[..., str]:
        """The command line as the customer's administrator runs it, signed in to Azure."""
        env = {
            "AZURE_CLIENT_ID": self.at.owner.client_id, "AZURE_CLIENT_SECRET": self.at.owner.secret,
            "AZURE_TENANT_ID": self.at.tenant_id, "SSL_CERT_FILE": str(self.simulator.ca_path),
        }  # fmt: skip
        return command_line(self.home, "aks", TYPE, consoles=self.consoles, env=env)

    def operator_identity(self) -> str:
        """Make the identity that the operator calls Azure by, with the least role; return its client id."""
        path = f"/resourceGroups/{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/operator"
        made = self.arm(path, {"location": "eastus"})
        credential = {"issuer": ISSUER, "subject": OPERATOR, "audiences": ["api://AzureADTokenExchange"]}
        self.arm(f"{path}/federatedIdentityCredentials/aks", {"properties": credential})
        settings = AzureSettings(subscription_id=self.at.id, resource_group=GROUP, tenant_id=self.at.tenant_id)
        role = custom_role(permissions_for(OPERATOR_NEEDS, settings), name="operator", scope=self.at.path)
        permission = {"actions": role["Actions"], "dataActions": role["DataActions"]}
        self.arm(f"/providers/Microsoft.Authorization/roleDefinitions/{uuid.uuid4()}", {"properties": {
            "roleName": "operator", "permissions": [permission], "assignableScopes": [self.at.path],
        }})  # fmt: skip
        self.at.hands.assign(made["properties"]["principalId"], "operator", self.at.path)
        return str(made["properties"]["clientId"])

    def cloud(self) -> dict[str, Any]:
        return {
            "name": "aks", "provider": "kubernetes", "identity": "azure", "storage": "azure", "mode": "operator",
            "region": "eastus", "node_identity": {"subjects": [NODES]},
            "settings": {"azure": self.azure(), "kubernetes": {"namespace": NAMESPACE}},
        }  # fmt: skip

    def install(self, client_id: str) -> set[str]:
        """Apply the operator's manifest, wait until it is there, and return what was applied."""
        with socket.create_server(
            ("127.0.0.1", 0)
        ) as free:  # its Pod is a process of this machine, with others beside it
            port = str(free.getsockname()[1])
        rendered = self.cli(
            "operator", "manifest", "--cloud", "aks", "--image", "example.invalid/operator:1", "--namespace", NAMESPACE,
            "--settings", str(self.home / "settings.yaml"), "--health-port", port,
            "--pod-label", "azure.workload.identity/use=true",
            "--account-annotation", f"azure.workload.identity/client-id={client_id}",
        )  # fmt: skip
        objects = list(yaml.safe_load_all(rendered))
        self.cluster.plant(objects[0])
        # In its Pod the operator would find its token where every Pod has it; a process finds it by the kubeconfig.
        token = self.cluster.token(NAMESPACE, objects[0]["metadata"]["name"])
        (self.home / "kubeconfig").write_text(yaml.safe_dump(self.cluster.kubeconfig(token, namespace=NAMESPACE)))
        for obj in objects[1:]:
            self.cluster.plant(obj)
        self.until(lambda: "CONNECTED" in self.cli("operator", "list").split())
        return {f"{obj['kind'].lower()}s {obj['metadata']['name']}" for obj in objects}

    def stored_by_nodes(self) -> set[str]:
        """Return what nodes put into the container as their identity: names of Ray's logs, and ``job`` for that of the job.

        They must have read the packed working directory, and have been let at nothing that was not granted.
        """
        people = {
            t.name: t.body["properties"]["principalId"] for t in self.at.inventory() if t.type.endswith("Identities")
        }
        (node,) = (principal for name, principal in people.items() if name != "operator")
        used = [each for each in self.simulator.front.journal if each.who == node]
        assert {each.status for each in used if each.action} <= {200, 201, 206}
        assert any(each.action == "read" and each.path.startswith("packages/") for each in used)
        put = [each.path for each in used if each.action == "write"]
        return {"job" if "/jobs/" in path else path.rpartition("/")[2] for path in put}

    def pods(self) -> list[str]:
        return [obj["metadata"]["name"] for kind, obj in self.cluster.inventory(NAMESPACE) if kind == "pods"]

    def made(self) -> list[str]:
        in_cluster = [
            f"{kind} {obj['metadata']['name']}" for kind, obj in self.cluster.inventory(NAMESPACE) if kind != "events"
        ]
        return sorted([*in_cluster, *(f"{thing.type} {thing.name}" for thing in self.at.inventory())])

    def consoles(self) -> str:
        client = background.find(self.home / "plane")
        events = () if client is None else client.events()
        said = [f"{event.at:%H:%M:%S} {event.kind} {event.message}" for event in events]
        return "\n".join(
            [*said, *(self.cluster.world.log_of(self.cluster.pod(NAMESPACE, name)) for name in self.pods())]
        )

    def until(self, condition: Callable[[], Any], *, seconds: float = 90) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, self.consoles()
            time.sleep(0.2)
        return found


@pytest.fixture
def aks() -> Iterator[Aks]:
    settings = Settings(nodes=(NodeSpec(name="node-1"),), starts=timedelta(), boots=True, issuer=ISSUER)
    with a_home("aks") as home, AzureSimulator() as simulator, Servers() as servers:
        at = simulator.subscription(SystemClock())
        at.group(GROUP)
        at.propagation = timedelta()
        cluster = servers.start(clock=SystemClock(), settings=settings)
        cluster.make_namespace(NAMESPACE)
        cluster.plant({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "disk.csi.azure.com",
            "metadata": {"name": "default", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        })  # fmt: skip
        cluster.add_webhook(azure_workload_identity(tenant=at.tenant_id, authority=simulator.url))
        at.directory.trust(ISSUER, cluster.tokens.keys())
        yield Aks(simulator=simulator, at=at, cluster=cluster, account=at.hands.storage_account(GROUP).name, home=home)


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_job_runs_on_aks_its_logs_are_written_by_the_nodes_own_identity_and_nothing_stays(aks: Aks) -> None:
    client_id = aks.operator_identity()
    aks.at.hands.enforce_roles()
    before = aks.made()
    (aks.home / "cloud.yaml").write_text(yaml.safe_dump(aks.cloud()))
    (aks.home / "settings.yaml").write_text(
        yaml.safe_dump({"kubernetes": aks.kubernetes(), "azure": aks.azure(credential="workload_identity")})
    )
    try:
        aks.cli("cloud", "setup", "-f", str(aks.home / "cloud.yaml"))
        installed = aks.install(client_id)
        said = aks.cli("run", "-f", "../spec.yaml", "--", "python", "job.py")
        assert "computed at 127." in said
        assert aks.stored_by_nodes() >= {"job", "raylet.out", "gcs_server.out"}
        aks.cli("cloud", "verify", "aks")
        aks.cli("cloud", "delete", "aks", "--delete-data")
    finally:
        aks.cli("stop")
    left = set(aks.made()) - set(before)
    assert {name for name in left if "anyscale-operator" not in name} == {"serviceaccounts workloads"} <= installed
