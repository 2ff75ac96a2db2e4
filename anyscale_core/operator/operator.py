"""One operator: asks for orders, performs them, reports. What it has in hand when it dies is performed again, harmlessly.

Nothing is stored on disk. An order is in hand until the control plane has noted its outcome; one that is not is given again to
whoever leads, and performed again with the same token.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from anyscale_core.clock import Clock
from anyscale_core.drivers.base import Driver
from anyscale_core.errors import CoreError, Refused
from anyscale_core.link import Away, Backoff
from anyscale_core.models import wire
from anyscale_core.models.order import Dispatch, Done, Order, OrderSlip, Poll, Report, Session
from anyscale_core.operator.door import Contact
from anyscale_core.operator.lanes import Lanes
from anyscale_core.operator.performing import perform
from anyscale_core.operator.trust import Forged, opener
from anyscale_core.operator.vitals import Vitals

STANDBY = timedelta(seconds=5)
"""How long a replica that does not lead lets its question be held."""
RETURN, SHARE = timedelta(seconds=1), 20
"""What is left of an order's time for its outcome to travel back: so much, and at most this part of it."""
PROBES = timedelta(minutes=5)
"""How often every part of the cloud is looked at."""
FORGED_PAUSE = timedelta(seconds=5)
"""After an order that is not our control plane's: it will come again."""

log = logging.getLogger(__name__)

MakeDrivers = Callable[[Session], Mapping[str, Driver]]


