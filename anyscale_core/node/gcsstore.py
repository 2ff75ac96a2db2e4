"""Where a head's GCS keeps its state on disk, and the address that Rays which belong to it know."""

import logging
import shutil
import socket
from pathlib import Path

from anyscale_core.node.home import Home
from anyscale_core.node.rayargs import GCS_PATH, GCS_STORAGE

ADDRESS, STARTS, DATA, BROKEN = "address.json", "starts.json", "db", "db.broken"
TRIES = 3
"""Starts in a row that never got ALIVE before what is stored counts as broken."""

log = logging.getLogger(__name__)


class GcsStore:
    """One folder: RocksDB's files, and ``address.json``. What outlives Ray here is what the next one goes on from."""

    def __init__(self, path: Path) -> None:
        self._home = Home(path)

    def begin(self) -> None:
        """Count a start. What has failed too often is set aside (for people to look at), so that a head can start at all."""
        starts = int(self._home.load(STARTS) or 0)
        if starts >= TRIES:
            log.error("the GCS did not start %d times on what is stored: set aside as %s", starts, BROKEN)
            shutil.rmtree(self._home.path / BROKEN, ignore_errors=True)
            if (self._home.path / DATA).exists():
                (self._home.path / DATA).replace(self._home.path / BROKEN)
            starts = 0
        self._home.save(STARTS, starts + 1)

    def environment(self) -> dict[str, str]:
        """Return what makes a GCS keep its state here (Ray 2.60, alpha there)."""
        return {GCS_STORAGE: "rocksdb", GCS_PATH: str(self._home.path / DATA)}

    def remember(self, gcs_address: str) -> None:
        """Note where the GCS listens, now that it does."""
        self._home.save(STARTS, 0)
        self._home.save(ADDRESS, gcs_address)

    def port(self, address: str) -> int:
        """Return the port that the last GCS had, if it was at this address and is free: raylets look for it there. Else 0."""
        host, _, port = str(self._home.load(ADDRESS) or "").rpartition(":")
        if host != address:
            return 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError:
                return 0
        return int(port)
