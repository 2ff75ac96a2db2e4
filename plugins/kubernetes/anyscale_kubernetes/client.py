"""The way to an API server: the kubernetes client's configuration, credentials and transport, with raw JSON on top.

No typed models: they cost 80 MB and refuse fields that are newer than they are. Nothing is repeated here, the transport's own
retries are off, and every request may take as long as its call has left. The SDK is imported when the first request is sent.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from anyscale_core.clock import Clock
from anyscale_core.errors import Conflict, NotFound, Transient
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.errors import check_deadline, read_refusal, translate, translated
from anyscale_kubernetes.kinds import Kind

T = TypeVar("T")
R = TypeVar("R")

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Where a Pod finds its own credentials; there is one only inside a cluster."""

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
FEW = 8
"""So many requests are sent one after another; more go over several connections."""


class Connection:
    """A configured transport to one API server. Threads may share it."""

    def __init__(self, configuration: Any) -> None:
        from kubernetes.client.rest import RESTClientObject

        configuration.retries = False  # the core counts attempts on the wire
        self.configuration = configuration
        self.rest = RESTClientObject(configuration)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> "Connection":
        """Return the connection that the settings describe: a kubeconfig, else this Pod's own account, else the default one."""
        from kubernetes import config
        from kubernetes.client import Configuration

        configuration = Configuration()
        if not settings.kubeconfig and TOKEN_FILE.exists():
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                config_file=settings.kubeconfig or None, context=settings.context or None,
                client_configuration=configuration, persist_config=False,
            )  # fmt: skip
        configuration.connection_pool_maxsize = settings.connections
        return cls(configuration)

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: Any = None,
        timeout: float | tuple[float, float],
    ) -> Any:  # fmt: skip
        """Send one request and return the answer, unread. Raises whatever the transport raises."""
        with self._lock:  # an expired token is renewed by one thread
            credentials = self.configuration.auth_settings()
        auth = {entry["key"]: entry["value"] for entry in credentials.values() if entry["value"]}
        return self.rest.request(
            method, f"{self.configuration.host}{url}", headers={**headers, **auth}, body=body, _request_timeout=timeout
        )

    def close(self) -> None:
        """Give the connections back."""
        self.rest.close()


def transport_errors() -> tuple[
    tuple[type[BaseException], ...], tuple[type[BaseException], ...], tuple[type[BaseException], ...],
    tuple[type[BaseException], ...],
]:  # fmt: skip
    """Return the transport's errors: never sent, not answered in time, broken off, and no credentials to send with."""
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config import ConfigException
    from urllib3 import exceptions as wire

    unsent = (wire.NewConnectionError, wire.ConnectTimeoutError, wire.ProxyError)
    broken = (wire.HTTPError, ApiException, OSError)
    return unsent, (wire.TimeoutError, TimeoutError), broken, (ConfigException,)


