"""Heartbeats recorded together: what comes in while others are being recorded shares the next transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs

from anyscale_core.controlplane.credentials import Bearer
from anyscale_core.controlplane.heartbeats import Taken
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.models.node import Heartbeat
from anyscale_core.models.secret import Secret

Run = Callable[..., Awaitable[Any]]
"""Runs a function in one of the threads for machines."""

GATHER = timedelta(milliseconds=10)
"""Between two transactions: one that comes alone is recorded at once, of many each costs its share of one."""
MAX_BATCH = 500
"""Heartbeats in one transaction."""


@attrs.frozen(kw_only=True, eq=False)
class Waiting:
    """One heartbeat that is to be recorded."""

    credential: Secret[str]
    beat: Heartbeat
    taken: "asyncio.Future[Taken]"


class Recording:
    """The way in for heartbeats. Its state belongs to the event loop; the plane is asked in threads."""

    def __init__(self, plane: ControlPlane, run: Run) -> None:
        self._plane, self._run = plane, run
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def take(self, credential: Secret[str], beat: Heartbeat) -> Taken:
        """Record a heartbeat and return what came of it. Raises Refused."""
        one = Waiting(credential=credential, beat=beat, taken=asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._task is None:
            self._task = asyncio.create_task(self._empty(), name="recording heartbeats")
        return await one.taken

    async def _empty(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                outcomes = await self._run(self._record, batch)
                for one, outcome in zip(batch, outcomes, strict=True):
                    _settle(one.taken, outcome)
                await asyncio.sleep(GATHER.total_seconds())
        finally:
            self._task = None

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _record(self, batch: Sequence[Waiting]) -> list[Taken | Exception]:
        said = [self._identified(one) for one in batch]
        good = [one for one in said if not isinstance(one, Exception)]
        try:
            taken = self._plane.heartbeats.take(good)
        except Exception:
            taken = [self._alone(one) for one in good]  # so that none fails for another's sake
        if any(isinstance(one, Taken) and one.news for one in taken):
            self._plane.wake()
        left = iter(taken)
        return [one if isinstance(one, Exception) else next(left) for one in said]

    def _identified(self, one: Waiting) -> tuple[Bearer, Heartbeat] | Exception:
        try:
            return self._plane.heartbeats.identify(one.credential), one.beat
        except Exception as error:
            return error

    def _alone(self, one: tuple[Bearer, Heartbeat]) -> Taken | Exception:
        try:
            return self._plane.heartbeats.take([one])[0]
        except Exception as error:
            return error


def _settle(future: "asyncio.Future[Taken]", outcome: Taken | Exception) -> None:
    if future.done():
        return  # whoever asked has gone
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
