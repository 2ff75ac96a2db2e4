"""The client of the service: one method per route, TLS verified against the control plane's own authority.

It stands on the standard library alone, since the import of an HTTP client would take longer than most calls do.
"""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import attrs

from anyscale_core.api.problems import ServerError, TooLarge, error_of
from anyscale_core.api.protocol import (
    MAX_BODY,
    AccessView,
    AuditView,
    CloudView,
    ClusterView,
    EventView,
    JobView,
    PlanView,
    Problem,
    ProviderView,
    QuotaView,
)
from anyscale_core.errors import CoreError, SpecError
from anyscale_core.models import wire
from anyscale_core.models.identity import DISCOVERY_PATH, JWKS_PATH
from anyscale_core.models.job import JobSpec
from anyscale_core.models.networking import Check
from anyscale_core.models.order import OperatorToken, OperatorView
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess

T = TypeVar("T")

CONNECTION_FILE = "server.json"
REMEDY = "start it with `anyscale-core serve`"
KEPT = 2.0
"""Seconds for which an idle connection is used again: well below what the server keeps it, so that it is alive."""
REPEATABLE = frozenset({"GET", "DELETE"})


class Unreachable(CoreError):
    """No control plane answers there; the message says how to start one."""


@attrs.frozen(kw_only=True)
class Connection:
    """How to reach the control plane of a home: written by it when it listens, removed when it has stopped."""

    url: str
    pid: int
    token: Secret[str]
    ca_pem: str
    started_at: datetime


def read_connection(home: Path) -> Connection | None:
    """Return how to reach the control plane of a home; None when none is running. Raises SpecError (unreadable)."""
    path = home / CONNECTION_FILE
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    return wire.structure(body, Connection, subject=str(path))


def write_connection(home: Path, connection: Connection) -> None:
    """Write ``home/server.json``, whole or not at all, readable by its owner alone."""
    from anyscale_core.controlplane.keys import write_private  # the server's need; the client must not wait for it

    write_private(home / CONNECTION_FILE, json.dumps(wire.unstructure_revealed(connection)))


def connect(home: Path, *, timeout: timedelta = timedelta(seconds=30)) -> "Client":
    """Return a client of the control plane that runs on a home. Raises Unreachable when none does."""
    connection = read_connection(home)
    if connection is None:
        raise Unreachable(f"no control plane is running on {home}; {REMEDY}")
    return Client(connection.url, connection.token, connection.ca_pem, timeout)


