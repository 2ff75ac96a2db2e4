"""Heartbeats whose answer is held until there is news. Holding costs a small object, no thread.

An agent has two connections: one is held, the other carries what cannot wait. What is said on both must not contradict: when
the newer one was answered with orders, the older is let go with the same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import attrs
import structlog

from anyscale_core.api.hub import Hub
from anyscale_core.api.protocol import MAX_WAIT
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.errors import Refused
from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.node import Heartbeat, Orders
from anyscale_core.models.secret import Secret

Run = Callable[..., Awaitable[Any]]
"""Runs a function in one of the threads for machines."""

LOOK = timedelta(milliseconds=500)
"""How often is looked without a ring: another process of the same plane may have written."""
PAUSE = timedelta(milliseconds=10)
"""Between two looks: a storm of rings costs one look each."""
REMEMBERED = 10_000
"""Nodes of which the last orders are remembered."""
NOTHING = Orders()

log = structlog.get_logger(__name__)


@attrs.define(kw_only=True, eq=False)
class Held:
    """One heartbeat that waits for its answer. ``version``: of the cluster, when ``orders`` were worked out."""

    node: NodeId
    cluster: ClusterId
    seq: int
    credential: Secret[str]
    config_version: str
    version: int
    orders: Orders
    answer: "asyncio.Future[Orders]"


@attrs.frozen(kw_only=True)
class Look:
    """What a look found for one held heartbeat."""

    held: Held
    version: int
    orders: Orders
    refusal: Refused | None = None


class Heartbeating:
    """Answers heartbeats. All of its state belongs to the event loop; the plane is asked in threads."""

    def __init__(self, plane: ControlPlane, hub: Hub, run: Run) -> None:
        self._plane, self._hub, self._run = plane, hub, run
        self._held: dict[NodeId, Held] = {}
        self._given: dict[NodeId, Orders] = {}
        self._seen: dict[ClusterId, int] = {}
        """The version that was last woken for; any thread may write it, for a needless wake does no harm."""
        self.total = 0
        """Heartbeats that were accepted."""

    async def heartbeat(self, credential: Secret[str], beat: Heartbeat) -> Orders:
        """Record a heartbeat; return its orders at once when they are news, else when they are or ``wait`` is over.

        Raises Refused.
        """
        count = self._hub.count
        (node, cluster), version, orders = await self._run(self._first, credential, beat)
        self.total += 1
        wait = min(beat.wait, MAX_WAIT)
        older = self._held.get(node)
        is_late = older is not None and older.seq > beat.seq
        if wait <= timedelta() or is_late or not self._hub.is_open or self._is_news(node, orders):
            return self._give(node, beat.seq, orders)
        if older is not None:
            self._release(older, older.orders)
        held = Held(
            node=node, cluster=cluster, seq=beat.seq, credential=credential, config_version=beat.config_version,
            version=version, orders=orders, answer=asyncio.get_running_loop().create_future(),
        )  # fmt: skip
        self._held[node] = held
        if self._hub.count != count:
            self._hub.ring()  # something changed before this one could be looked at
        try:
            async with asyncio.timeout(wait.total_seconds()):
                return await held.answer
        except TimeoutError:
            return self._give(node, held.seq, held.orders)
        finally:
            if self._held.get(node) is held:
                del self._held[node]

    async def watch(self) -> None:
        """Let go of held heartbeats as soon as there is news for them; runs until it is cancelled."""
        while True:
            count = self._hub.count
            if self._held:
                for look in await self._run(self._look, tuple(self._held.values())):
                    self._found(look)
            await asyncio.sleep(PAUSE.total_seconds())
            await self._hub.changed(count, LOOK)

    def release_all(self) -> None:
        """Answer every held heartbeat with what is known: the service is about to end."""
        for held in tuple(self._held.values()):
            self._release(held, held.orders)

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _first(self, credential: Secret[str], beat: Heartbeat) -> tuple[tuple[NodeId, ClusterId], int, Orders]:
        plane = self._plane
        node, cluster = plane.heartbeats.identify(credential)
        plane.heartbeats.record(node, beat)
        # Read before the orders: what changes in between is then seen as a change.
        version = plane.store.version(cluster)
        orders = plane.heartbeats.orders(credential, beat.config_version)
        if version != self._seen.get(cluster):
            self._seen[cluster] = version
            plane.wake()
        return (node, cluster), version, orders

    def _look(self, held: tuple[Held, ...]) -> list[Look]:
        out: list[Look] = []
        versions: dict[ClusterId, int] = {}
        for one in held:
            try:
                if one.cluster not in versions:
                    versions[one.cluster] = self._plane.store.version(one.cluster)
                version = versions[one.cluster]
                if version != one.version:
                    orders = self._plane.heartbeats.orders(one.credential, one.config_version)
                    out.append(Look(held=one, version=version, orders=orders))
            except Refused as refusal:
                out.append(Look(held=one, version=one.version, orders=NOTHING, refusal=refusal))
            except Exception:
                log.exception("a held heartbeat could not be looked at; it is answered when its wait is over")
        return out

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def _found(self, look: Look) -> None:
        held = look.held
        if held.answer.done():
            return
        if look.refusal is not None:
            held.answer.set_exception(look.refusal)
            return
        held.version, held.orders = look.version, look.orders
        if self._is_news(held.node, look.orders):
            self._remember_given(held.node, look.orders)
            self._release(held, look.orders)

    def _is_news(self, node: NodeId, orders: Orders) -> bool:
        if orders == NOTHING:
            self._given.pop(node, None)  # the same orders would be news again
            return False
        return orders != self._given.get(node)

    def _give(self, node: NodeId, seq: int, orders: Orders) -> Orders:
        self._remember_given(node, orders)
        older = self._held.get(node)
        if orders != NOTHING and older is not None and older.seq < seq:
            self._release(older, orders)
        return orders

    def _remember_given(self, node: NodeId, orders: Orders) -> None:
        self._given.pop(node, None)
        if orders != NOTHING and not orders.forget:
            self._given[node] = orders
            if len(self._given) > REMEMBERED:
                del self._given[next(iter(self._given))]

    def _release(self, held: Held, orders: Orders) -> None:
        if not held.answer.done():
            held.answer.set_result(orders)
