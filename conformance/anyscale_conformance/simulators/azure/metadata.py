"""The metadata service of a machine: its identity's tokens, what it is, and what is going to happen to it."""

import base64
import uuid
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.parts import nics
from anyscale_conformance.simulators.azure.server import Server
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.tokens import LIVES_S
from anyscale_conformance.simulators.azure.wire import Body

Told = tuple[int, Mapping[str, str], Any]
HOST = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
"""The variable by which azure-identity is told of another metadata service than 169.254.169.254."""

TOKENS = "/metadata/identity/oauth2/token"
OBJECTS_HOST = "AZURE_MSI_ENDPOINT"
"""The variable by which obstore is told of it, with the path of tokens."""
TRUSTED = "SSL_CERT_FILE"
"""Whom a machine trusts: it reads its blobs at the simulator's certificate."""


class Metadata:
    """The metadata services of a subscription's machines, and the machines themselves where they are booted."""

    def __init__(self, at: Subscription, *, ca: Path) -> None:
        self._at, self._ca = at, ca
        self._servers: dict[str, Server] = {}

    def url(self, machine: Resource) -> str:
        """Return where a machine's metadata service is, at the machine's own address where machines are booted."""
        server = self._servers.get(machine.key)
        if server is None:
            host = self._address(machine) if self._at.machines is not None else "127.0.0.1"
            server = Server(lambda *asked: self._answer(machine, *asked), None, host=host)
            server.start()
            self._servers[machine.key] = server
        return f"http://{server.server_address[0]!s}:{server.port}"

    def turn(self, machine: Resource, power: str) -> None:
        """Bring a machine of this machine to another power state: ``running`` boots it, everything else cuts it off."""
        machines = self._at.machines
        if machines is None:
            self._close(machine, power)
            return
        if power == "running" and not machines.is_alive(machine.key):
            data = machine.hidden.get("customData")
            if data:
                machines.remove(machine.key)
                script = base64.b64decode(data).decode()
                url = self.url(machine)
                environment = {HOST: url, OBJECTS_HOST: f"{url}{TOKENS}", TRUSTED: str(self._ca)}
                machines.boot(machine.key, script, address=self._address(machine), environment=environment)
        elif power == "gone":
            machines.remove(machine.key)
        elif power != "running":
            machines.stop(machine.key)
        self._close(machine, power)

    def close(self) -> None:
        """End every service, and every machine that runs."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        if self._at.machines is not None:
            for machine in self._at.all("Microsoft.Compute/virtualMachines"):
                self._at.machines.remove(machine.key)

    def token(self, machine: Resource, resource: str, **which: str) -> Body:
        """Return a token for ``resource`` of one of a machine's identities, as the service tells it.

        ``which``: ``client_id``, ``object_id`` or ``msi_res_id``. Raises ArmError when there is none, or more than one.
        """
        at = self._at
        at.directory.check_audience(resource)
        found = self._identity(machine, which)
        token = at.directory.token(
            client=found["clientId"], principal=found["principalId"], audience=resource, xms_mirid=found["id"],
            xms_az_rid=machine.id,
        )  # fmt: skip
        claims = at.directory.claims(token)
        return {
            "access_token": token, "client_id": found["clientId"], "expires_in": str(LIVES_S),
            "expires_on": str(claims["exp"]), "ext_expires_in": str(LIVES_S), "not_before": str(claims["nbf"]),
            "resource": resource, "token_type": "Bearer",
        }  # fmt: skip

    def _identity(self, machine: Resource, which: Mapping[str, str]) -> dict[str, str]:
        given: Body = machine.body.get("identity") or {}
        assigned = [
            {"id": id, **found}
            for id, found in (given.get("userAssignedIdentities") or {}).items()
            if self._at.find(id) is not None
        ]
        system = given.get("principalId")
        if which:
            (name, wanted), *_ = which.items()
            field = {"client_id": "clientId", "object_id": "principalId"}.get(name, "id")
            assigned = [one for one in assigned if str(one[field]).lower() == wanted.lower()]
            if system and field == "principalId" and wanted == system:
                assigned = [_system(machine)]
        elif system:
            assigned = [_system(machine)]
        if len(assigned) > 1:
            raise _refused(
                "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token "
                "request"
            )
        if not assigned:
            raise _refused("Identity not found")
        return assigned[0]

    def _answer(self, machine: Resource, method: str, path: str, headers: Mapping[str, str], _: bytes) -> Told:
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        if headers.get("metadata", "").lower() != "true" or "x-forwarded-for" in headers:
            return 400, {}, {"error": "Bad request. Required metadata header not specified"}
        if "api-version" not in query:
            return 400, {}, {"error": "Bad request. api-version was not specified in the request"}
        at = self._at
        with at.lock:
            at.settle()
            if at.find(machine.id) is not machine:
                return 404, {}, {"error": "Not found"}
            match method, parts.path.rstrip("/"):
                case "GET", found if found == TOKENS:
                    return self._told(machine, query)
                case "GET", "/metadata/instance":
                    return 200, {}, self._instance(machine)
                case "GET", "/metadata/scheduledevents":
                    return 200, {}, self._events(machine)
        return 404, {}, {"error": "Not found"}

    def _told(self, machine: Resource, query: Mapping[str, str]) -> Told:
        if not query.get("resource"):
            return 400, {}, {"error": "invalid_resource", "error_description": "AADSTS500011: The resource is missing."}
        which = {name: query[name] for name in ("client_id", "object_id", "msi_res_id", "mi_res_id") if query.get(name)}
        try:
            return 200, {}, self.token(machine, query["resource"], **which)
        except ArmError as error:
            return error.status, {}, {"error": error.code, "error_description": error.message}

    def _instance(self, machine: Resource) -> Body:
        tags = machine.tags
        compute = {
            "azEnvironment": "AzurePublicCloud", "location": machine.location, "name": machine.name,
            "resourceGroupName": machine.target.group, "resourceId": machine.id, "subscriptionId": self._at.id,
            "vmId": machine.properties["vmId"], "vmSize": machine.properties["hardwareProfile"]["vmSize"],
            "zone": (machine.body.get("zones") or [""])[0], "priority": machine.properties.get("priority", "Regular"),
            "tags": ";".join(f"{name}:{value}" for name, value in tags.items()),
            "tagsList": [{"name": name, "value": value} for name, value in tags.items()],
        }  # fmt: skip
        addresses = [{"privateIpAddress": address, "publicIpAddress": ""} for address in self._addresses(machine)]
        return {"compute": compute, "network": {"interface": [{"ipv4": {"ipAddress": addresses}}]}}

    def _events(self, machine: Resource) -> Body:
        due: datetime | None = machine.hidden.get("eviction")
        if due is None:
            return {"DocumentIncarnation": 1, "Events": []}
        event = {
            "EventId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{machine.id}@{due}")).upper(), "EventStatus": "Scheduled",
            "EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": [machine.name], "EventSource": "Platform",
            "NotBefore": format_datetime(due, usegmt=True), "Description": "", "DurationInSeconds": -1,
        }  # fmt: skip
        return {"DocumentIncarnation": 2, "Events": [event]}

    def _addresses(self, machine: Resource) -> list[str]:
        return [
            str(part["properties"]["privateIPAddress"])
            for nic in nics(self._at, machine)
            for part in nic.properties["ipConfigurations"]
        ]

    def _address(self, machine: Resource) -> str:
        return self._addresses(machine)[0]

    def _close(self, machine: Resource, power: str) -> None:
        if power in ("gone", "deallocated") and (server := self._servers.pop(machine.key, None)) is not None:
            server.close()


def _system(machine: Resource) -> dict[str, str]:
    given = machine.body["identity"]
    client = str(uuid.uuid5(uuid.NAMESPACE_URL, given["principalId"]))
    return {"id": machine.id, "clientId": client, "principalId": given["principalId"]}


def _refused(text: str) -> ArmError:
    return ArmError(400, "invalid_request", text)
