"""What really runs when instances are booted: nothing, unless machines were asked for."""

from collections.abc import Callable

from anyscale_conformance.simulators.boot import Machines
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.server import Answer, Request, Server
from anyscale_conformance.simulators.gcp.world import Project, Resource

SCRIPT = "startup-script"
"""The key of an instance's metadata that holds what it runs."""
Metadata = Callable[[Project, Resource, Request], Answer]


class Power:
    """Runs nothing: instances are rows of a table."""

    def address(self) -> str:
        """Return the address of the next machine; empty when its subnetwork decides."""
        return ""

    def boot(self, project: Project, instance: Resource) -> None:
        """Run an instance's startup script."""

    def cut(self, instance: Resource) -> None:
        """Cut an instance's power."""

    def remove(self, instance: Resource) -> None:
        """Take an instance and its disk away."""

    def console(self, instance: Resource) -> str:  # noqa: ARG002 - nothing runs, nothing is printed
        """Return what an instance has printed."""
        return ""

    def close(self) -> None:
        """End everything that runs."""


class Booting(Power):
    """Runs the startup scripts as processes of this machine, each with an address and a metadata server of its own.

    A script that ends leaves its instance running, as a script of a real machine does. A machine that is started again begins
    with an empty disk.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._machines = Machines()
        self._metadata = metadata
        self._servers: dict[str, Server] = {}

    def address(self) -> str:
        return self._machines.address()

    def boot(self, project: Project, instance: Resource) -> None:
        id, address = instance.body["id"], str(instance.body["networkInterfaces"][0]["networkIP"])
        self.remove(instance)
        server = Server(lambda request: self._metadata(project, instance, request), address=address)
        self._servers[id] = server
        script = _value(instance.body["metadata"], SCRIPT)
        if script:
            places = dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"), server.host)
            self._machines.boot(id, script, address=address, environment=places)

    def cut(self, instance: Resource) -> None:
        self._machines.stop(instance.body["id"])
        self._silence(instance)

    def remove(self, instance: Resource) -> None:
        self._machines.remove(instance.body["id"])
        self._silence(instance)

    def console(self, instance: Resource) -> str:
        return self._machines.console(instance.body["id"])

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self._machines.close()

    def _silence(self, instance: Resource) -> None:
        server = self._servers.pop(instance.body["id"], None)
        if server is not None:
            server.close()


def _value(metadata: Json, key: str) -> str:
    return next((str(item.get("value", "")) for item in metadata.get("items", []) if item["key"] == key), "")
