"""Somebody who speaks to a simulated API server in plain HTTP, beside the SDK."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import attrs
import urllib3
from anyscale_conformance.simulators.kubernetes import Cluster

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"


@attrs.frozen(kw_only=True)
class Reply:
    """What came back."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """The names in a list."""
        return [item["metadata"]["name"] for item in self.body["items"]]

    @property
    def message(self) -> str:
        """What a refusal says."""
        return str(self.body["message"])

    @property
    def causes(self) -> list[str]:
        """What a refusal names: the fields."""
        return [cause["field"] for cause in self.body["details"]["causes"]]


class Wire:
    """Requests of one user to one cluster; an empty token sends none."""

    def __init__(self, cluster: Cluster, token: str | None = None) -> None:
        self.cluster = cluster
        self._token = cluster.admin_token if token is None else token
        self._pool = urllib3.PoolManager(ca_certs=str(cluster.ca_file), retries=False)

    def as_user(self, token: str) -> "Wire":
        """Return the same wire for somebody else."""
        return Wire(self.cluster, token)

    def send(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json", accept: str = "application/json",
        **query: Any,
    ) -> Reply:  # fmt: skip
        """Send a request and return its answer, whatever it is."""
        headers = {"content-type": content, "accept": accept, "user-agent": "test/1"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        reply = self._pool.request(method, f"{self.cluster.url}{path}{_query(query)}", body=raw, headers=headers)
        is_json = "json" in reply.headers["content-type"]
        return Reply(status=reply.status, body=reply.json() if is_json else reply.data.decode(), headers=reply.headers)

    def get(self, path: str, **query: Any) -> Reply:
        """GET."""
        return self.send("GET", path, **query)

    def post(self, path: str, body: Any, **query: Any) -> Reply:
        """POST."""
        return self.send("POST", path, body, **query)

    def delete(self, path: str, body: Any = None, **query: Any) -> Reply:
        """DELETE."""
        return self.send("DELETE", path, body, **query)

    def apply(self, path: str, body: Any, *, manager: str = "me", **query: Any) -> Reply:
        """Apply a configuration."""
        return self.send("PATCH", path, body, content=APPLY, fieldManager=manager, **query)

    def patch(self, path: str, body: Any, content: str = MERGE, **query: Any) -> Reply:
        """PATCH."""
        return self.send("PATCH", path, body, content=content, **query)

    def watch(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield the events of a watch; it ends when the server ends it."""
        stream = self._pool.request(
            "GET", f"{self.cluster.url}{path}{_query({'watch': 'true', **query})}", preload_content=False, timeout=20,
            headers={"authorization": f"Bearer {self._token}"},
        )  # fmt: skip
        rest = b""
        for chunk in stream.stream(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line)


def _query(query: Mapping[str, Any]) -> str:
    return f"?{urlencode(query)}" if query else ""


def a_pod(name: str, **spec: Any) -> dict[str, Any]:
    """Return a small Pod; its labels are ``app=x`` and ``name``."""
    container = {"name": "main", "image": "example.invalid/i:1", "command": ["sleep", "60"]}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "x", "name": name}},
        "spec": {"containers": [container], **spec},
    }  # fmt: skip


def a_config(name: str, **data: str) -> dict[str, Any]:
    """Return a ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
