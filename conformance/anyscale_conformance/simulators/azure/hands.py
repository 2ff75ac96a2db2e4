"""What can be done to a subscription behind everybody's back. Machines are named by the last word of their ids."""

import copy
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from anyscale_conformance.simulators.azure import parts
from anyscale_conformance.simulators.azure.authorization import ASSIGNMENTS, DEFINITIONS, LOCKS, built_in
from anyscale_conformance.simulators.azure.blobs import announce, may
from anyscale_conformance.simulators.azure.lifecycle import remove
from anyscale_conformance.simulators.azure.registry import KINDS, known_type
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.wire import parse

if TYPE_CHECKING:
    from anyscale_conformance.simulators.azure.subscription import Subscription

ACCOUNTS = "Microsoft.Storage/storageAccounts"
MACHINES = "Microsoft.Compute/virtualMachines"


class Hands:
    """The hands of one subscription."""

    def __init__(self, at: "Subscription") -> None:
        self._at = at

    def sell_out(self, size: str, zone: str | None = None) -> None:
        """Let there be no more of a size, in a zone or anywhere: machines are accepted, and their allocation fails later."""
        with self._settled():
            self._at.sold_out.add((size.lower(), zone or ""))

    def restrict(self, size: str, zone: str | None = None) -> None:
        """Let the subscription not have a size, in a zone or anywhere: refused at once, and told by the list of sizes."""
        with self._settled():
            self._at.restricted.add((size.lower(), zone or ""))

    def restock(self) -> None:
        """Let everything be to be had again."""
        with self._settled():
            self._at.sold_out.clear()
            self._at.restricted.clear()

    def limit(self, name: str, value: int, *, location: str = "") -> None:
        """Set a limit: ``cores``, a family's name, ``lowPriorityCores``, ``virtualMachines``, ``PublicIPAddresses``."""
        with self._settled():
            self._at.limits[f"{name}@{location}" if location else name] = value

    def kill(self, name: str) -> None:
        """Let a machine be gone now, and what goes along with it a little later."""
        with self._settled():
            remove(self._at, self._at.named(name))

    def stop(self, name: str) -> None:
        """Let a machine be shut down, by somebody in it: it is there, its cores are in use, and it does not run."""
        with self._settled():
            parts.power(self._at, self._at.named(name), "stopped")

    def deallocate(self, name: str) -> None:
        """Let a machine be deallocated, as an eviction or the portal does."""
        with self._settled():
            parts.power(self._at, self._at.named(name), "deallocated")

    def announce(self, name: str, notice: timedelta = timedelta(seconds=30)) -> None:
        """Announce that a Spot machine is to be evicted (``/metadata/scheduledevents``), and evict it after ``notice``."""
        with self._settled():
            parts.announce(self._at, self._at.named(name), notice)

    def lock(self, id: str) -> None:
        """Have Azure refuse to delete something (a lock CanNotDelete)."""
        with self._settled():
            properties = {"level": "CanNotDelete"}
            self._at.make(f"{self._found(id).id}/providers/{LOCKS}/hand", LOCKS, {"properties": properties})

    def unlock(self, id: str) -> None:
        """Let it be deleted again."""
        with self._settled():
            self._at.drop(self._found(f"{id}/providers/{LOCKS}/hand"))

    def enforce_roles(self) -> None:
        """Let nobody but ``owner`` do what no role assignment allows: until then every principal of the tenant may."""
        self._at.is_enforced = True

    def assign(self, principal: str, role: str, scope: str, condition: str = "") -> Resource:
        """Give a principal a role (its name or its id) at a scope (a whole id)."""
        with self._settled():
            roles = (*built_in(self._at), *self._at.all(DEFINITIONS))
            found = next(one for one in roles if role in (one.properties["roleName"], one.name))
            properties = {"roleDefinitionId": found.id, "principalId": principal, "scope": scope,
                          "principalType": "ServicePrincipal"}  # fmt: skip
            if condition:
                properties |= {"condition": condition, "conditionVersion": "2.0"}
            id = f"{scope}/providers/{ASSIGNMENTS}/{uuid.uuid4()}"
            return self._at.make(id, ASSIGNMENTS, {"properties": properties})

    def fill(self, subnet: str) -> None:
        """Let a subnet (by id) have no free address for another interface."""
        with self._settled():
            self._found(subnet).hidden["full"] = True

    def double(self, name: str) -> Resource:
        """Let a second machine with the same body, tags and disk stand there under the name with ``-twin``; return it."""
        with self._settled():
            return self._copied(self._at.named(name), f"{name}-twin")

    def put(self, path: str, body: dict[str, object], *, state: str = "Succeeded") -> Resource:
        """Let a resource be there that no rule has looked at (somebody else's). ``path`` begins after the subscription."""
        with self._settled():
            id = f"{self._at.path}{path}"
            made = self._at.make(id, known_type(parse(id)), copy.deepcopy(body))
            made.state = state
            return made

    def storage_account(self, group: str, name: str = "") -> Resource:
        """Let a storage account be there, known to Azurite, in a group; its name is a new one unless it is given."""
        with self._settled():
            at = self._at
            id = f"{at.group(group).id}/providers/{ACCOUNTS}/{name or f'sim{uuid.uuid4().hex[:20]}'}"
            made = at.make(id, ACCOUNTS, {"location": at.home, "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"})
            KINDS[ACCOUNTS.lower()].put(at, made, None)
            announce(at, made)
            return made

    def may_blob(self, principal: str, account: str, container: str, path: str, action: str) -> bool:
        """Tell whether Azure would let a principal ``read``, ``write``, ``delete`` or ``list`` at a path of a container."""
        with self._settled():
            return may(self._at, principal, account, container, path, action)

    def serve_cluster(self, name: str, *, kubeconfig: str, keys: Mapping[str, Any]) -> str:
        """Let a real API server stand behind an AKS cluster: its kubeconfig, and the public keys (a JWK set) of its tokens.

        Returns the issuer that the cluster has in Azure, which the server has to sign its tokens as.
        """
        with self._settled():
            cluster = self._at.named(name, "Microsoft.ContainerService/managedClusters")
            cluster.hidden["kubeconfig"] = kubeconfig
            issuer = str(cluster.properties["oidcIssuerProfile"]["issuerURL"])
            self._at.directory.trust(issuer, keys)
            return issuer

    def metadata_url(self, name: str) -> str:
        """Return where a machine's metadata service answers (``AZURE_POD_IDENTITY_AUTHORITY_HOST`` of azure-identity)."""
        with self._settled():
            return self._at.metadata.url(self._at.named(name))

    def machine_token(self, id: str, resource: str, *, client_id: str = "") -> str:
        """Return the token that a machine (by id) gets of its metadata service: of its own identity, or of a client id's."""
        with self._settled():
            which = {"client_id": client_id} if client_id else {}
            return str(self._at.metadata.token(self._found(id), resource, **which)["access_token"])

    def _copied(self, first: Resource, name: str) -> Resource:
        at = self._at
        body = copy.deepcopy(first.body)
        body["properties"]["networkProfile"] = {"networkInterfaces": []}
        twin = at.make(first.id.rpartition("/")[0] + f"/{name}", first.type, body, hidden=copy.deepcopy(first.hidden))
        disk = {"createOption": "FromImage", "deleteOption": "Delete"}
        twin.properties["storageProfile"] = {**body["properties"]["storageProfile"], "osDisk": disk, "dataDisks": []}
        parts.make(at, twin)
        for number, nic in enumerate(parts.nics(at, first)):
            other = at.make(f"{nic.id}-twin", nic.type, copy.deepcopy(nic.body))
            for part in other.properties["ipConfigurations"]:
                part["id"] = f"{other.id}/ipConfigurations/{part['name']}"
                part["properties"].pop("privateIPAddress", None)
                part["properties"].pop("publicIPAddress", None)
            parts.interface_made(at, other)
            twin.properties["networkProfile"]["networkInterfaces"].append(
                {"id": other.id, "properties": {"primary": number == 0, "deleteOption": "Delete"}}
            )
        return twin

    def _found(self, id: str) -> Resource:
        found = self._at.find(id)
        if found is None:
            raise KeyError(f"nothing is at {id}")
        return found

    @contextmanager
    def _settled(self) -> Iterator[None]:
        with self._at.lock:
            self._at.settle()
            yield
