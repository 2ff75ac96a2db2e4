"""The operator's wire to its control plane: three routes, and the session that they need."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from anyscale_core.errors import Refused
from anyscale_core.link import JsonLink
from anyscale_core.models.order import Dispatch, Login, Noted, Poll, Report, Session
from anyscale_core.models.secret import Secret


class Door(Protocol):
    """What a control plane does for operators: over HTTPS, or in one process for tests. Raises Refused and Away."""

    def login(self, login: Login) -> Session: ...

    def poll(self, poll: Poll, *, credential: Secret[str]) -> Dispatch: ...

    def report(self, report: Report, *, credential: Secret[str]) -> Noted: ...


class HttpsDoor:
    """Two connections: one is held by polls, the other carries everything else. One thread at a time for each."""

    def __init__(self, url: str, ca_pem: str) -> None:
        self._held, self._quick = JsonLink(url, ca_pem), JsonLink(url, ca_pem)

    def login(self, login: Login) -> Session:
        """Be let in. Raises Refused and Away."""
        return self._quick.post("/v1/operators/session", login, Session, credential=None, wait=timedelta())

    def poll(self, poll: Poll, *, credential: Secret[str]) -> Dispatch:
        """Ask for orders; held for up to ``poll.wait``. Raises Refused and Away."""
        link = self._quick if poll.leaving else self._held
        return link.post("/v1/operators/poll", poll, Dispatch, credential=credential, wait=poll.wait)

    def report(self, report: Report, *, credential: Secret[str]) -> Noted:
        """Say what came of orders. Raises Refused and Away."""
        return self._quick.post("/v1/operators/report", report, Noted, credential=credential, wait=timedelta())


class Contact:
    """The session with a control plane: made when it is needed, and again when it is refused. Threads may share it."""

    def __init__(self, door: Door, login: Callable[[], Login]) -> None:
        self._door, self._login = door, login
        self._session: Session | None = None
        self._credential: Secret[str] | None = None
        self._lock = threading.RLock()
        self._quick = threading.Lock()

    def session(self) -> Session:
        """Return the session. Raises Refused and Away, and whatever making a proof raises."""
        with self._lock:
            if self._session is None:
                with self._quick:
                    self._session = self._door.login(self._login())
                self._credential = self._session.credential
            return self._session

    def poll(self, poll: Poll) -> Dispatch:
        """Ask for orders. Raises Refused and Away; after Refused the next call logs in anew."""
        credential = self._known()
        try:
            if poll.leaving:
                with self._quick:
                    return self._door.poll(poll, credential=credential)
            orders = self._door.poll(poll, credential=credential)
        except Refused:
            self._forget(credential)
            raise
        if orders.credential is not None:
            with self._lock:
                self._credential = orders.credential
        return orders

    def report(self, report: Report) -> Noted:
        """Say what came of orders. Raises as ``poll``."""
        credential = self._known()
        try:
            with self._quick:
                return self._door.report(report, credential=credential)
        except Refused:
            self._forget(credential)
            raise

    def _known(self) -> Secret[str]:
        with self._lock:
            self.session()
            assert self._credential is not None, "a session has one"
            return self._credential

    def _forget(self, credential: Secret[str]) -> None:
        with self._lock:
            if self._credential == credential:
                self._session = self._credential = None
