"""A WSGI application behind HTTP/1.1 on loopback: connections are kept alive, and many may come at once."""

import threading
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer


class Handler(MotoRequestHandler):  # type: ignore[misc]
    """A request handler that says nothing and does not wait to fill packets."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: the journal has it."""


class Backlog(ThreadedWSGIServer):  # type: ignore[misc]
    """A server that lets many connections wait."""

    request_queue_size = 512
    daemon_threads = True


class Server:
    """Serves an application on a port of its own until it is closed."""

    def __init__(self, app: Any, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = Backlog(host, port, app, handler=Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
