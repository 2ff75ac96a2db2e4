"""The bell between threads and coroutines."""

import asyncio
import threading
import time
from datetime import timedelta

from anyscale_core.api.hub import Hub

LONG = timedelta(seconds=5)


async def _open() -> Hub:
    hub = Hub()
    hub.open(asyncio.get_running_loop())
    return hub


def test_a_ring_from_a_thread_wakes_everybody_who_waits() -> None:
    async def story() -> float:
        hub = await _open()
        threading.Timer(0.05, hub.ring).start()
        began = time.monotonic()
        await asyncio.gather(hub.changed(hub.count, LONG), hub.changed(hub.count, LONG))
        return time.monotonic() - began

    assert asyncio.run(story()) < 2


def test_a_ring_while_somebody_looks_elsewhere_is_not_missed() -> None:
    async def story() -> float:
        hub = await _open()
        count = hub.count
        hub.ring()
        await asyncio.sleep(0.01)  # the loop hears it while nobody waits
        began = time.monotonic()
        await hub.changed(count, LONG)
        return time.monotonic() - began

    assert asyncio.run(story()) < 1


def test_without_a_ring_the_wait_ends_after_its_timeout_and_after_the_end_at_once() -> None:
    async def story() -> tuple[float, float]:
        hub = await _open()
        began = time.monotonic()
        await hub.changed(hub.count, timedelta(seconds=0.1))
        waited = time.monotonic() - began
        hub.close()
        began = time.monotonic()
        await hub.changed(hub.count, LONG)
        hub.ring()
        return waited, time.monotonic() - began

    waited, after_the_end = asyncio.run(story())
    assert waited >= 0.09
    assert after_the_end < 1