class Operator:
    """One process's operator. ``turn`` does everything that is due, in this thread; ``run`` goes on until ``stop``."""

    def __init__(
        self, contact: Contact, make_drivers: MakeDrivers, *, ca_pem: str, clock: Clock,
        probe_every: timedelta | None = PROBES,
    ) -> None:  # fmt: skip
        """``probe_every``: how often every part of the cloud is looked at; None: never."""
        self._contact, self._make_drivers, self._ca_pem, self._clock = contact, make_drivers, ca_pem, clock
        self.vitals, self._probe_every = Vitals(clock), probe_every
        self._session: Session | None = None
        self._open: Callable[[OrderSlip], bytes] | None = None
        self._drivers: Mapping[str, Driver] = {}
        self._in_hand: set[str] = set()
        self._written: dict[str, tuple[datetime, Done]] = {}
        """What came of writes, each until its order's time is over: an order that comes again is told of, not performed."""
        self._outbox: queue.SimpleQueue[Done | None] = queue.SimpleQueue()
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self._over = threading.Event()

    # -- by hand -------------------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Ask once without waiting, perform all orders, report; return how many there were. Raises Refused, Away, Forged."""
        with self._asking:  # who asks while another takes orders over would be given the same ones
            taken = self._accepted(self._ask(timedelta()))
        try:
            done = tuple(self._performed(order, deadline) for order, deadline in taken)
            if done:
                self._tell(Report(done=done))
        finally:
            self._let_go(order.key for order, _ in taken)  # what was not told is given again
        return len(taken)

    # -- as a process --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Log in and build the drivers: what cannot work is told before anything begins. Raises Refused, Away, PluginError."""
        self._ready()

    def run(self) -> None:
        """Work until ``stop``; then let what is under way end, report it, and say that another replica may lead."""
        lanes = Lanes(self._perform)
        reporter = threading.Thread(target=self._report, name="reporter", daemon=True)
        asker = threading.Thread(target=self._poll, args=(lanes,), name="asker", daemon=True)
        for thread in (reporter, asker):
            thread.start()
        if self._probe_every is not None:
            threading.Thread(target=self._probe, args=(self._probe_every,), name="prober", daemon=True).start()
        self._over.wait()
        lanes.close()
        self._outbox.put(None)
        reporter.join(self._patience().total_seconds())
        self._leave()
        for driver in self._drivers.values():
            driver.close()

    def stop(self) -> None:
        """End soon; for a signal handler too."""
        self._over.set()

    def _poll(self, lanes: "Lanes[tuple[Order, datetime]]") -> None:
        backoff = Backoff()
        while not self._over.is_set():
            try:
                session = self._ready()
                wait = session.hold if self.vitals.leads else min(STANDBY, session.hold)
                for order, deadline in self._accepted(self._ask(wait)):
                    lanes.put((order, deadline), lane=order.lane)
                backoff.reset()
            except Forged as error:
                log.error("%s. Remedy: find out who stands between this operator and its control plane", error)
                self._over.wait(FORGED_PAUSE.total_seconds())
            except CoreError as error:
                self._lost(error)
                self._over.wait(backoff.pause())

    def _perform(self, work: tuple[Order, datetime]) -> None:
        self._outbox.put(self._performed(*work))

    def _report(self) -> None:
        """Send outcomes as they come, all that there are at once, and health now and then."""
        unsaid: list[Done] = []
        said_at: datetime | None = None
        backoff, is_over = Backoff(), False
        while unsaid or not is_over:
            pause = backoff.pause() if unsaid else 1.0
            is_over = self._gather(unsaid, pause) or is_over
            is_due = self._is_due(said_at)
            if not unsaid and not is_due:
                continue
            try:
                self._tell(Report(done=tuple(unsaid), health=self.vitals.health() if is_due else None))
            except CoreError as error:
                self._lost(error)
                if is_over:
                    return  # it is performed again by whoever comes next
                continue
            backoff.reset()
            unsaid.clear()
            said_at = self._clock.now() if is_due else said_at

    def _is_due(self, said_at: datetime | None) -> bool:
        """Tell whether health is to be reported: first when the parts have been looked at, then now and then."""
        if self._session is None or not self.vitals.is_known:
            return False
        return said_at is None or self._clock.now() - said_at >= self._session.report_interval

    def _gather(self, unsaid: list[Done], pause: float) -> bool:
        """Add the outcomes that there are, waiting for a first one; return whether there will be no more."""
        try:
            one = self._outbox.get(timeout=pause)
            while one is not None:
                unsaid.append(one)
                one = self._outbox.get_nowait()
        except queue.Empty:
            return False
        return True

    def _probe(self, every: timedelta) -> None:
        while not self._over.is_set():
            session = self._session
            if session is not None:
                self.vitals.probe(self._drivers, session.owner)
            self._over.wait(every.total_seconds() if session is not None else 1.0)

    def _leave(self) -> None:
        try:
            self._contact.poll(Poll(leaving=True))
        except CoreError as error:
            log.info("the control plane was not told that this operator ends: %s", error)

    # -- parts of both -------------------------------------------------------------------------------------------------

    def _ready(self) -> Session:
        """Have a session, and the drivers and the trust that belong to it."""
        session = self._contact.session()
        if session is self._session:
            return session
        self._open = opener(self._ca_pem, session.order_certificate, now=self._clock.now())
        before = self._session
        same = before is not None and (before.owner, before.region, before.providers) == (
            session.owner, session.region, session.providers,
        )  # fmt: skip
        if not same:
            self._drivers = self._make_drivers(session)
        self._session = session
        self._found()
        log.info("let in as the operator of %s", session.owner.cloud)
        return session

    def _ask(self, wait: timedelta) -> Dispatch:
        self._ready()
        with self._lock:
            have = tuple(sorted(self._in_hand))
        orders = self._contact.poll(Poll(wait=wait, have=have))
        self._found()
        if orders.leads is not self.vitals.leads:
            log.info("this replica leads" if orders.leads else "another replica leads")
        self.vitals.leads = orders.leads
        return orders

    def _accepted(self, orders: Dispatch) -> list[tuple[Order, datetime]]:
        """Return the orders that are not in hand yet, each with its deadline by this machine's clock. Raises Forged."""
        now = self._clock.now()
        out = []
        for order in [self._opened(slip) for slip in orders.slips]:
            left = order.expires_at - orders.now
            with self._lock:
                if order.key in self._in_hand:
                    continue
                self._in_hand.add(order.key)
                self.vitals.in_hand = len(self._in_hand)
            out.append((order, now + left - min(RETURN, left / SHARE)))
        return out

    def _opened(self, slip: OrderSlip) -> Order:
        session = self._session
        assert self._open is not None, "there are orders in a session alone"
        assert session is not None, "and so there is one"
        order = wire.structure(json.loads(self._open(slip)), Order)
        if (order.plane, order.cloud) != (session.owner.plane, session.owner.cloud):
            raise Forged(f"an order is for cloud {order.cloud!r} of {order.plane!r}, not for this operator")
        return order

    def _performed(self, order: Order, deadline: datetime) -> Done:
        before = self._written.get(order.key)
        if before is not None:
            log.warning("%s came again, and is not performed twice", order.action, extra={"order": order.key})
            return before[1]
        done = perform(order, self._drivers, deadline=deadline)
        self._remember(order, deadline, done)
        outcome = "ok" if done.error is None else str(done.error.get("category"))
        self.vitals.count(order.action, outcome)
        log.info("performed %s", order.action, extra={"order": order.key, "outcome": outcome, "lane": order.lane})
        return done

    def _remember(self, order: Order, deadline: datetime, done: Done) -> None:
        if not order.lane:
            return  # a question: asking it twice changes nothing
        with self._lock:
            now = self._clock.now()
            kept = {key: one for key, one in self._written.items() if one[0] > now}
            self._written = {**kept, order.key: (deadline + RETURN, done)}

    def _tell(self, report: Report) -> None:
        self._contact.report(report)
        self._found()
        self._let_go(done.key for done in report.done)

    def _let_go(self, keys: Iterable[str]) -> None:
        with self._lock:
            self._in_hand.difference_update(keys)
            self.vitals.in_hand = len(self._in_hand)

    def _found(self) -> None:
        if self.vitals.trouble and self.vitals.heard_at is not None:
            log.info("the control plane answers again (was: %s)", self.vitals.trouble)
        self.vitals.heard()

    def _lost(self, error: CoreError) -> None:
        """Log once per trouble; what runs in the cloud runs on."""
        trouble = f"{type(error).__name__}: {error}"
        if trouble != self.vitals.trouble:
            what = (
                "refuses this operator" if isinstance(error, Refused) else "is away" if isinstance(error, Away) else ""
            )
            log.warning("the control plane %s, trying again: %s", what or "cannot be worked for", error)
        self.vitals.trouble = trouble

    def _patience(self) -> timedelta:
        return timedelta(seconds=10)
