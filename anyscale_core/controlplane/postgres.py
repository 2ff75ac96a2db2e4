"""What only PostgreSQL has: word of changes from other processes, and a lock for migrations. Nothing else imports psycopg."""

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url

from anyscale_core.errors import Fault, SpecError

CHANNEL = "anyscale_core_changed"
"""Notified, with the cluster's id, by triggers on ``clusters`` (migration 0001): whoever writes, everybody hears."""
DRIVER = "postgresql+psycopg"
MIGRATING = 0x616E7973
"""The advisory lock that is held while tables are made or changed."""
IDLE = timedelta(seconds=5)
"""How long a transaction may stand open with nothing said in it. A process that is frozen (or cut off without a word) in the
middle of one holds its rows: the server ends it, else nobody could take over a cluster although its lease has lapsed."""
AGAIN = timedelta(seconds=1)
"""Between two attempts to connect."""
GATHER = timedelta(milliseconds=10)
"""Notifications that come within this time are heard as one."""

log = structlog.get_logger(__name__)


def url_of(database: str) -> URL:
    """Return an URL for psycopg 3, whichever driver it was written for. Raises SpecError with the remedy without psycopg."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        why = "PostgreSQL needs psycopg: install anyscale-core[postgres]"
        raise SpecError([Fault(path="database", message=why)], subject="settings") from None
    return make_url(database).set(drivername=DRIVER)


def session_options(*, synchronous_commit: str = "on") -> str:
    """Return what every connection asks of the server, as libpq's ``options``."""
    idle = f"{IDLE.total_seconds() * 1000:.0f}"
    return f"-c synchronous_commit={synchronous_commit} -c idle_in_transaction_session_timeout={idle}"


def lock_migrations(connection: Connection) -> None:
    """Let one process at a time change tables; the lock goes with the transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})


class Listener:
    """A thread that calls ``heard`` when any process has changed a cluster, and once after every connect.

    What was changed while there was no connection is not told: hence the call after each, and ``is_connected`` for those
    who look by themselves meanwhile.
    """

    def __init__(self, url: URL, heard: Callable[[], object]) -> None:
        self._url, self._heard = url, heard
        self._over = threading.Event()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether changes are heard of now."""
        return self._connected.is_set()

    def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Stop listening. Calling it twice is harmless."""
        self._over.set()
        self._thread.join(timeout.total_seconds())

    def _listen(self) -> None:
        import psycopg

        conninfo = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._over.is_set():
            try:
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._connected.set()
                    self._heard()
                    self._hear(connection)
            except psycopg.Error as error:
                if self._connected.is_set():  # said once, not at every attempt
                    log.warning("changes by other processes are not heard; connecting again", error=str(error).strip())
            finally:
                self._connected.clear()
            self._over.wait(AGAIN.total_seconds())

    def _hear(self, connection: Any) -> None:
        while not self._over.is_set():
            with contextlib.closing(connection.notifies(timeout=1.0, stop_after=1)) as notes:
                heard = list(notes)
            if heard:
                # The rest of a burst is read, and not told one by one.
                for _ in connection.notifies(timeout=GATHER.total_seconds()):
                    pass
                self._heard()
