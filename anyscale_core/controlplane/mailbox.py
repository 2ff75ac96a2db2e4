"""The mailbox of pull mode: driver calls recorded as orders, handed to operators, answered by their reports.

An order is recorded before anybody hears of it, under an id that follows from the call: a call that is repeated (the control
plane was restarted, its caller's patience ended) joins the order that is still open. One that is done is made again, as another
attempt: its token makes that harmless, and an old outcome never passes for a new one. Bodies and outcomes are sealed in the
store, for there are join tokens and credentials in them.
"""

import hashlib
import itertools
import json
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import attrs
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.engine import RowMapping

from anyscale_core.clock import Clock
from anyscale_core.controlplane import queries as q
from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.controlplane.store import Store
from anyscale_core.drivers import speech
from anyscale_core.errors import Applied, CloudError, DeadlineExceeded, Retry, Transient, error_from
from anyscale_core.models import wire
from anyscale_core.models.instance import Offering
from anyscale_core.models.order import Done, OperatorState, Order, OrderSlip

UNCLAIMED = timedelta(seconds=10)
"""How long an order may lie there without an operator having taken it: then nobody is there, whatever was seen before."""
LOOK = timedelta(milliseconds=250)
"""How often an outcome is looked for without a ring: another process may have been told it."""
LAST_LOOK = timedelta(milliseconds=250)
"""The end of every wait: an outcome that comes in while the deadline passes still counts."""


@attrs.frozen(kw_only=True)
class Call:
    """One driver call that an operator is to make. ``body``: its arguments as JSON."""

    cloud: str
    action: str
    lane: str
    body: str

    @property
    def id(self) -> str:
        """The id of its order: the same for the same write; a read is a question of its own every time."""
        if not speech.is_write(self.action):
            return f"ord_{secrets.token_hex(12)}"
        said = json.dumps([self.cloud, self.action, self.body])
        return f"ord_{hashlib.sha256(said.encode()).hexdigest()[:24]}"


@attrs.frozen(kw_only=True)
class Standing:
    """An order as it stands: which attempt is wanted, and of what."""

    id: str
    attempt: int
    action: str


class Waiter:
    """Somebody in this process who waits for an order's outcome. ``bell``: it is worth looking; ``done``: this is it."""

    def __init__(self, id: str, action: str) -> None:
        self.id = id
        self.asks = not speech.is_write(action)
        self.attempt = 0
        """The one that is waited for; 0 while that is not known yet."""
        self.is_given = False
        """Whether an operator was told of it by this process."""
        self.bell = threading.Event()
        self.done: Done | None = None


