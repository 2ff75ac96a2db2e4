"""Operators' polls, held until there are orders. Holding costs a small object, no thread.

An order that is recorded here is looked for at once, for the polls of its cloud alone. What another process has recorded is
looked for when the store tells of it, and now and then.
"""

import asyncio
import threading
import time
from collections.abc import Iterable
from datetime import timedelta

import attrs
import structlog

from anyscale_core.api.held import LOOK, PAUSE, SHARE
from anyscale_core.api.hub import Hub
from anyscale_core.api.protocol import MAX_WAIT
from anyscale_core.api.recording import Run
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.errors import Refused
from anyscale_core.models.order import Dispatch, Poll
from anyscale_core.models.secret import Secret

log = structlog.get_logger(__name__)


@attrs.define(kw_only=True, eq=False)
class HeldPoll:
    """One poll that waits for its answer."""

    cloud: str
    credential: Secret[str]
    poll: Poll
    answer: "asyncio.Future[Dispatch]"
    is_looked_at: bool = False
    is_rung: bool = False
    """Whether there was a ring since its orders were last looked for."""


class Polling:
    """Answers polls. All of its state belongs to the event loop; the plane is asked in threads."""

    def __init__(self, plane: ControlPlane, run: Run) -> None:
        self._plane, self._run = plane, run
        self._hub = Hub()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[str, dict[str, HeldPoll]] = {}
        """By cloud, then by replica."""
        self._looks: set[asyncio.Task[None]] = set()
        self._rings = 0
        self._lock = threading.Lock()
        plane.mailbox.on_order(self._ring)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to hold."""
        self._loop = loop
        self._hub.open(loop)

    async def poll(self, credential: Secret[str], poll: Poll) -> Dispatch:
        """Return an operator's orders at once when there are any, else when there are or ``wait`` is over. Raises Refused."""
        count, rings = self._hub.count, self._rings
        orders: Dispatch = await self._run(self._plane.operators.poll, credential, poll)
        bearer = self._plane.operators.identify(credential)
        wait = min(poll.wait, MAX_WAIT)
        replicas = self._held.setdefault(bearer.cloud, {})
        if bearer.replica in replicas:
            _release(replicas[bearer.replica], orders)  # who asks again does not wait for the answer before
        if orders.slips or poll.leaving or wait <= timedelta() or not self._hub.is_open:
            return orders
        answer: asyncio.Future[Dispatch] = asyncio.get_running_loop().create_future()
        held = HeldPoll(cloud=bearer.cloud, credential=credential, poll=poll, answer=answer)
        replicas[bearer.replica] = held
        if (self._hub.count, self._rings) != (count, rings):
            self._look_soon(held)  # something changed before this one could be looked at
        try:
            async with asyncio.timeout(wait.total_seconds()):
                return await answer
        except TimeoutError:
            return attrs.evolve(orders, now=self._plane.clock.now())
        finally:
            if replicas.get(bearer.replica) is held:
                del replicas[bearer.replica]

    async def watch(self) -> None:
        """Let go of held polls for which another process has orders; runs until it is cancelled."""
        while True:
            count, began = self._hub.count, time.perf_counter()
            if any(self._held.values()):
                await self._look_at_all()
            took = time.perf_counter() - began
            await asyncio.sleep(max(PAUSE.total_seconds(), SHARE * took))
            await self._hub.changed(count, LOOK)

    def release_all(self) -> None:
        """Answer every held poll: the service is about to end."""
        self._hub.close()
        with self._lock:
            self._loop = None
        for held in self._all():
            _release(held, Dispatch(now=self._plane.clock.now(), leads=False))

    # -- from any thread -----------------------------------------------------------------------------------------------

    def _ring(self, cloud: str) -> None:
        if not cloud:
            self._hub.ring()
            return
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._rung, cloud)

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def _rung(self, cloud: str) -> None:
        self._rings += 1
        for held in self._held.get(cloud, {}).values():
            self._look_soon(held)

    def _look_soon(self, held: HeldPoll) -> None:
        held.is_rung = True
        if not held.is_looked_at:
            task = asyncio.create_task(self._attend(held))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _attend(self, held: HeldPoll) -> None:
        held.is_looked_at = True
        while held.is_rung and not held.answer.done():
            held.is_rung = False
            await self._look_at(held)
        held.is_looked_at = False

    async def _look_at_all(self) -> None:
        try:
            waiting = await self._run(self._plane.mailbox.waiting)
        except Exception:
            log.exception("held polls could not be looked at; each is answered when its wait is over")
            return
        for held in self._all():
            if held.cloud in waiting:
                self._look_soon(held)

    async def _look_at(self, held: HeldPoll) -> None:
        try:
            orders = await self._run(self._plane.operators.look, held.credential, held.poll)
        except Refused as refusal:
            if not held.answer.done():
                held.answer.set_exception(refusal)
            return
        except Exception:
            log.exception("a held poll could not be looked at; it is answered when its wait is over")
            return
        if orders.slips and not held.answer.done():
            held.answer.set_result(orders)

    def _all(self) -> Iterable[HeldPoll]:
        return [held for replicas in self._held.values() for held in replicas.values()]


def _release(held: HeldPoll, orders: Dispatch) -> None:
    if not held.answer.done():
        held.answer.set_result(attrs.evolve(orders, slips=()))
