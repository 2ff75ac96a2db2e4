"""What a node puts into its cluster's bucket, and fetches from one: Ray's logs, job logs, packages."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from anyscale_core.models.storage import StoreAccess

TAIL = 64 << 20
"""Bytes of one log file that are put away: its end, where the reason of a failure is."""
PARALLEL = 8

log = logging.getLogger(__name__)


def put(access: StoreAccess, key: str, data: bytes) -> None:
    """Store one object. Raises what obstore raises."""
    _open(access).put(key, data)


def get(access: StoreAccess, key: str) -> bytes:
    """Return one object. Raises FileNotFoundError and what else obstore raises."""
    return bytes(_open(access).get(key).bytes())


def put_logs(access: StoreAccess, instance_name: str, folder: Path) -> int:
    """Store the logs of every Ray session below ``folder`` as ``logs/<instance name>/...``; return how many there were.

    A file that cannot be stored is logged and left out. Raises what obstore raises when the store cannot be opened.
    """
    files = [path for path in sorted(log_files(folder)) if path.stat().st_size]
    if not files:
        return 0
    store = _open(access)

    def one(path: Path) -> bool:
        try:
            store.put(f"logs/{instance_name}/{path.relative_to(folder)}", tail(path))
        except Exception as error:  # obstore has no common base for its errors
            log.warning("a log was not put away: %s: %s", path.name, error)
            return False
        return True

    with ThreadPoolExecutor(PARALLEL) as pool:
        return sum(pool.map(one, files))


def log_files(folder: Path) -> Iterator[Path]:
    """Return the log files of every session; ``session_latest`` is a link to one of them."""
    for session in folder.glob("session_*"):
        if not session.is_symlink():
            yield from (path for path in (session / "logs").rglob("*") if path.is_file() and not path.is_symlink())


def tail(path: Path) -> bytes:
    """Return the last TAIL bytes of a file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        return file.read(TAIL)


def _open(access: StoreAccess) -> Any:
    # Imported at the first use: nothing of it is needed to start Ray.
    from obstore.store import from_url

    options: dict[str, Any] = {key: value.reveal() for key, value in access.options.items()}
    if access.url.startswith("file://"):
        options["mkdir"] = True
    if options.get("endpoint", "").startswith("http://"):
        options["client_options"] = {"allow_http": True}
    return from_url(access.url, **options)
