"""The only port that an operator listens on: /healthz, /readyz, /metrics."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from anyscale_core.operator.vitals import Vitals


class HealthServer:
    """Answers until it is closed. Raises OSError when the port is taken; ``port`` 0 takes a free one."""

    def __init__(self, vitals: Vitals, *, port: int, host: str = "") -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(vitals))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _handler(vitals: Vitals) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "anyscale-core-operator", ""

        def do_GET(self) -> None:
            status, text = _answer(vitals, self.path.partition("?")[0])
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler


def _answer(vitals: Vitals, path: str) -> tuple[int, str]:
    if path == "/healthz":
        return 200, "ok\n"
    if path == "/readyz":
        why = vitals.why_not_ready()
        return (503, f"{why}\n") if why else (200, "ok\n")
    if path == "/metrics":
        return 200, vitals.exposition()
    return 404, "there are /healthz, /readyz and /metrics\n"
