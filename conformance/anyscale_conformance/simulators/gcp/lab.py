"""A project to try things in: what tests of the simulator begin with."""

import json
from datetime import timedelta
from typing import Any

from googleapiclient.errors import HttpError

from anyscale_conformance.simulators.gcp.clients import client
from anyscale_conformance.simulators.gcp.simulator import GcpSimulator, ProjectHands
from anyscale_core.testing.clock import ManualClock

MINUTE = timedelta(minutes=1)
ZONE = {"project": "p-1", "zone": "us-central1-a"}
REGION = {"project": "p-1", "region": "us-central1"}


class Lab:
    """A simulator with one project that has a network, whose clock is moved by hand, and its owner's client."""

    def __init__(self) -> None:
        self.simulator = GcpSimulator()
        self.clock = ManualClock()
        self.project: ProjectHands = self.simulator.add_project("p-1", clock=self.clock)
        self.compute = client(self.simulator, "compute", token=self.project.token(lifetime=timedelta(days=9)))
        self.compute.networks().insert(project="p-1", body={"name": "net", "autoCreateSubnetworks": False}).execute()
        self.clock.advance(MINUTE)
        sub = {"name": "sub", "network": "global/networks/net", "ipCidrRange": "10.1.0.0/24"}
        self.compute.subnetworks().insert(**REGION, body=sub).execute()
        self.clock.advance(MINUTE)

    def insert(self, name: str, *, zone: str = "us-central1-a", request_id: str | None = None, **more: Any) -> Any:
        """Insert an instance; return the operation."""
        body = {**order(zone), "name": name, **more}
        extra = {"requestId": request_id} if request_id else {}
        return self.compute.instances().insert(project="p-1", zone=zone, body=body, **extra).execute()

    def get(self, name: str) -> Any:
        """Return an instance of the first zone."""
        return self.compute.instances().get(**ZONE, instance=name).execute()

    def operation(self, operation: Any) -> Any:
        """Return an operation of a zone as it stands now."""
        return self.compute.zoneOperations().get(
            project="p-1", zone=operation["zone"].rpartition("/")[2], operation=operation["name"]
        ).execute()  # fmt: skip


def order(zone: str = "us-central1-a") -> dict[str, Any]:
    """Return the body of an insert but for its name."""
    image = "projects/debian-cloud/global/images/family/debian-12"
    return {
        "machineType": f"zones/{zone}/machineTypes/e2-standard-4",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": image}}],
        "networkInterfaces": [{"subnetwork": "regions/us-central1/subnetworks/sub"}],
    }


def refused(call: Any) -> HttpError:
    """Return the error that a request (or a function) ends with. Raises AssertionError when it is carried out."""
    try:
        answer = call.execute() if hasattr(call, "execute") else call()
    except HttpError as error:
        return error
    raise AssertionError(f"it was carried out: {answer}")


def reason(error: HttpError) -> str:
    """Return the reason of an error's first item."""
    return str(json.loads(error.content)["error"]["errors"][0]["reason"])
