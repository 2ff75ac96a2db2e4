"""Between ARM and Azurite: which accounts there are, and which containers are really in them."""

import threading
from collections.abc import Callable
from xml.etree import ElementTree

import requests

from anyscale_conformance.simulators.azure import conditions
from anyscale_conformance.simulators.azure.azurite import Azurite
from anyscale_conformance.simulators.azure.store import Resource
from anyscale_conformance.simulators.azure.subscription import Subscription
from anyscale_conformance.simulators.azure.tls import Tls
from anyscale_conformance.simulators.azure.tokens import STORAGE

CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
VERSION = "2025-05-05"


class Blobs:
    """The blob services of all subscriptions: one Azurite, started when it is first needed."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._azurite: Azurite | None = None
        self._owners: dict[str, str] = {}
        """Which subscription has an account of a name: names are one in all of Azure."""
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.verify = str(tls.ca)
        self._session.trust_env = False  # a CA bundle in the environment would go before the one above

    @property
    def service(self) -> Azurite:
        """Azurite, running."""
        with self._lock:
            if self._azurite is None:
                self._azurite = Azurite(self._tls)
            return self._azurite

    def is_free(self, at: Subscription, name: str) -> bool:
        """Tell whether nobody has an account of a name."""
        return name not in self._owners

    def owner(self, name: str) -> str | None:
        """Return the subscription of an account; None when there is no such account."""
        return self._owners.get(name)

    def own(self, at: Subscription, name: str) -> None:
        """Keep a name for a subscription."""
        self._owners[name] = at.id

    def release(self, name: str) -> None:
        """Let a name be had again."""
        self._owners.pop(name, None)

    def endpoints(self, name: str) -> dict[str, str]:
        """Return where the services of an account are."""
        return {"blob": f"{self.service.url}/{name}/", "dfs": f"{self.service.url}/{name}/"}

    def call(self, at: Subscription, method: str, path: str, headers: dict[str, str] | None = None) -> bytes:
        """Ask Azurite as the subscription's owner. Raises requests.HTTPError for what it refuses."""
        who = at.owner
        token = self._tokens.get(at.id) or at.directory.token(
            client=who.client_id, principal=who.principal, audience=STORAGE
        )
        self._tokens[at.id] = token  # good for a day of this machine's time, and dear to sign
        answer = self._session.request(
            method, f"{self.service.url}/{path}", timeout=30,
            headers={"Authorization": f"Bearer {token}", "x-ms-version": VERSION, **(headers or {})},
        )  # fmt: skip
        answer.raise_for_status()
        return answer.content

    def close(self) -> None:
        """End Azurite, where it runs."""
        self._session.close()
        if self._azurite is not None:
            self._azurite.close()


def announce(at: Subscription, account: Resource) -> None:
    """Tell Azurite of an account, or of its new key."""
    at.blobs.own(at, account.name)
    at.blobs.service.account(account.name, account.hidden["keys"]["key1"])


def empty(at: Subscription, account: Resource) -> None:
    """Let go of an account that is gone, with all that is in it."""
    refresh(at, account)
    for container in at.all(CONTAINERS, below=f"{account.id}/"):
        drop_container(at, account, container.name)
    at.blobs.release(account.name)


def make_container(at: Subscription, account: Resource, container: Resource) -> None:
    """Make a container in Azurite; one that is there stays as it is."""
    access = {"Blob": "blob", "Container": "container"}.get(str(container.properties.get("publicAccess")))
    headers = {f"x-ms-meta-{name}": value for name, value in (container.properties.get("metadata") or {}).items()}
    if access:
        headers["x-ms-blob-public-access"] = access
    _quietly(409, lambda: at.blobs.call(at, "PUT", f"{account.name}/{container.name}?restype=container", headers))


def drop_container(at: Subscription, account: Resource, name: str) -> None:
    """Delete a container in Azurite. Nothing happens when there is none."""
    _quietly(404, lambda: at.blobs.call(at, "DELETE", f"{account.name}/{name}?restype=container"))


def refresh(at: Subscription, account: Resource) -> None:
    """Let ARM know of the containers that were made and deleted on the data plane."""
    if account.state == "Creating":
        return
    found = at.blobs.call(at, "GET", f"{account.name}?comp=list&include=metadata")
    there: dict[str, dict[str, str]] = {}
    for one in ElementTree.fromstring(found).iter("Container"):
        metadata = {item.tag: item.text or "" for item in one.iterfind("Metadata/*")}
        there[str(one.findtext("Name"))] = metadata
    known = {container.name: container for container in at.all(CONTAINERS, below=f"{account.id}/")}
    for name, container in known.items():
        if name not in there:
            at.drop(container)
    for name, metadata in there.items():
        if name not in known:
            properties = {"publicAccess": "None", "leaseState": "Available", "metadata": metadata}
            at.make(f"{account.id}/blobServices/default/containers/{name}", CONTAINERS, {"properties": properties})


def may(at: Subscription, principal: str, account: str, container: str, path: str, action: str) -> bool:
    """Tell whether Azure would let a principal read, write, delete or list (``action``) a blob, by its roles and conditions."""
    from anyscale_conformance.simulators.azure.rights import data_assignments

    verb = "read" if action == "list" else action
    scope = f"{at.named(account, 'Microsoft.Storage/storageAccounts').id}/blobServices/default/containers/{container}"
    wanted = f"{CONTAINERS}/blobs/{verb}"
    suboperation, attribute = ("Blob.List", conditions.PREFIX) if action == "list" else ("", conditions.PATH)
    attributes = {attribute: path, conditions.NAME: container}
    asked = conditions.Asked(action=wanted, suboperation=suboperation, attributes=attributes)
    return any(
        not condition or conditions.parse(condition)(asked)
        for condition in data_assignments(at, principal, wanted, scope)
    )


def _quietly(status: int, act: Callable[[], bytes]) -> None:
    """Do what may have been done before: a refusal with ``status`` says so."""
    try:
        act()
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != status:
            raise
