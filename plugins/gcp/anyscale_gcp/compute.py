"""Four verbs on what Compute Engine keeps in a project, for things whose descriptions say whose they are."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.errors import NotFound
from anyscale_core.models.instance import Deletion
from anyscale_gcp import operations
from anyscale_gcp.client import Client

PAGE = 500
PARAMETERS: Mapping[str, str] = {
    "addresses": "address", "firewalls": "firewall", "forwardingRules": "forwardingRule", "healthChecks": "healthCheck",
    "networks": "network", "regionBackendServices": "backendService", "routers": "router", "subnetworks": "subnetwork",
}  # fmt: skip
"""How the API calls the name of a collection's thing."""


@attrs.frozen(kw_only=True)
class Compute:
    """One project of Compute Engine. ``where``: the region or zone of what is not global."""

    client: Client
    project: str

    def insert(
        self, kind: str, body: Mapping[str, Any], *, about: str, deadline: datetime, **where: str
    ) -> Mapping[str, Any]:
        """Begin to make a thing; return the operation. ``requestId`` may be among ``where``. Raises AlreadyExists."""
        return self.client.call(
            f"compute.{kind}.insert", project=self.project, body=body, about=about, deadline=deadline, **where
        )

    def find(self, kind: str, name: str, *, deadline: datetime, about: str = "", **where: str) -> dict[str, Any] | None:
        """Return a thing; None when there is none."""
        named = {PARAMETERS[kind]: name}
        try:
            return self.client.call(
                f"compute.{kind}.get", project=self.project, about=about, deadline=deadline, **named, **where
            )
        except NotFound:
            return None

    def every(self, kind: str, *, deadline: datetime, **where: str) -> Iterator[dict[str, Any]]:
        """Yield every thing of a collection, each once."""
        seen: set[str] = set()
        pages = self.client.pages(
            f"compute.{kind}.list", project=self.project, maxResults=PAGE, deadline=deadline, **where
        )
        for page in pages:
            for item in page.get("items", ()):
                if str(item["name"]) not in seen:
                    seen.add(str(item["name"]))
                    yield item

    def delete(self, kind: str, name: str, *, about: str, deadline: datetime, **where: str) -> Deletion:
        """Begin to delete a thing. Raises Conflict while something uses it or it is still being made."""
        named = {PARAMETERS[kind]: name}
        try:
            operation = self.client.call(
                f"compute.{kind}.delete", project=self.project, about=about, deadline=deadline, **named, **where
            )
        except NotFound:
            return Deletion.ALREADY_ABSENT
        return Deletion.GONE if operations.done(operation, resource=about) else Deletion.GOING
