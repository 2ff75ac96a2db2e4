"""The HTTPS server: many connections that stay open, one answer a write."""

import json
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, str, Mapping[str, str], bytes], tuple[int, Mapping[str, str], Any]]
"""(method, path with query, headers by small names, body) to (status, headers, a JSON value, bytes, or None)."""


class Server(ThreadingHTTPServer):
    """Listens on an address of this machine until it is closed. Without a context it speaks plain HTTP."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self, answer: Answer, context: ssl.SSLContext | None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__((host, port), Handler)
        self.answer, self._context = answer, context
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        # The interval is how long `shutdown` waits at most.
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="azure-simulator", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """End, and drop every connection."""
        self.shutdown()
        self.server_close()
        with self._guard:
            still = tuple(self._open)
        for connection in still:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its own thread, the TLS handshake included."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._guard:
            self._open.add(request)
        try:
            if self._context is None:
                super().finish_request(request, client_address)
                return
            with self._context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except (OSError, ValueError):
            return  # the client went away, in the handshake or later
        finally:
            with self._guard:
                self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a broken connection be: its client knows."""


class Handler(BaseHTTPRequestHandler):
    """Reads a request, has it answered, writes the answer."""

    protocol_version = "HTTP/1.1"
    server: Server

    def handle_one_request(self) -> None:
        """Serve one request of a connection."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if not self.parse_request():
            return
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, told, content = self.server.answer(self.command, self.path, headers, body)
        self._write(status, told, content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the journal keeps what arrived."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        chunks = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return chunks

    def _write(self, status: int, told: Mapping[str, str], content: Any) -> None:
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        headers = {"Date": formatdate(usegmt=True), "x-ms-request-id": str(uuid.uuid4()), "Cache-Control": "no-cache"}
        if body and not isinstance(content, bytes):
            headers["Content-Type"] = "application/json; charset=utf-8"
        headers |= told
        if status != HTTPStatus.NO_CONTENT:
            headers.setdefault("Content-Length", str(len(body)))
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        is_silent = self.command == "HEAD" or status == HTTPStatus.NO_CONTENT
        # In one write: two small ones would wait for each other's acknowledgement.
        self.wfile.write("\r\n".join(lines).encode() + (b"" if is_silent else body))
