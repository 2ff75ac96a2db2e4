"""The wire to the control plane: three routes, TLS always verified, connections kept. The standard library alone, since the
import of an HTTP client would delay Ray's start."""

import http.client
import json
import ssl
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anyscale_core.errors import CoreError, Refused, SpecError
from anyscale_core.models import wire
from anyscale_core.models.instance import Bootstrap
from anyscale_core.models.node import CertificateRequest, Heartbeat, NodeCertificate, Orders, Registered, Registration
from anyscale_core.models.secret import Secret

T = TypeVar("T")

ANSWER = timedelta(seconds=10)
"""How long an answer may take beyond the time that the control plane was allowed to hold it."""
REFUSALS = (401, 403)


class Away(CoreError):
    """The control plane did not answer, or not sensibly. Ray keeps running; try again."""


class Link:
    """One connection to the control plane, for one thread at a time. Opened when needed, opened again when it breaks."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        parts = urlsplit(bootstrap.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"the control plane's url must be https://host:port, not {bootstrap.url!r}")
        self._host, self._port = parts.hostname, parts.port or 443
        self._prefix = parts.path.rstrip("/")
        # With cadata this trusts that authority alone, and checks the host name.
        self._tls = ssl.create_default_context(cadata=bootstrap.ca_pem)
        self._connection: http.client.HTTPSConnection | None = None

    def register(self, registration: Registration) -> Registered:
        """Register. Raises Refused for 401 and 403, Away for anything else that is not an answer."""
        return self._post("register", registration, Registered, credential=None, wait=timedelta())

    def heartbeat(self, beat: Heartbeat, *, credential: Secret[str]) -> Orders:
        """Send one heartbeat and return the orders. Raises Refused and Away."""
        return self._post("heartbeat", beat, Orders, credential=credential, wait=beat.wait)

    def certify(self, request: CertificateRequest, *, credential: Secret[str]) -> NodeCertificate:
        """Have a certificate for Ray signed. Raises Refused and Away."""
        return self._post("certify", request, NodeCertificate, credential=credential, wait=timedelta())

    def close(self) -> None:
        """Drop the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, route: str, body: object, cls: type[T], *, credential: Secret[str] | None, wait: timedelta) -> T:
        data = json.dumps(wire.unstructure_revealed(body)).encode()
        headers = {"Content-Type": "application/json"}
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.reveal()}"
        kept = self._connection is not None
        timeout = (wait + ANSWER).total_seconds()
        try:
            status, answer = self._exchange(route, data, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            # The other side may have closed a kept connection while it was quiet; both routes may be repeated.
            if not kept or isinstance(error, TimeoutError):
                raise self._away(error) from error
            status, answer = self._again(route, data, headers, timeout)
        return self._read(status, answer, cls)

    def _again(self, route: str, data: bytes, headers: dict[str, str], timeout: float) -> tuple[int, bytes]:
        try:
            return self._exchange(route, data, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> Away:
        return Away(f"{self._host}:{self._port}: {type(error).__name__}: {error}")

    def _exchange(self, route: str, data: bytes, headers: dict[str, str], timeout: float) -> tuple[int, bytes]:
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=timeout)
        self._connection = None
        try:
            connection.timeout = timeout
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request("POST", f"{self._prefix}/v1/nodes/{route}", body=data, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return answer.status, body

    def _read(self, status: int, body: bytes, cls: type[T]) -> T:
        try:
            value: Any = json.loads(body or b"null")
        except ValueError:
            value = None
        if status in REFUSALS:
            problem = value if isinstance(value, dict) else {}
            detail = problem.get("detail") or problem.get("title") or f"HTTP {status}"
            raise Refused(
                str(problem.get("why") or problem.get("type") or status), f"the control plane refused: {detail}"
            )
        if not 200 <= status < 300:
            detail = value.get("detail", "") if isinstance(value, dict) else ""
            raise Away(f"{self._host}:{self._port} answered {status} {detail}".rstrip())
        try:
            return wire.structure(value, cls)
        except SpecError as error:
            raise Away(f"the control plane's answer cannot be read (other version?): {error}") from error
