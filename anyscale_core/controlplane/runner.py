"""Threads that give the control plane its turns: workers for clusters, and one that watches for silence and orphans."""

import threading
from datetime import timedelta

import structlog
from sqlalchemy.exc import OperationalError

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.postgres import Listener

log = structlog.get_logger(__name__)

WATCH = timedelta(milliseconds=500)
"""How often silence is looked for: one indexed query, whatever the number of nodes."""
POLL = timedelta(seconds=2)
"""How often a worker looks for work that nobody has rung for."""
QUIET = timedelta(seconds=30)
"""How long the same outage of the store is not logged again."""
HEARING = timedelta(seconds=30)
"""The same while the store itself tells of every change, whichever process made it."""


class Runner:
    """Runs a control plane until it is stopped. A cluster that is made due is worked on at once."""

    def __init__(self, plane: ControlPlane, *, workers: int = 4) -> None:
        self._plane = plane
        self._stop = threading.Event()
        self._quiet_until = plane.clock.now()
        self._listener: Listener | None = None
        # A lease that another process takes is not told of; it is seen well before it lapses.
        self._hearing = min(HEARING, plane.settings.lease_ttl / 2)
        self._bell = threading.Condition()
        self._rung = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"reconciler-{index}", daemon=True) for index in range(workers)
        ]
        self._threads.append(threading.Thread(target=self._watch, name="watcher", daemon=True))
        plane.on_change(self.ring)

    def start(self) -> None:
        self._listener = self._plane.store.listen(self._plane.hear)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: timedelta = timedelta(seconds=10)) -> None:
        """Let the turns under way end (each is resumable, so this is courtesy), then return."""
        self._stop.set()
        self._plane.mailbox.release()
        self.ring()
        for thread in self._threads:
            thread.join(timeout.total_seconds())
        if self._listener is not None:
            self._listener.close()

    def ring(self) -> None:
        """Say that something may be due."""
        with self._bell:
            self._rung += 1
            self._bell.notify_all()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._bell:
                heard = self._rung
            try:
                if self._plane.work_once():
                    continue
                due = self._plane.store.next_due(now=self._plane.clock.now())
            except Exception as error:
                self._failed("a turn failed; the cluster is due again shortly", error)
                due = self._plane.clock.now() + timedelta(seconds=1)
            most = self._hearing if self._listener is not None and self._listener.is_connected else POLL
            wait = most if due is None else min(max(due - self._plane.clock.now(), timedelta(milliseconds=5)), most)
            with self._bell:
                if self._rung == heard:
                    self._bell.wait(wait.total_seconds())

    def _watch(self) -> None:
        while not self._stop.wait(WATCH.total_seconds()):
            try:
                self._plane.attend()
                if self._plane.notice_silence():
                    self.ring()
                self._plane.collector.collect()
            except Exception as error:
                self._failed("the watcher failed; it goes on", error)

    def _failed(self, what: str, error: Exception) -> None:
        """Log a failure whole; a store that cannot be reached only once a while, for everything fails until it can."""
        if not isinstance(error, OperationalError):
            log.error(what, exc_info=error)
            return
        now = self._plane.clock.now()
        with self._bell:
            if now < self._quiet_until:
                return
            self._quiet_until = now + QUIET
        log.warning("the store cannot be reached; trying again", error=str(error.orig).strip())
