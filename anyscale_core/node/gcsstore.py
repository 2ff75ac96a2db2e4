"""Where a head's GCS keeps its state on disk, and the address that Rays which belong to it know."""

from pathlib import Path

from anyscale_core.node.home import Home
from anyscale_core.node.rayargs import GCS_PATH, GCS_STORAGE

ADDRESS = "address.json"


class GcsStore:
    """One folder: RocksDB's files, and ``address.json``. What outlives Ray here is what the next one goes on from."""

    def __init__(self, path: Path) -> None:
        self._home = Home(path)

    def environment(self) -> dict[str, str]:
        """Return what makes a GCS keep its state here (Ray 2.60, alpha there)."""
        return {GCS_STORAGE: "rocksdb", GCS_PATH: str(self._home.path / "db")}

    def remember(self, gcs_address: str) -> None:
        """Note where the GCS listens."""
        self._home.save(ADDRESS, gcs_address)

    def port(self, address: str) -> int:
        """Return the port that the last GCS had, if it was at this address: raylets look for it there. Else 0."""
        host, _, port = str(self._home.load(ADDRESS) or "").rpartition(":")
        return int(port) if host == address else 0
