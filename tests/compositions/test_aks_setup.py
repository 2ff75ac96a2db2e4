"""AKS is set up from outside, with the real driver of Azure: whatever Azure refuses on the way, nothing of it stays."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription

from anyscale_core.controlplane.foundations import Data
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.errors import PermissionDenied
from anyscale_core.models.cloud import CloudMode, CloudSpec, NodeIdentity
from tests.compositions.pods import ISSUER, NAMESPACE, WORKLOADS

GROUP = "rg"


@pytest.fixture(scope="module")
def simulator() -> Iterator[AzureSimulator]:
    with AzureSimulator() as simulator:
        yield simulator


@pytest.fixture
def at(simulator: AzureSimulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subscription]:
    """A subscription that the environment is signed in to, with the customer's storage account."""
    at = simulator.subscription()
    at.propagation = timedelta()
    at.hands.storage_account(GROUP)
    monkeypatch.setenv("AZURE_CLIENT_ID", at.owner.client_id)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", at.owner.secret)
    monkeypatch.setenv("AZURE_TENANT_ID", at.tenant_id)
    yield at
    simulator.forget(at)


def aks(simulator: AzureSimulator, at: Subscription) -> CloudSpec:
    (account,) = (thing.name for thing in at.inventory() if thing.type.endswith("/storageAccounts"))
    azure = {
        "subscription_id": at.id, "tenant_id": at.tenant_id, "resource_group": GROUP, "endpoint": simulator.url,
        "authority": simulator.url, "ca_file": str(simulator.ca_path), "storage_account": account, "oidc_issuer": ISSUER,
        "blob_endpoint": f"{simulator.front.url}/{{account}}",
    }  # fmt: skip
    return CloudSpec(
        name="aks", provider="kubernetes", identity="azure", storage="azure", mode=CloudMode.OPERATOR, region="eastus",
        node_identity=NodeIdentity(subjects=(WORKLOADS,)),
        settings={"azure": azure, "kubernetes": {"namespace": NAMESPACE}},
    )  # fmt: skip


def set_up(plane: ControlPlane, spec: CloudSpec) -> None:
    plane.register_cloud(spec, actor="test")
    while plane.foundations.status("aks").missing:
        plane.set_up_cloud("aks", actor="test")


def take_down(plane: ControlPlane) -> None:
    while plane.delete_cloud("aks", data=Data.REFUSE, actor="test") is not None:
        pass


def made(at: Subscription) -> list[Any]:
    containers = at.blobs.call(at, "GET", f"{_account(at)}?comp=list").count(b"<Name>")
    return [
        *sorted(f"{thing.type} {thing.name}" for thing in at.inventory() if "/containers" not in thing.type),
        containers,
    ]


def _account(at: Subscription) -> str:
    return next(thing.name for thing in at.inventory() if thing.type.endswith("/storageAccounts"))


def test_whatever_request_of_the_setup_azure_refuses_what_was_made_can_be_taken_back(
    simulator: AzureSimulator, at: Subscription, tmp_path: Path
) -> None:
    spec, before = aks(simulator, at), made(at)
    plane = ControlPlane(Settings(home=tmp_path))
    set_up(plane, spec)
    requests = list(dict.fromkeys(seen.action for seen in at.journal))
    (identity,) = plane.foundations.status("aks").identities
    client_id = identity.binding.account["azure.workload.identity/client-id"]
    person = at.directory.identity(client_id)
    assert person is not None, "the binding names the client id, by which tokens are asked for"
    assert person.properties["principalId"] == identity.principal
    take_down(plane)
    assert made(at) == before
    for action in requests:
        at.fail(action, 403, "AuthorizationFailed", f"may not {action}")
        with pytest.raises(PermissionDenied):
            set_up(plane, spec)
        assert at.troubles == []
        take_down(plane)
        assert made(at) == before, f"refused: {action}"
    assert len(requests) >= 3, requests
    plane.close()
