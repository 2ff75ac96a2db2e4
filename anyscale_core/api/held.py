"""Heartbeats whose answer is held until there is news. Holding costs a small object, no thread.

An agent has two connections: one is held, the other carries what cannot wait. What is said on both must not contradict: when
the newer one was answered with orders, the older is let go with the same.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import attrs
import structlog

from anyscale_core.api.hub import Hub
from anyscale_core.api.protocol import MAX_WAIT
from anyscale_core.api.recording import Recording, Run
from anyscale_core.controlplane.credentials import Bearer
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.errors import Refused
from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.node import Heartbeat, Orders
from anyscale_core.models.secret import Secret

LOOK = timedelta(milliseconds=500)
"""How often is looked without a ring: another process of the same plane may have written."""
PAUSE = timedelta(milliseconds=10)
"""Between two looks: a storm of rings costs one look each."""
SHARE = 10
"""A pause is at least this many times what the look before it took: looks cost a tenth of a core at most."""
REMEMBERED = 10_000
"""Nodes of which the last orders are remembered."""
NOTHING = Orders()

log = structlog.get_logger(__name__)


@attrs.define(kw_only=True, eq=False)
class Held:
    """One heartbeat that waits for its answer. ``version``: of the cluster, when ``orders`` were worked out."""

    bearer: Bearer
    seq: int
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
        self._recording = Recording(plane, run)
        self._held: dict[ClusterId, dict[NodeId, Held]] = {}
        self._given: dict[NodeId, Orders] = {}
        self.total = 0
        """Heartbeats that were accepted."""

    async def heartbeat(self, credential: Secret[str], beat: Heartbeat) -> Orders:
        """Record a heartbeat; return its orders at once when they are news, else when they are or ``wait`` is over.

        Raises Refused.
        """
        count = self._hub.count
        taken = await self._recording.take(credential, beat)
        self.total += 1
        bearer, orders = taken.bearer, taken.orders
        wait = min(beat.wait, MAX_WAIT)
        older = self._held_for(bearer)
        is_late = older is not None and older.seq > beat.seq
        if wait <= timedelta() or is_late or not self._hub.is_open or self._is_news(bearer.node_id, orders):
            return self._give(bearer, beat.seq, orders)
        if older is not None:
            self._release(older, older.orders)
        held = Held(
            bearer=bearer, seq=beat.seq, config_version=beat.config_version, version=taken.version, orders=orders,
            answer=asyncio.get_running_loop().create_future(),
        )  # fmt: skip
        self._held.setdefault(bearer.cluster_id, {})[bearer.node_id] = held
        if self._hub.count != count:
            self._hub.ring()  # something changed before this one could be looked at
        try:
            async with asyncio.timeout(wait.total_seconds()):
                return await held.answer
        except TimeoutError:
            return self._give(bearer, held.seq, held.orders)
        finally:
            self._drop(held)

    async def watch(self) -> None:
        """Let go of held heartbeats as soon as there is news for them; runs until it is cancelled."""
        while True:
            count, began = self._hub.count, time.perf_counter()
            if self._held:
                await self._look_at_all()
            took = time.perf_counter() - began
            await asyncio.sleep(max(PAUSE.total_seconds(), SHARE * took))
            await self._hub.changed(count, LOOK)

    def release_all(self) -> None:
        """Answer every held heartbeat with what is known: the service is about to end."""
        for held in [held for nodes in self._held.values() for held in nodes.values()]:
            self._release(held, held.orders)

    async def _look_at_all(self) -> None:
        """Ask for the versions of the clusters, and for the orders of those nodes alone whose cluster has changed."""
        try:
            versions = await self._run(self._plane.store.versions, tuple(self._held))
            stale = tuple(self._stale(versions))
            looks = await self._run(self._look, stale, versions) if stale else ()
        except Exception:
            log.exception("held heartbeats could not be looked at; each is answered when its wait is over")
            return
        for look in looks:
            self._found(look)

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _look(self, stale: Sequence[Held], versions: Mapping[ClusterId, int]) -> list[Look]:
        out: list[Look] = []
        for one in stale:
            version = versions.get(one.bearer.cluster_id, 0)
            try:
                orders = self._plane.heartbeats.orders(one.bearer, one.config_version, version=version)
                out.append(Look(held=one, version=version, orders=orders))
            except Refused as refusal:
                out.append(Look(held=one, version=version, orders=NOTHING, refusal=refusal))
            except Exception:
                log.exception("a held heartbeat could not be looked at; it is answered when its wait is over")
        return out

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def _stale(self, versions: Mapping[ClusterId, int]) -> Iterable[Held]:
        for cluster_id, nodes in self._held.items():
            version = versions.get(cluster_id, 0)
            yield from (held for held in nodes.values() if held.version != version)

    def _found(self, look: Look) -> None:
        held = look.held
        if held.answer.done():
            return
        if look.refusal is not None:
            held.answer.set_exception(look.refusal)
            return
        held.version, held.orders = look.version, look.orders
        node = held.bearer.node_id
        if self._is_news(node, look.orders):
            self._remember_given(node, look.orders)
            self._release(held, look.orders)

    def _is_news(self, node: NodeId, orders: Orders) -> bool:
        if orders == NOTHING:
            self._given.pop(node, None)  # the same orders would be news again
            return False
        return orders != self._given.get(node)

    def _give(self, bearer: Bearer, seq: int, orders: Orders) -> Orders:
        self._remember_given(bearer.node_id, orders)
        older = self._held_for(bearer)
        if orders != NOTHING and older is not None and older.seq < seq:
            self._release(older, orders)
        return orders

    def _remember_given(self, node: NodeId, orders: Orders) -> None:
        self._given.pop(node, None)
        if orders != NOTHING and not orders.forget:
            self._given[node] = orders
            if len(self._given) > REMEMBERED:
                del self._given[next(iter(self._given))]

    def _held_for(self, bearer: Bearer) -> Held | None:
        return self._held.get(bearer.cluster_id, {}).get(bearer.node_id)

    def _drop(self, held: Held) -> None:
        nodes = self._held.get(held.bearer.cluster_id, {})
        if nodes.get(held.bearer.node_id) is held:
            del nodes[held.bearer.node_id]
            if not nodes:
                del self._held[held.bearer.cluster_id]

    def _release(self, held: Held, orders: Orders) -> None:
        if not held.answer.done():
            held.answer.set_result(orders)
