"""Operators' polls, held until there are orders. Holding costs a small object, no thread."""

import asyncio
import time
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


class Polling:
    """Answers polls. All of its state belongs to the event loop; the plane is asked in threads."""

    def __init__(self, plane: ControlPlane, run: Run) -> None:
        self._plane, self._run = plane, run
        self._hub = Hub()
        self._held: dict[tuple[str, str], HeldPoll] = {}
        plane.mailbox.on_order(self._hub.ring)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to hold."""
        self._hub.open(loop)

    async def poll(self, credential: Secret[str], poll: Poll) -> Dispatch:
        """Return an operator's orders at once when there are any, else when there are or ``wait`` is over. Raises Refused."""
        count = self._hub.count
        orders: Dispatch = await self._run(self._plane.operators.poll, credential, poll)
        bearer = self._plane.operators.identify(credential)
        key, wait = (bearer.cloud, bearer.replica), min(poll.wait, MAX_WAIT)
        self._release(key, orders)  # who asks again does not wait for the answer before
        if orders.slips or poll.leaving or wait <= timedelta() or not self._hub.is_open:
            return orders
        answer: asyncio.Future[Dispatch] = asyncio.get_running_loop().create_future()
        held = self._held[key] = HeldPoll(cloud=bearer.cloud, credential=credential, poll=poll, answer=answer)
        if self._hub.count != count:
            self._hub.ring()  # something changed before this one could be looked at
        try:
            async with asyncio.timeout(wait.total_seconds()):
                return await answer
        except TimeoutError:
            return attrs.evolve(orders, now=self._plane.clock.now())
        finally:
            if self._held.get(key) is held:
                del self._held[key]

    async def watch(self) -> None:
        """Let go of held polls as soon as there are orders for them; runs until it is cancelled."""
        while True:
            count, began = self._hub.count, time.perf_counter()
            if self._held:
                await self._look_at_all()
            took = time.perf_counter() - began
            await asyncio.sleep(max(PAUSE.total_seconds(), SHARE * took) if self._held else 0)
            await self._hub.changed(count, LOOK)

    def release_all(self) -> None:
        """Answer every held poll: the service is about to end."""
        self._hub.close()
        for key in tuple(self._held):
            self._release(key, Dispatch(now=self._plane.clock.now(), leads=False))

    async def _look_at_all(self) -> None:
        try:
            waiting = await self._run(self._plane.mailbox.waiting)
        except Exception:
            log.exception("held polls could not be looked at; each is answered when its wait is over")
            return
        await asyncio.gather(*(self._look_at(held) for held in [*self._held.values()] if held.cloud in waiting))

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

    def _release(self, key: tuple[str, str], orders: Dispatch) -> None:
        held = self._held.get(key)
        if held is not None and not held.answer.done():
            held.answer.set_result(attrs.evolve(orders, slips=()))
