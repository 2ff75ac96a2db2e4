"""Heartbeats: one connection is held by the control plane until it has orders, a second one carries what changed now."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from anyscale_core.errors import Refused
from anyscale_core.link import LAST_RETRY, Away, Backoff
from anyscale_core.models.instance import Bootstrap
from anyscale_core.models.node import Heartbeat, Orders
from anyscale_core.models.secret import Secret
from anyscale_core.node.link import Link

REPEATED = 0.2
"""Seconds before the next heartbeat when the orders were the same as before: they are being carried out."""

log = logging.getLogger(__name__)

__all__ = ["LAST_RETRY", "Away", "Backoff", "Beats", "Contact"]


class Contact:
    """Whether the control plane answers; logged once per change."""

    def __init__(self) -> None:
        self._trouble = ""
        self._lock = threading.Lock()

    def lost(self, error: Away) -> None:
        with self._lock:
            trouble, self._trouble = self._trouble, str(error)
        if not trouble:
            log.warning("the control plane is away, Ray is kept as it is, trying again: %s", error)

    def found(self) -> None:
        with self._lock:
            trouble, self._trouble = self._trouble, ""
        if trouble:
            log.info("the control plane answers again (was: %s)", trouble)


class Beats:
    """Two threads that send what ``compose`` says and hand over the orders, in the order in which they came."""

    def __init__(
        self,
        bootstrap: Bootstrap,
        *,
        compose: Callable[[timedelta], Heartbeat],
        credential: Callable[[], Secret[str]],
        interval: Callable[[], timedelta],
        on_orders: Callable[[Orders], None],
        on_refused: Callable[[Refused], None],
    ) -> None:
        self._links = Link(bootstrap), Link(bootstrap)
        self._compose = compose
        self._credential = credential
        self._interval = interval
        self._on_orders = on_orders
        self._on_refused = on_refused
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._contact = Contact()

    def start(self) -> None:
        """Begin. The first heartbeat goes out at once."""
        threading.Thread(target=self._hold, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._hurry, name="urgent", daemon=True).start()

    def changed(self) -> None:
        """Something happened that the control plane should know now."""
        self._changed.set()

    def close(self) -> None:
        """Send nothing more."""
        self._closed.set()
        self._changed.set()

    def _hold(self) -> None:
        backoff, before = Backoff(), Orders()
        wait = timedelta()
        while not self._closed.is_set():
            try:
                orders = self._send(self._links[0], wait)
            except Away as error:
                self._contact.lost(error)
                self._closed.wait(backoff.pause())
                continue
            except Refused as refused:
                self._on_refused(refused)
                self._closed.wait(backoff.pause())
                continue
            backoff.reset()
            wait = self._interval()
            if orders == before != Orders():
                self._closed.wait(REPEATED)
            before = orders

    def _hurry(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            self._changed.wait()
            self._changed.clear()
            if self._closed.is_set():
                return
            try:
                self._send(self._links[1], timedelta())
            except Away as error:
                self._contact.lost(error)
                self._closed.wait(backoff.pause())
                self._changed.set()
            except Refused as refused:
                self._on_refused(refused)
                self._closed.wait(backoff.pause())
            else:
                backoff.reset()

    def _send(self, link: Link, wait: timedelta) -> Orders:
        orders = link.heartbeat(self._compose(wait), credential=self._credential())
        self._contact.found()
        self._on_orders(orders)
        return orders
