"""One subscription of the simulated Azure, and the real clients that its tests drive it with."""

import base64
from datetime import timedelta
from types import TracebackType
from typing import Any

import attrs
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from azure.core.pipeline import policies
from azure.core.pipeline.transport import RequestsTransport
from azure.core.polling import LROPoller
from azure.core.rest import HttpRequest
from azure.mgmt.core import ARMPipelineClient
from azure.mgmt.core.polling.arm_polling import ARMPolling

from anyscale_core.testing.clock import ManualClock

SCOPE = "https://management.azure.com/.default"
MINUTE = timedelta(minutes=1)
VERSION = "2025-05-01"


@attrs.frozen(kw_only=True)
class Answer:
    """What came back: the status, the JSON body, the headers."""

    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str:
        """The code of the error envelope, empty without one."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return str(error["code"]) if error else ""


class World:
    """A subscription with an empty group ``rg``, its clock moved by hand, and clients of it."""

    def __init__(self, azure: AzureSimulator) -> None:
        self.azure, self.clock = azure, ManualClock()
        self.at: Subscription = azure.subscription(self.clock)
        self.at.group("rg")
        self.at.retry_after = timedelta(milliseconds=20)
        self.group = f"{self.at.path}/resourceGroups/rg"
        self._transport = RequestsTransport(connection_verify=str(azure.ca_path))
        self.pipeline = self._pipeline(self.at.credential())

    def client(self, type: type[Any], **options: Any) -> Any:
        """Return a client of one of the generated SDKs: compute, storage, network, ..."""
        return type(
            self.at.credential(), self.at.id, base_url=self.azure.url, connection_verify=str(self.azure.ca_path),
            credential_scopes=[SCOPE], polling_interval=0.02, retry_total=0, **options,
        )  # fmt: skip

    def send(
        self, method: str, path: str, body: Any = None, *, who: Any = None, headers: Any = None, **query: str
    ) -> Answer:
        """Send one request through a pipeline of azure-mgmt-core. ``path`` begins after the subscription or is a whole URL."""
        query = {name.replace("_", "$", 1) if name.startswith("_") else name: value for name, value in query.items()}
        url = path if path.startswith("https:") else f"{self.azure.url}{self._whole(path)}"
        params = {} if path.startswith("https:") else {"api-version": VERSION, **query}
        pipeline = self.pipeline if who is None else self._pipeline(self.at.credential(who))
        request = HttpRequest(method, url, params=params, json=body, headers=headers)
        response = pipeline.send_request(request)
        return Answer(
            status=response.status_code, body=response.json() if response.content else None, headers=response.headers
        )

    def put(self, path: str, body: Any, **options: Any) -> Answer:
        """Put below the group: ``Microsoft.Network/virtualNetworks/v``."""
        return self.send("PUT", self.below(path), body, **options)

    def get(self, path: str, **options: Any) -> Answer:
        """Get what is below the group."""
        return self.send("GET", self.below(path), **options)

    def delete(self, path: str, **options: Any) -> Answer:
        """Delete what is below the group."""
        return self.send("DELETE", self.below(path), **options)

    def begin(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request below the group, and follow it as the SDKs do."""
        request = HttpRequest(method, f"{self.azure.url}{self.below(path)}", params={"api-version": VERSION}, json=body)
        first = self.pipeline.send_request(request, _return_pipeline_response=True)
        return LROPoller(self.pipeline, first, lambda answer: answer.http_response, ARMPolling(0.02))

    def below(self, path: str) -> str:
        """Return the id of what is in the group."""
        return f"{self.group}/providers/{path}"

    def wait(self, by: timedelta = MINUTE) -> None:
        """Let time pass."""
        self.clock.advance(by)

    def network(self) -> str:
        """Let there be a network ``v`` with a subnet ``a`` (10.0.1.0/24); return the subnet's id."""
        self.put("Microsoft.Network/virtualNetworks/v", a_network())
        self.wait()
        return self.below("Microsoft.Network/virtualNetworks/v/subnets/a")

    def machine(self, name: str = "vm", **properties: Any) -> Answer:
        """Put a machine into the network; it runs a minute later."""
        subnet = self.below("Microsoft.Network/virtualNetworks/v/subnets/a")
        if self.at.find(subnet) is None:
            self.network()
        return self.put(f"Microsoft.Compute/virtualMachines/{name}", a_machine(subnet, name, **properties))

    def things(self) -> dict[str, Any]:
        """Return what there is, besides the group and the network, by the last word of its type."""
        skipped = ("resourceGroups", "virtualNetworks", "subnets")
        found = {thing.type.rpartition("/")[2]: thing for thing in self.at.inventory()}
        return {type: thing for type, thing in found.items() if type not in skipped}

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.azure.forget(self.at)
        self._transport.close()

    def _pipeline(self, credential: Any) -> Any:
        chain = [
            policies.HeadersPolicy({"Content-Type": "application/json"}),
            policies.BearerTokenCredentialPolicy(credential, SCOPE),
        ]
        return ARMPipelineClient(self.azure.url, policies=chain, transport=self._transport)

    def _whole(self, path: str) -> str:
        return path if path.lower().startswith("/subscriptions") else f"{self.at.path}{path}"


def a_network(*prefixes: str) -> dict[str, Any]:
    """Return the body of a network with subnets ``a``, ``b``..., by default 10.0.1.0/24."""
    subnets = [
        {"name": name, "properties": {"addressPrefix": prefix}}
        for name, prefix in zip("abc", prefixes or ("10.0.1.0/24",), strict=False)
    ]
    return {
        "location": "eastus",
        "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets},
    }


def an_interface(subnet: str, **properties: Any) -> dict[str, Any]:
    """Return the body of an interface in a subnet."""
    part = {"name": "ip", "properties": {"subnet": {"id": subnet}, **properties}}
    return {"location": "eastus", "properties": {"ipConfigurations": [part]}}


def an_address() -> dict[str, Any]:
    """Return the body of a public address."""
    return {
        "location": "eastus", "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"},
    }  # fmt: skip


def a_machine(subnet: str, name: str = "vm", **properties: Any) -> dict[str, Any]:
    """Return the body of a machine that brings its interface, its address and its disk along."""
    image = {"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
    address = {
        "name": f"{name}-pip",
        "sku": {"name": "Standard"},
        "tags": {"o": "x"},
        "properties": {"deleteOption": "Delete"},
    }
    part = {"subnet": {"id": subnet}, "publicIPAddressConfiguration": address}
    nic = {
        "name": f"{name}-nic", "tags": {"o": "x"},
        "properties": {"deleteOption": "Delete", "ipConfigurations": [{"name": "ip", "properties": part}]},
    }  # fmt: skip
    return {
        "location": "eastus", "zones": ["1"], "tags": {"o": "x"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {"imageReference": image, "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"}},
            "osProfile": {
                "computerName": name, "adminUsername": "ray", "adminPassword": "Xx12345678!x",
                "customData": base64.b64encode(b"#!/bin/sh").decode(),
            },
            "networkProfile": {"networkApiVersion": "2022-11-01", "networkInterfaceConfigurations": [nic]},
            **properties,
        },
    }  # fmt: skip
