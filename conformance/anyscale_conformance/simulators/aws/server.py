"""HTTP/1.1 on loopback: connections are kept alive, many may come at once, and every request is read to its end."""

import threading
from collections.abc import Callable
from http.client import responses
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer

from anyscale_conformance.simulators.aws.wire import Answer

Respond = Callable[[dict[str, Any], bytes], Answer]
"""Answers a request: its WSGI environment, and its body."""


class Handler(MotoRequestHandler):  # type: ignore[misc]
    """A handler that answers with one write. werkzeug's own closes the connection after each request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Answer one request."""
        environ = self.make_environ()
        is_chunked = environ.get("wsgi.input_terminated", False)
        size = -1 if is_chunked else int(environ.get("CONTENT_LENGTH") or 0)
        answer = self.server.app(environ, environ["wsgi.input"].read(size))
        headers = {name.lower(): value for name, value in answer.headers.items()}
        is_head = self.command == "HEAD"
        # A HEAD tells how long its GET would be; the body itself is not sent.
        length = headers.get("content-length", "0") if is_head else str(len(answer.body))
        if answer.status != 204:
            headers["content-length"] = length
        lines = [
            f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        self.wfile.write("\r\n".join((*lines, "", "")).encode("latin-1") + (b"" if is_head else answer.body))

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: the journal has it."""


class Backlog(ThreadedWSGIServer):  # type: ignore[misc]
    """A server that lets many connections wait."""

    request_queue_size = 512
    daemon_threads = True


class Server:
    """Serves on a port of its own until it is closed."""

    def __init__(self, respond: Respond, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = Backlog(host, port, respond, handler=Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