class Mailbox:
    """The orders of one plane. Threads may share it."""

    def __init__(self, *, plane: str, store: Store, keys: KeyRing, clock: Clock) -> None:
        self._plane, self._store, self._keys, self._clock = plane, store, keys, clock
        self._lock = threading.Lock()
        self._releases = 0
        self._listeners: list[Callable[[str], None]] = []
        self._waited: dict[str, Waiter] = {}
        """Orders that somebody in this process waits for: who makes the same call beside them makes one of their own."""
        self._catalogues: dict[str, tuple[Offering, ...]] = {}
        """What this process has kept last, so that the same is not written again."""
        self.idle: Callable[[timedelta], object] | None = None
        """What a caller does while it waits, instead of sleeping: tests let an operator work in the same thread."""

    # -- for the drivers -----------------------------------------------------------------------------------------------

    def call(self, cloud: str, action: str, arguments: Mapping[str, Any], *, deadline: datetime) -> Any:
        """Have a call made by the cloud's operator; return its result, or raise its error.

        Raises Transient(NETWORK, applied=NO) at once when no operator is there, and when none takes the order; DeadlineExceeded
        when the outcome is not known in time.
        """
        if self._clock.now() >= deadline:
            message = f"the deadline of {action} passed before it was ordered"
            raise DeadlineExceeded(message, reason="REQUEST", applied=Applied.NO, attempts=0)
        why = self.away(cloud)
        if why:
            raise _unreachable(action, why)
        said = json.dumps(speech.say_call(arguments), sort_keys=True)
        call = Call(cloud=cloud, action=action, lane=speech.lane_of(action, arguments), body=said)
        waiter = self._claim(call)
        try:
            standing = self._record(waiter.id, call, expires=deadline)
            waiter.attempt = standing.attempt
            self._ring(cloud)
            done = self._outcome(cloud, standing, waiter, deadline)
        finally:
            with self._lock:
                del self._waited[waiter.id]
        if done.error is not None:
            raise error_from(done.error)
        assert done.result is not None, "an outcome is a result or an error"
        return speech.hear_result(action, json.loads(done.result.reveal()))

    def away(self, cloud: str) -> str:
        """Return why orders would reach nobody in a cloud; empty while its operator is there."""
        with self._store.read() as connection:
            row = connection.execute(q.OPERATOR, {"of_cloud": cloud}).first()
        if row is None or row.state == OperatorState.EXPECTED.value:
            return f"no operator of {cloud} has come yet (anyscale-core operator run)"
        if row.state == OperatorState.DISCONNECTED.value:
            return f"the operator of {cloud} has not been heard of since {row.seen_at:%Y-%m-%d %H:%M:%S} UTC"
        if row.lease_until is None:
            return f"the operator of {cloud} has left, and no other one has come yet"
        return ""

    def was_met(self, cloud: str) -> bool:
        """Tell whether an operator of a cloud has ever come."""
        o = t.operators.c
        with self._store.read() as connection:
            state = connection.scalar(select(o.state).where(o.cloud == cloud))
        return state not in (None, OperatorState.EXPECTED.value)

    def catalogue(self, cloud: str) -> tuple[Offering, ...] | None:
        """Return the offerings that a cloud's operator last told; None before it did."""
        o = t.operators.c
        with self._store.read() as connection:
            doc = connection.scalar(select(o.catalogue).where(o.cloud == cloud))
        return None if doc is None else wire.structure(doc, tuple[Offering, ...])

    def keep_catalogue(self, cloud: str, offerings: tuple[Offering, ...]) -> None:
        """Keep the offerings for when nobody answers."""
        if self._catalogues.get(cloud) == offerings:
            return
        o = t.operators.c
        with self._store.telemetry() as connection:
            doc = wire.unstructure(offerings)
            kept = connection.execute(update(t.operators).where(o.cloud == cloud).values(catalogue=doc)).rowcount
        if kept:
            self._catalogues[cloud] = offerings

    def forget_cloud(self, cloud: str) -> None:
        """Know nothing of a cloud that is gone: another may have its name."""
        self._catalogues.pop(cloud, None)

    def on_order(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(cloud)`` (from any thread) when there is something new for its operator; with "" for any of them."""
        self._listeners.append(listener)

    def release(self) -> None:
        """Let everybody who waits for an outcome now go, with Transient: this process is about to end."""
        self._releases += 1
        self._tell(tuple(self._waited))

    def hear(self) -> None:
        """Another process may have recorded orders, or outcomes."""
        self._tell(tuple(self._waited))
        self._ring("")

    # -- for the operators ---------------------------------------------------------------------------------------------

    def waiting(self, clouds: Collection[str] | None = None) -> dict[str, int]:
        """Return how many open orders each cloud has; clouds without any are left out."""
        with self._store.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(q.OPEN_COUNTS, {"now": self._clock.now()})}
        return {cloud: count for cloud, count in found.items() if clouds is None or cloud in clouds}

    def give(self, cloud: str, have: Collection[str]) -> tuple[OrderSlip, ...]:
        """Return a cloud's open orders but those that its operator has in hand, in their order, each signed."""
        now = self._clock.now()
        with self._store.read() as connection:
            found = connection.execute(q.OPEN_ORDERS, {"cloud": cloud, "now": now}).mappings()
            rows = [row for row in found if f"{row['id']}/{row['attempt']}" not in have]
        fresh = {
            row["number"]: row["action"] for row in rows if row["given_at"] is None and not self._is_told_here(row)
        }
        if fresh:
            # Before it goes out: an order that nobody was told of was certainly not carried out. One that was withdrawn
            # meanwhile is not given.
            with self._writing(fresh.values()) as connection:
                gone = [
                    which for which in fresh if not connection.execute(q.GIVEN, {"which": which, "now": now}).rowcount
                ]
            rows = [row for row in rows if row["number"] not in gone]
        return tuple(self._slip(row) for row in rows)

    def done(self, cloud: str, outcomes: Iterable[Done]) -> None:
        """Record outcomes; those of attempts that nobody waits for any more, and those that are known, change nothing."""
        now, written = self._clock.now(), list[Done]()
        # What is lost with the machine is performed again: its caller is lost with it.
        with self._store.telemetry() as connection:
            for one in outcomes:
                which = {"order": one.id, "of_attempt": one.attempt, "by_cloud": cloud}
                if self._is_question(one):
                    if connection.execute(q.ANSWERED, which).rowcount:
                        self._hand_over([one])  # while its order is still seen: who looks finds the one or the other
                    continue
                said = self._keys.seal(json.dumps(wire.unstructure_revealed(one)))
                if connection.execute(q.ANSWER, {**which, "now": now, "said": said}).rowcount:
                    written.append(one)
        self._hand_over(written)

    def forget(self, before: datetime) -> None:
        """Drop the orders that nobody can be waiting for."""
        with self._store.telemetry() as connection:
            connection.execute(delete(t.orders).where(t.orders.c.expires_at < before))

    # -- the mailbox's own ---------------------------------------------------------------------------------------------

    def _claim(self, call: Call) -> Waiter:
        """Wait for a call's id, or for one beside it while somebody waits for it: two calls at once have an answer each."""
        with self._lock:
            id = call.id
            ids = (id if number == 0 else f"{id}.{number}" for number in itertools.count())
            waiter = Waiter(next(one for one in ids if one not in self._waited), call.action)
            self._waited[waiter.id] = waiter
            return waiter

    def _ring(self, cloud: str) -> None:
        for listener in self._listeners:
            listener(cloud)

    def _is_question(self, one: Done) -> bool:
        """Tell whether an outcome answers a question of this process: it is handed over, and not kept."""
        with self._lock:
            waiter = self._waited.get(one.id)
            return waiter is not None and waiter.asks and waiter.attempt == one.attempt

    def _is_told_here(self, row: RowMapping) -> bool:
        """Note that a question of this process is given, where that is looked for; tell whether it is one."""
        with self._lock:
            waiter = self._waited.get(row["id"])
            if waiter is None or not waiter.asks:
                return False
            waiter.is_given = True
            return True

    def _hand_over(self, outcomes: Iterable[Done]) -> None:
        with self._lock:
            for one in outcomes:
                waiter = self._waited.get(one.id)
                if waiter is None:
                    continue
                if waiter.attempt == one.attempt:
                    waiter.done = one
                waiter.bell.set()

    def _tell(self, ids: Iterable[str]) -> None:
        with self._lock:
            for id in ids:
                if id in self._waited:
                    self._waited[id].bell.set()

    def _writing(self, actions: Iterable[str]) -> AbstractContextManager[Connection]:
        """Return a transaction that is durable when a write depends on it. Whoever asks a question is lost with the machine."""
        return self._store.write() if any(map(speech.is_write, actions)) else self._store.telemetry()

    def _record(self, id: str, call: Call, *, expires: datetime) -> Standing:
        """Write an order down, or join the one that is open."""
        o, now = t.orders.c, self._clock.now()
        attempt, is_write = 1, speech.is_write(call.action)
        with self._writing([call.action]) as connection:
            by_id = select(t.orders).where(o.id == id).with_for_update()
            row = connection.execute(by_id).mappings().first() if is_write else None  # each question is a new one
            if row is not None:
                if row["done_at"] is None and row["expires_at"] > now:
                    longer = max(expires, row["expires_at"])
                    connection.execute(update(t.orders).where(o.id == id).values(expires_at=longer))
                    return Standing(id=id, attempt=row["attempt"], action=call.action)
                attempt = row["attempt"] + 1
                connection.execute(delete(t.orders).where(o.id == id))
            values = {
                "id": id, "attempt": attempt, "cloud": call.cloud, "lane": call.lane, "action": call.action,
                "body": self._keys.seal(call.body), "expires_at": expires,
            }  # fmt: skip
            connection.execute(q.ADD_ORDER, values)
        return Standing(id=id, attempt=attempt, action=call.action)

    def _outcome(self, cloud: str, order: Standing, waiter: Waiter, deadline: datetime) -> Done:
        began = looked = self._clock.now()
        releases = self._releases
        while True:
            self._wait(waiter.bell, min(LOOK, deadline - LAST_LOOK - self._clock.now()))
            waiter.bell.clear()
            row = None if waiter.done is not None else self._look(order)
            if waiter.done is not None:
                return waiter.done
            if row is None:
                raise _unreachable(order.action, "the order was withdrawn before anybody had heard of it")
            if row["done_at"] is not None:
                return self._read(row)
            if self._releases != releases:
                raise _ending(order)
            now = self._clock.now()
            if now >= deadline - LAST_LOOK:
                self._wait(waiter.bell, LAST_LOOK)
                row = self._look(order)
                if waiter.done is not None:
                    return waiter.done
                return self._read(row) if row is not None and row["done_at"] is not None else self._give_up(order)
            if row["given_at"] is None and not waiter.is_given and now - looked >= LOOK:
                seconds = f"{UNCLAIMED.total_seconds():g} s"
                why = self.away(cloud) or (f"no operator took it within {seconds}" if now - began >= UNCLAIMED else "")
                if why and self._withdraw(order):
                    raise _unreachable(order.action, why)
            looked = now

    def _look(self, order: Standing) -> RowMapping | None:
        with self._store.read() as connection:
            return connection.execute(q.ORDER, {"order": order.id, "of_attempt": order.attempt}).mappings().first()

    def _read(self, row: RowMapping) -> Done:
        if not speech.is_write(row["action"]):
            with self._store.telemetry() as connection:  # nobody else has asked this question
                connection.execute(delete(t.orders).where(t.orders.c.number == row["number"]))
        return wire.structure(json.loads(self._keys.unseal(row["outcome"])), Done)

    def _withdraw(self, order: Standing) -> bool:
        """Take an order back that nobody was told of; return whether that was so."""
        o = t.orders.c
        with self._store.write() as connection:
            mine = (o.id == order.id) & (o.attempt == order.attempt) & o.given_at.is_(None)
            return connection.execute(delete(t.orders).where(mine)).rowcount == 1

    def _give_up(self, order: Standing) -> Done:
        is_unknown = not self._withdraw(order) and speech.is_write(order.action)
        raise DeadlineExceeded(
            f"the operator has not told in time what became of {order.action}", reason="REQUEST",
            applied=Applied.UNKNOWN if is_unknown else Applied.NO,
        )  # fmt: skip

    def _wait(self, bell: threading.Event, most: timedelta) -> None:
        if self.idle is not None:
            self.idle(most)
        else:
            bell.wait(max(0.0, most.total_seconds()))

    def _slip(self, row: RowMapping) -> OrderSlip:
        order = Order(
            id=row["id"], attempt=row["attempt"], number=row["number"], cloud=row["cloud"], plane=self._plane,
            action=row["action"], lane=row["lane"], arguments=json.loads(self._keys.unseal(row["body"])),
            expires_at=row["expires_at"],
        )  # fmt: skip
        return self._keys.sign_order(json.dumps(wire.unstructure_revealed(order)).encode())


def _ending(order: Standing) -> CloudError:
    applied = Applied.UNKNOWN if speech.is_write(order.action) else Applied.NO
    message = f"this control plane ends; what became of {order.action} is asked for again by the next one"
    return Transient(message, reason="SERVER", applied=applied, retry=Retry.WITH_TOKEN)


def _unreachable(action: str, why: str) -> CloudError:
    return Transient(
        f"{action} could not be ordered: {why}", reason="NETWORK", applied=Applied.NO, retry=Retry.SAME,
        hint="look at the operator's log and its /readyz; it needs to reach the control plane, nobody needs to reach it",
    )  # fmt: skip
