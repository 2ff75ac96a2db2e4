"""Real HTTP on this machine: requests in, answers out, connections kept alive."""

import threading
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs

BACKLOG = 512
"""Connections that may wait: with the standard library's 5, fifty clients that start at once wait for seconds."""

IDLE_S = 0.05
"""How often what happens by itself is looked after, and the longest that a close waits."""


@attrs.frozen(kw_only=True)
class Request:
    """A request as it came: ``path`` is percent-encoded, header names are small."""

    http: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)
    target: str
    """The path with its query, as it was sent."""


@attrs.frozen(kw_only=True)
class Answer:
    """An answer to be sent. A HEAD's body is counted and not sent."""

    status: int = 200
    body: bytes = attrs.field(default=b"", repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict)


class Server:
    """Serves one function at one address. ``idle`` is called many times a second."""

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        *,
        address: str = "127.0.0.1",
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._http = _Http((address, 0), answer, idle)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(IDLE_S,), name="gcp-simulator", daemon=True
        )
        self._thread.start()

    @property
    def host(self) -> str:
        """Return where it listens: address and port."""
        address, port = self._http.server_address[:2]
        return f"{address!s}:{port}"

    @property
    def faults(self) -> list[str]:
        """Return the tracebacks of what went wrong in answering; always to be empty."""
        return self._http.faults

    def close(self) -> None:
        """Stop listening; connections that are open end with their clients."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    request_queue_size = BACKLOG
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Answer], idle: Callable[[], None]) -> None:
        self.answer, self._idle = answer, idle
        self.faults: list[str] = []
        super().__init__(address, _Connection)

    def service_actions(self) -> None:
        self._idle()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave a client alone that has gone."""


class _Connection(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunks()
        request = Request(
            http=self.command, path=parts.path, query=parse_qs(parts.query, keep_blank_values=True), headers=headers,
            body=body, target=self.path,
        )  # fmt: skip
        try:
            answer = self.server.answer(request)
        except Exception:  # a fault of the simulator: told to the client, whose test then fails with it
            text = traceback.format_exc()
            self.server.faults.append(text)
            answer = Answer(status=500, body=text.encode(), headers={"Content-Type": "text/plain"})
        self._send(answer)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the journal has it."""

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        if answer.status in (204, 304):
            headers.pop("Content-Length")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