class Client:
    """Threads may share it; ``close`` it at the end.

    Every method raises what the control plane raised (SpecError with all its faults, UnknownName, NameTaken, PluginError,
    Refused, CloudError by category), Unreachable when nobody answers, ServerError for an internal error.
    """

    def __init__(
        self, url: str, token: Secret[str], ca_pem: str, timeout: timedelta = timedelta(seconds=30)
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"the control plane's url must be https://host:port, not {url!r}")
        self.url = url
        self._host, self._port, self._prefix = parts.hostname, parts.port or 443, parts.path.rstrip("/")
        self._token, self._timeout = token, timeout
        # With cadata this trusts that authority alone, and checks the host name.
        self._tls = ssl.create_default_context(cadata=ca_pem)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections; the next call opens another."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    # -- clusters ------------------------------------------------------------------------------------------------------

    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the plane publishes as an OIDC issuer, by the path below its URL."""
        return {path: self._ask("GET", path, dict[str, Any]) for path in (DISCOVERY_PATH, JWKS_PATH)}

    def apply(self, spec: Mapping[str, Any], job: JobSpec | None = None) -> ClusterView:
        """Record a wish. ``spec`` goes as it was written, so that the server names everything that is wrong with it."""
        body = {"spec": spec} | ({} if job is None else {"job": wire.unstructure_revealed(job)})
        return self._ask("POST", "/v1/clusters", ClusterView, body=body)

    def plan(self, spec: Mapping[str, Any]) -> PlanView:
        """Return what applying the spec would make now, and its price."""
        return self._ask("POST", "/v1/plan", PlanView, body=spec)

    def clusters(self) -> tuple[ClusterView, ...]:
        """Return the live clusters, oldest first."""
        return self._ask("GET", "/v1/clusters", tuple[ClusterView, ...])

    def get(self, name: str) -> ClusterView:
        """Return a live cluster, else the last one of that name."""
        return self._ask("GET", f"/v1/clusters/{_quoted(name)}", ClusterView)

    def delete(self, name: str, reason: str = "") -> ClusterView:
        """Record the wish that a cluster ends; its nodes are drained and deleted after the answer."""
        return self._ask("DELETE", f"/v1/clusters/{_quoted(name)}", ClusterView, query={"reason": reason})

    def submit(self, name: str, job: JobSpec) -> JobView:
        """Record a job for a live cluster."""
        return self._ask("POST", f"/v1/clusters/{_quoted(name)}/jobs", JobView, body=wire.unstructure_revealed(job))

    def events(
        self, name: str | None = None, after: int = 0, wait: timedelta = timedelta(0), limit: int = 500
    ) -> tuple[EventView, ...]:
        """Return the events after an id, of one cluster or of all; while there are none, wait for up to ``wait``."""
        path = "/v1/events" if name is None else f"/v1/clusters/{_quoted(name)}/events"
        query = {"after": str(after), "wait_s": str(wait.total_seconds()), "limit": str(limit)}
        return self._ask("GET", path, tuple[EventView, ...], query=query, wait=wait)

    def access(self, name: str) -> AccessView:
        """Return a way in to a cluster's dashboard and Jobs API."""
        return self._ask("POST", f"/v1/clusters/{_quoted(name)}/access", AccessView)

    def logs(self, name: str) -> StoreAccess:
        """Return how to read a cluster's logs and results, also after its end."""
        return self._ask("POST", f"/v1/clusters/{_quoted(name)}/logs", StoreAccess)

    # -- clouds and the service ----------------------------------------------------------------------------------------

    def clouds(self) -> tuple[CloudView, ...]:
        """Return the clouds that clusters can be made in."""
        return self._ask("GET", "/v1/clouds", tuple[CloudView, ...])

    def register_cloud(self, spec: Mapping[str, Any]) -> CloudView:
        """Register a cloud; ``spec`` goes as it was written. Said again with an equal one, nothing changes."""
        return self._ask("POST", "/v1/clouds", CloudView, body=spec)

    def cloud(self, name: str) -> CloudView:
        """Return one cloud with what its clusters share."""
        return self._ask("GET", f"/v1/clouds/{_quoted(name)}", CloudView)

    def set_up_cloud(self, name: str) -> CloudView:
        """Make the next thing that a cloud's clusters share; to be repeated while something is missing."""
        return self._ask("POST", f"/v1/clouds/{_quoted(name)}/setup", CloudView)

    def verify_cloud(self, name: str) -> tuple[Check, ...]:
        """Return what was looked at of a cloud, and how it came out."""
        return self._ask("POST", f"/v1/clouds/{_quoted(name)}/verify", tuple[Check, ...])

    def delete_cloud(self, name: str, *, data: str = "refuse") -> CloudView:
        """Take away the next thing of a cloud; to be repeated until it is not registered any more."""
        return self._ask("DELETE", f"/v1/clouds/{_quoted(name)}", CloudView, query={"data": data})

    def operator_token(self, cloud: str) -> OperatorToken:
        """Mint a registration token for a cloud's operator."""
        return self._ask("POST", f"/v1/clouds/{_quoted(cloud)}/operator", OperatorToken)

    def revoke_operator(self, cloud: str) -> OperatorView:
        """Make all that a cloud's operators were given worthless."""
        return self._ask("DELETE", f"/v1/clouds/{_quoted(cloud)}/operator", OperatorView)

    def uploads(self, cloud: str) -> StoreAccess:
        """Return how to write working directories into a cloud's bucket."""
        return self._ask("POST", f"/v1/clouds/{_quoted(cloud)}/uploads", StoreAccess)

    def quotas(self) -> tuple[QuotaView, ...]:
        """Return the quotas by name, each with its usage and the clusters that it holds back."""
        return self._ask("GET", "/v1/quotas", tuple[QuotaView, ...])

    def set_quota(self, spec: Mapping[str, Any]) -> QuotaView:
        """Make or change a quota; ``spec`` goes as it was written. What runs goes on, also beyond it."""
        return self._ask("POST", "/v1/quotas", QuotaView, body=spec)

    def delete_quota(self, name: str) -> QuotaSpec:
        """Forget a quota and return it; what it held back goes on at once."""
        return self._ask("DELETE", f"/v1/quotas/{_quoted(name)}", QuotaSpec)

    def providers(self) -> tuple[ProviderView, ...]:
        """Return the provider plugins that the service found, sound and broken."""
        return self._ask("GET", "/v1/providers", tuple[ProviderView, ...])

    def audit(self, after: int = 0, limit: int = 500) -> tuple[AuditView, ...]:
        """Return who did what, oldest first: ``limit`` records behind the first ``after``."""
        return self._ask("GET", "/v1/audit", tuple[AuditView, ...], query={"after": str(after), "limit": str(limit)})

    def health(self) -> dict[str, Any]:
        """Return ``{"status": "ok", "version": ...}``; needs no token."""
        return dict(self._value("GET", "/healthz"))

    def metrics(self) -> str:
        """Return the service's metrics in Prometheus' text format."""
        status, answer = self._exchange("GET", "/metrics", None, self._timeout)
        return answer.decode() if status == 200 else str(self._read(status, answer))

    def stop(self) -> None:
        """Ask the service's process to end. Clusters run on; the next one takes them up again."""
        self._value("POST", "/v1/stop")

    # -- the wire ------------------------------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, cls: type[T], *, body: object = None, query: Mapping[str, str] | None = None,
        wait: timedelta = timedelta(0),
    ) -> T:  # fmt: skip
        value = self._value(method, path, body=body, query=query, wait=wait)
        try:
            return wire.structure(value, cls)
        except SpecError as error:
            raise ServerError(f"the answer of {self.url} cannot be read (other version?): {error}") from error

    def _value(
        self, method: str, path: str, *, body: object = None, query: Mapping[str, str] | None = None,
        wait: timedelta = timedelta(0),
    ) -> Any:  # fmt: skip
        given = {key: value for key, value in (query or {}).items() if value}
        target = f"{path}?{urlencode(given)}" if given else path
        data = None if body is None else json.dumps(body).encode()
        if data is not None and len(data) > MAX_BODY:
            raise TooLarge(f"the body is {len(data)} bytes; the service takes {MAX_BODY}")
        status, answer = self._exchange(method, target, data, self._timeout + wait)
        return self._read(status, answer)

    def _read(self, status: int, answer: bytes) -> Any:
        try:
            value = json.loads(answer or b"null")
        except ValueError:
            raise ServerError(f"{self.url} answered {status} with what is not JSON: is it a control plane?") from None
        if 200 <= status < 300:
            return value
        try:
            problem = wire.structure(value, Problem)
        except SpecError:
            raise ServerError(f"{self.url} answered {status}, and does not say why") from None
        raise error_of(problem)

    def _exchange(self, method: str, target: str, data: bytes | None, timeout: timedelta) -> tuple[int, bytes]:
        kept = self._take()
        if kept is not None:
            try:
                return self._send(kept, method, target, data, timeout)
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                # The server closed it meanwhile. What is not known to be harmless twice is not sent twice.
                if method not in REPEATABLE:
                    raise self._unreachable(error) from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
        fresh = http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        try:
            return self._send(fresh, method, target, data, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _send(
        self, connection: http.client.HTTPSConnection, method: str, target: str, data: bytes | None, timeout: timedelta
    ) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._token.reveal()}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        connection.timeout = timeout.total_seconds()
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request(method, f"{self._prefix}{target}", body=data, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append((time.monotonic(), connection))
        return answer.status, body

    def _take(self) -> http.client.HTTPSConnection | None:
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < KEPT:
                    return connection
                connection.close()
        return None

    def _unreachable(self, error: Exception) -> Unreachable:
        where = f"the control plane at {self.url}"
        if isinstance(error, ConnectionRefusedError):
            return Unreachable(f"{where} is not running; {REMEDY}")
        if isinstance(error, TimeoutError):
            return Unreachable(f"{where} did not answer in time; look at its log, or stop it and {REMEDY}")
        if isinstance(error, ssl.SSLCertVerificationError):
            return Unreachable(
                f"what listens at {self.url} is not this control plane: {error.verify_message}; {REMEDY}"
            )
        return Unreachable(f"{where} cannot be reached: {type(error).__name__}: {error}; {REMEDY}")


def _quoted(name: str) -> str:
    return quote(name, safe="")
