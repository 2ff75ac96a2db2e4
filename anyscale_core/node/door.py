"""Keeps the gateway's process: started for a dashboard, started again when it ends, closed with it."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyscale_core.models import wire
from anyscale_core.models.node import NodeConfig

AGAIN = 1.0
"""Seconds before a gateway that ended by itself is started again."""

log = logging.getLogger(__name__)


class Door:
    """The gateway of one head. ``port`` is 0 while it does not listen."""

    def __init__(self, home: Path, *, on_change: Callable[[], None]) -> None:
        self._home = home
        self._on_change = on_change
        self._settings: dict[str, Any] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.port = 0

    def open(self, config: NodeConfig, *, address: str, upstream: str) -> None:
        """Have the gateway run for this dashboard (``host:port``); the one that runs is kept when nothing differs."""
        gateway = config.gateway
        if gateway is None:
            self.close()
            return
        settings = {
            "address": address,
            "upstream": upstream,
            "ray_token": config.ray_token.reveal(),
            "cluster_id": config.cluster_id,
            **wire.unstructure_revealed(gateway),
        }
        if settings == self._settings:
            return
        self.close()
        with self._lock:
            self._settings = settings
        threading.Thread(target=self._keep, args=(settings,), name="gateway", daemon=True).start()

    def close(self) -> None:
        """End the gateway."""
        with self._lock:
            process, self._process, self._settings, self.port = self._process, None, None, 0
        if process is not None:
            process.kill()
            process.wait()

    def _keep(self, settings: dict[str, Any]) -> None:
        never = threading.Event()
        while True:
            process = self._spawn(settings)
            if process is None:
                return
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(settings) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if line:
                self._opened(settings, int(json.loads(line)["port"]))
            process.wait()
            if not self._opened(settings, 0):
                return
            log.warning("the gateway ended with %s (see gateway.log); starting it again", process.returncode)
            never.wait(AGAIN)

    def _spawn(self, settings: dict[str, Any]) -> "subprocess.Popen[str] | None":
        with self._lock:
            if self._settings is not settings:
                return None
            with (self._home / "gateway.log").open("ab") as errors:
                self._process = subprocess.Popen(
                    (sys.executable, "-m", "anyscale_core.node.gateway"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            return self._process

    def _opened(self, settings: dict[str, Any], port: int) -> bool:
        """Note the port; return whether this gateway is still the one that is wanted."""
        with self._lock:
            if self._settings is not settings:
                return False
            self.port = port
        self._on_change()
        return True
