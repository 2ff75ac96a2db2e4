"""JSON over HTTPS to the control plane, as nodes and operators speak it: TLS always verified, connections kept.

The standard library alone: the import of an HTTP client would delay Ray's start, and fill an operator's memory.
"""

import http.client
import json
import random
import ssl
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anyscale_core.errors import CoreError, Refused, SpecError
from anyscale_core.models import wire
from anyscale_core.models.secret import Secret

T = TypeVar("T")

ANSWER = timedelta(seconds=10)
"""How long an answer may take beyond the time that the control plane was allowed to hold it."""
REFUSALS = (401, 403)
FIRST_RETRY, LAST_RETRY = 0.1, 5.0
"""Seconds between two tries while the control plane is away: doubled from one to the other, with jitter."""


class Away(CoreError):
    """The control plane did not answer, or not sensibly. Go on as you are, and try again."""


class Backoff:
    """Growing pauses with jitter, so that a thousand of us do not come back in the same moment."""

    def __init__(self) -> None:
        self._next = FIRST_RETRY

    def pause(self) -> float:
        """Return seconds to wait now."""
        pause = self._next * random.uniform(0.5, 1.0)
        self._next = min(self._next * 2, LAST_RETRY)
        return pause

    def reset(self) -> None:
        self._next = FIRST_RETRY


class JsonLink:
    """One connection to the control plane, for one thread at a time. Opened when needed, opened again when it breaks.

    ``url``: ``https://host:port``; ``ca_pem``: the one authority that is trusted. Raises ValueError for another URL.
    """

    def __init__(self, url: str, ca_pem: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"the control plane's url must be https://host:port, not {url!r}")
        self._host, self._port = parts.hostname, parts.port or 443
        self._prefix = parts.path.rstrip("/")
        # With cadata this trusts that authority alone, and checks the host name.
        self._tls = ssl.create_default_context(cadata=ca_pem)
        self._connection: http.client.HTTPSConnection | None = None

    def close(self) -> None:
        """Drop the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def post(self, path: str, body: object, cls: type[T], *, credential: Secret[str] | None, wait: timedelta) -> T:
        """Post a value and return the answer, which may be held for ``wait``. Raises Refused for 401 and 403, else Away."""
        data = json.dumps(wire.unstructure_revealed(body)).encode()
        headers = {"Content-Type": "application/json"}
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential.reveal()}"
        kept = self._connection is not None
        timeout = (wait + ANSWER).total_seconds()
        try:
            status, answer = self._exchange(path, data, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            # The other side may have closed a kept connection while it was quiet; every route may be repeated.
            if not kept or isinstance(error, TimeoutError):
                raise self._away(error) from error
            status, answer = self._again(path, data, headers, timeout)
        return self._read(status, answer, cls)

    def _again(self, path: str, data: bytes, headers: dict[str, str], timeout: float) -> tuple[int, bytes]:
        try:
            return self._exchange(path, data, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> Away:
        return Away(f"{self._host}:{self._port}: {type(error).__name__}: {error}")

    def _exchange(self, path: str, data: bytes, headers: dict[str, str], timeout: float) -> tuple[int, bytes]:
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=timeout)
        self._connection = None
        try:
            connection.timeout = timeout
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request("POST", f"{self._prefix}{path}", body=data, headers=headers)
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