class Api:
    """Requests to an API server as plain JSON, in the namespace of the settings. Raises CloudError and nothing else."""

    def __init__(self, settings: Settings, clock: Clock, connection: Connection | None = None) -> None:
        self.namespace = settings.namespace
        self.clock = clock
        self._settings = settings
        self._connection = connection
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def get(self, kind: Kind, name: str, *, deadline: datetime, namespace: str = "") -> dict[str, Any]:
        """Return one object. Raises NotFound."""
        return self.request("GET", kind.path(namespace or self.namespace, name), deadline=deadline, resource=name)

    def list(self, kind: Kind, *, selector: str = "", deadline: datetime) -> "list[dict[str, Any]]":
        """Return all objects that a label selector fits, page by page. Raises rather than return a part."""
        return [item for page in self.pages(kind, selector=selector, deadline=deadline) for item in page["items"]]

    def pages(self, kind: Kind, *, selector: str = "", deadline: datetime) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list. Raises Transient for a page that names one that was read before as the next."""
        query = {"limit": str(self._settings.page_size)} | ({"labelSelector": selector} if selector else {})
        seen: set[str] = set()
        while True:
            page = self.request("GET", kind.path(self.namespace), query=query, deadline=deadline)
            if not isinstance(page.get("items"), list):
                page["items"] = []
            yield page
            following = page.get("metadata", {}).get("continue") or ""
            if not following:
                return
            if following in seen:
                raise Transient(f"the list of {kind.plural} names a page again as the next one", reason="SERVER")
            seen.add(following)
            query = query | {"continue": following}

    def apply(
        self, kind: Kind, body: Mapping[str, Any], *, manager: str, deadline: datetime, force: bool = False,
        namespace: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Apply an object server-side and return it. Raises Conflict(ETAG) where another manager has a field, unless forced."""
        name = body["metadata"]["name"]
        query = {"fieldManager": manager, "fieldValidation": "Strict"} | ({"force": "true"} if force else {})
        path = kind.path(namespace or self.namespace, name)
        return self.request(
            "PATCH", path, query=query, body=kind.head() | dict(body), content=APPLY, deadline=deadline, resource=name
        )

    def merge(self, kind: Kind, name: str, patch: Mapping[str, Any], *, deadline: datetime) -> dict[str, Any]:
        """Merge a patch into an object and return it; with a resourceVersion in it, Conflict(ETAG) when that is not the last."""
        path = kind.path(self.namespace, name)
        return self.request("PATCH", path, body=dict(patch), content=MERGE, deadline=deadline, resource=name)

    def delete(
        self, kind: Kind, name: str, *, uid: str, deadline: datetime, policy: str = "Background"
    ) -> dict[str, Any]:
        """Begin to delete an object. Raises NotFound, and Conflict when there is another one of that name by now."""
        options = {
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, "propagationPolicy": policy,
        }  # fmt: skip
        path = kind.path(self.namespace, name)
        return self.request("DELETE", path, body=options, deadline=deadline, resource=name)

    def delete_if_there(
        self, kind: Kind, body: Mapping[str, Any], *, deadline: datetime, policy: str = "Background"
    ) -> bool:
        """Begin to delete this very object; return whether it is gone by now, or was gone before.

        ``policy``: with ``Foreground`` it stays until all that belongs to it is gone.
        """
        name, uid = body["metadata"]["name"], body["metadata"]["uid"]
        try:
            answer = self.delete(kind, name, uid=uid, deadline=deadline, policy=policy)
        except NotFound as error:
            if error.reason != "RESOURCE":
                raise
            return True
        except Conflict as error:
            if error.reason != "ETAG":
                raise
            return True  # another one has the name by now
        return not answer.get("metadata", {}).get("deletionTimestamp")

    def request(
        self, method: str, path: str, *, deadline: datetime, query: Mapping[str, str] | None = None, body: Any = None,
        content: str = JSON, accept: str = JSON, resource: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Send one request and return the answer's JSON object. Raises CloudError for every answer that is no success."""
        left = check_deadline(deadline, self.clock)
        url = f"{path}?{urlencode(query)}" if query else path
        headers = {"Accept": accept, "User-Agent": "anyscale-core"} | ({"Content-Type": content} if body else {})
        is_write = method != "GET"
        with translated(resource=resource, is_write=is_write):
            answer = self.connection().send(method, url, headers=headers, body=body, timeout=left)
            data: bytes = answer.read()
        if not 200 <= answer.status < 300:
            refusal = read_refusal(answer.status, data, _lower(answer.headers))
            raise translate(refusal, clock=self.clock, resource=resource, is_write=is_write)
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Transient(f"the answer to {method} {path} is no JSON object", reason="SERVER", resource=resource)
        return found

    def watch(self, kind: Kind, *, selector: str, version: str, seconds: int) -> Iterator[dict[str, Any]]:
        """Yield the events of a watch from a resourceVersion on, until the server ends it. Raises CloudError."""
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version,
            "timeoutSeconds": str(seconds), "labelSelector": selector,
        }  # fmt: skip
        url = f"{kind.path(self.namespace)}?{urlencode(query)}"
        # The server ends the watch; a connection that is silent for longer than that is dead.
        with translated(is_write=False):
            answer = self.connection().send("GET", url, headers={"Accept": JSON}, timeout=(10.0, seconds + 15.0))
            if answer.status != 200:
                refusal = read_refusal(answer.status, answer.read(), _lower(answer.headers))
                raise translate(refusal, clock=self.clock, is_write=False)
            try:
                yield from _lines(answer.response)
            finally:
                answer.response.close()

    def map(self, act: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield ``act(item)`` in order: one after another for a few, over several connections for many."""
        if len(items) <= FEW:
            return map(act, items)
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._settings.connections, thread_name_prefix="kubernetes")
        return self._pool.map(act, items)

    def connection(self) -> Connection:
        """Return the connection, made at the first use."""
        with self._lock:
            if self._connection is None:
                self._connection = Connection.of(self._settings)
            return self._connection

    def close(self) -> None:
        """Give the connections and threads back; twice is harmless."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None
            if self._connection is not None:
                self._connection.close()


def _lines(response: Any) -> Iterator[dict[str, Any]]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield json.loads(line)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}
