"""The agent of one node: registers, starts Ray as configured, carries out orders, drains. All decisions in one thread."""

import enum
import logging
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import attrs

from anyscale_core import __version__
from anyscale_core.errors import CoreError, Refused
from anyscale_core.models.identity import Proof
from anyscale_core.models.instance import Bootstrap, NodeKind
from anyscale_core.models.node import (
    Drain,
    DrainMode,
    GcsStorage,
    HeadReport,
    Heartbeat,
    NodeConfig,
    Orders,
    RayStatus,
    Registered,
    Registration,
)
from anyscale_core.node import store
from anyscale_core.node.beats import Backoff, Beats
from anyscale_core.node.certificates import LAST, RENEW, Certificates
from anyscale_core.node.door import Door
from anyscale_core.node.home import Home
from anyscale_core.node.jobs import Jobs, JobsApi
from anyscale_core.node.link import Link
from anyscale_core.node.rayargs import TLS_FOLDER
from anyscale_core.node.rayrun import Loss, Ray

REGISTERED = "registered.json"
DASHBOARD_AFTER = 3.0
"""Seconds after a head is ALIVE at which its dashboard starts although its first workers are not there yet."""
TICK = 0.25
"""Seconds between two looks at deadlines; everything else wakes the agent."""

DASHBOARD_AGAIN = 5.0
"""Seconds between two tries to start a dashboard that does not stay up."""
RENEWAL_AGAIN = 30.0
"""Seconds between two tries to have a head's certificate renewed."""
BELATED = 5.0
"""Seconds after a new registration in which a refusal of the old credential may still come in."""
BEATS_OF_A_LIFE = 10**9
"""``seq`` must grow over restarts of the agent too, whatever the clock does: each life has its own thousand million."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Exit(enum.IntEnum):
    """How an agent ends."""

    DONE = 0
    """Forgotten by the control plane, or told to end by a signal."""
    UNUSABLE = 2
    """The bootstrap file, or the provider that it names, cannot be used here."""
    REFUSED = 3
    """The control plane does not know this node, or does not believe it."""


class Agent:
    """One node's agent. ``run`` returns when it has ended, with nothing of Ray left."""

    def __init__(
        self,
        *,
        bootstrap: Bootstrap,
        home: Home,
        name: str,
        address: str,
        volume: Path,
        prove: Callable[[], Proof],
        launcher: "subprocess.Popen[str]",
    ) -> None:
        self._bootstrap, self._home, self._name, self._prove = bootstrap, home, name, prove
        self._address = address or own_address(bootstrap.url)
        self._certificates = Certificates(
            home.path / TLS_FOLDER, address=self._address,
            ask=lambda request: Link(bootstrap).certify(request, credential=self._known.credential),
        )  # fmt: skip
        self._ray = Ray(home, volume=volume, address=self._address, on_change=self._on_change, launcher=launcher)
        self._jobs = Jobs(home, on_change=self._on_change)
        self._door = Door(home.path, on_change=self._on_change)
        self._beats: Beats | None = None
        self._registered: Registered | None = None
        self._inbox: queue.SimpleQueue[Orders | Refused | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._seq = _lives(home) * BEATS_OF_A_LIFE
        self._drain: Drain | None = None
        self._exit: Exit | None = None
        self._terminated = False
        self._renewed_at = self._dashboard_asked_at = self._renewal_asked_at = float("-inf")

    def run(self) -> Exit:
        """Live: until forgotten, refused or told to end."""
        try:
            self._registered = self._home.load_as(REGISTERED, Registered) or self._persist(self._register)
            if not self._certificates.usable(datetime.now(UTC)):
                self._persist(self._certificates.renew)
        except Refused as refused:
            log.error(
                "%s. Remedy: check that the cluster still wants this node and that its join token is not used", refused
            )
            self._ray.stop(status=RayStatus.STOPPED)
            return Exit.REFUSED
        if not self._ray.adopt(self._config):
            if self._config.gcs_storage is GcsStorage.MEMORY:
                self._jobs.forget()
            else:
                self._jobs.interrupt()
        self._beats = Beats(
            self._bootstrap,
            compose=self._compose,
            credential=lambda: self._known.credential,
            interval=lambda: self._config.heartbeat_interval,
            on_orders=self._inbox.put,
            on_refused=self._inbox.put,
        )
        self._step()
        self._beats.start()
        while self._exit is None:
            self._take()
            self._step()
        self._beats.close()
        self._door.close()
        self._ray.stop(status=RayStatus.STOPPED)
        return self._exit

    def terminate(self) -> None:
        """End soon: stop Ray, put the logs away. For a signal handler."""
        self._terminated = True
        self._inbox.put(None)

    @property
    def _known(self) -> Registered:
        assert self._registered is not None
        return self._registered

    @property
    def _config(self) -> NodeConfig:
        return self._known.config

    def _register(self) -> Registered:
        registered = Link(self._bootstrap).register(self._introduction())
        self._home.save(REGISTERED, registered)
        log.info("registered as node %s of cluster %s", registered.config.node_id, registered.config.cluster_name)
        return registered

    def _persist(self, ask: Callable[[], T]) -> T:
        """Return what the control plane answers, trying for ever while it is away. Raises Refused."""
        backoff, told = Backoff(), ""
        while True:
            try:
                return ask()
            except Refused:
                raise
            except CoreError as error:
                if str(error) != told:
                    log.warning("registering does not work yet, trying again: %s", error)
                told = str(error)
                if self._pause(backoff.pause()):
                    raise Refused("terminated", "the agent was told to end before it was registered")

    def _introduction(self) -> Registration:
        return Registration(
            join_token=self._bootstrap.join_token,
            nonce=self._home.nonce(),
            proof=self._prove(),
            agent_version=__version__,
        )

    def _pause(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._terminated and (left := deadline - time.monotonic()) > 0:
            threading.Event().wait(min(left, TICK))
        return self._terminated

    def _on_change(self) -> None:
        self._inbox.put(None)
        if self._beats is not None:
            self._beats.changed()

    def _take(self) -> None:
        """Wait for something to happen, then take in all that has."""
        try:
            items = [self._inbox.get(timeout=self._patience())]
        except queue.Empty:
            return
        while not self._inbox.empty():
            items.append(self._inbox.get())
        for item in items:
            if isinstance(item, Orders):
                self._obey(item)
            elif isinstance(item, Refused):
                self._refused(item)

    def _patience(self) -> float | None:
        """Return seconds until something is due by the clock alone; None when nothing is."""
        state = self._ray.state
        waits_for_dashboard = state.status is RayStatus.ALIVE and self._is_head and not state.dashboard
        return TICK if self._drain is not None or waits_for_dashboard else None

    def _obey(self, orders: Orders) -> None:
        if orders.forget:
            log.info("the control plane has forgotten this node: ending")
            self._exit = Exit.DONE
            return
        if orders.credential is not None or orders.config is not None:
            self._renew(orders)
        self._drain = orders.drain
        self._jobs.order(orders.jobs, orders.stop_jobs)
        self._ray.forget_drains(orders.drain_nodes)
        if self._ray.state.status is RayStatus.ALIVE and self._is_head:
            for order in orders.drain_nodes:
                self._ray.drain_node(order)
            for ray_id, reason in orders.unregister.items():
                self._ray.unregister(ray_id, reason)

    def _renew(self, orders: Orders) -> None:
        known = self._known
        fresh = attrs.evolve(
            known,
            credential=orders.credential or known.credential,
            expires_at=orders.credential_expires_at or known.expires_at,
            config=orders.config or known.config,
        )
        if fresh != known:
            self._home.save(REGISTERED, fresh)
            self._registered = fresh

    def _refused(self, refused: Refused) -> None:
        """The credential is not accepted: gone with the node, or only too old. The join token and the nonce tell."""
        if self._ray.state.status is RayStatus.STOPPED:
            self._exit = Exit.DONE
            return
        if time.monotonic() - self._renewed_at < BELATED:
            return
        try:
            self._registered = self._persist(self._register)
            self._renewed_at = time.monotonic()
        except Refused as again:
            log.error("%s; and again: %s. Stopping Ray: this node belongs to no cluster any more", refused, again)
            self._end_ray(RayStatus.DOWN, str(again))
            self._put_logs()
            self._exit = Exit.REFUSED

    @property
    def _is_head(self) -> bool:
        return self._config.kind is NodeKind.HEAD

    def _step(self) -> None:
        """Do what is due now, given the configuration, the orders and the state of Ray."""
        state = self._ray.state
        if self._exit is not None or state.status is RayStatus.STOPPED:
            return
        if self._terminated:
            self._leave()
            self._exit = Exit.DONE
        elif self._drain is not None and self._drain_due(self._drain):
            self._leave()
        elif self._is_to_renew():
            self._restart("its certificate comes to its end")
        elif state.loss is not Loss.NOTHING:
            self._come_back(state.detail)
        elif state.status is RayStatus.DOWN:
            if self._ray.holds:
                # Nothing of a broken Ray is of use to anyone, and its ports and memory may be needed.
                self._end_ray(RayStatus.DOWN, state.detail)
            self._start_if_due()
        elif self._drain is None:
            self._start_if_due()
        self._extras()

    def _start_if_due(self) -> None:
        """Start Ray when there is a head to be or to join; leave a head that is no longer the cluster's."""
        head, state = self._config.head, self._ray.state
        if head is None and not self._is_head:
            # The next head may go on where the last one was: then this Ray finds it by itself.
            waits = state.status is RayStatus.ALIVE and self._config.gcs_storage is GcsStorage.VOLUME
            if state.status is not RayStatus.WAITING and not waits:
                self._end_ray(RayStatus.WAITING, "")
                self._ray.prepare()
            return
        epoch = head.epoch if head else ""
        if state.status is RayStatus.WAITING:
            self._start(epoch)
        elif self._is_head and not state.epoch and state.status is not RayStatus.DOWN:
            # It was started before the control plane had a name for it.
            if epoch:
                self._ray.name_epoch(epoch)
        elif head is not None and not self._is_head and state.belongs_to(head):
            if state.epoch != epoch:
                self._ray.name_epoch(epoch)
        elif state.epoch != epoch or (
            state.status is RayStatus.ALIVE and head is not None and state.lives_without(head)
        ):
            self._end_ray(RayStatus.WAITING, "")
            self._start(epoch)

    def _start(self, epoch: str) -> None:
        self._freshen()
        self._ray.start(self._config, epoch=epoch)

    def _freshen(self) -> None:
        """Have a young certificate for the Ray that is about to start; while the control plane is away, the one there is."""
        if not self._certificates.due(datetime.now(UTC)):
            return
        try:
            self._certificates.renew()
        except CoreError as error:
            log.warning("Ray starts with its old certificate, there is no new one yet: %s", error)

    def _come_back(self, detail: str) -> None:
        """Start again what the head has lost, on what its GCS has stored; the workers' Rays wait for it."""
        if self._ray.restart_gcs():
            return
        self._restart(detail)

    def _restart(self, detail: str) -> None:
        self._door.close()
        self._jobs.interrupt()
        self._freshen()
        self._ray.restart(self._config, detail=detail)

    def _is_to_renew(self) -> bool:
        """Tell whether a head's Ray is to be started again because of its certificate, for which there is a new one now.

        When no job runs; at the latest when little of its life is left. Workers are replaced by the control plane.
        """
        current, now = self._certificates.current, datetime.now(UTC)
        kept = self._is_head and self._config.gcs_storage is not GcsStorage.MEMORY
        if current is None or not kept or self._ray.state.status is not RayStatus.ALIVE or now < current.after(RENEW):
            return False
        if self._jobs.unfinished and now < current.after(LAST):
            return False
        if time.monotonic() - self._renewal_asked_at < RENEWAL_AGAIN:
            return False
        self._renewal_asked_at = time.monotonic()
        self._freshen()
        return self._certificates.current is not current

    def _end_ray(self, status: RayStatus, detail: str) -> None:
        self._door.close()
        self._jobs.forget()
        self._ray.stop(status=status, detail=detail)

    def _extras(self) -> None:
        """On a head: its dashboard, its gateway, its jobs."""
        state = self._ray.state
        if not self._is_head or state.status is not RayStatus.ALIVE or state.started is None:
            return
        if not state.dashboard:
            self._jobs.disconnect()
            if self._dashboard_due():
                self._dashboard_asked_at = time.monotonic()
                self._ray.start_dashboard()
            return
        self._jobs.connect(
            JobsApi(address=state.dashboard, token=self._config.ray_token),
            logs=Path(state.started.session_dir) / "logs",
            store=self._config.store,
        )
        self._door.open(self._config, address=self._address, upstream=state.dashboard)

    def _dashboard_due(self) -> bool:
        """Tell whether the dashboard may take its 2 s of CPU: not while the first workers need them, nor for ever after."""
        state = self._ray.state
        if time.monotonic() - self._dashboard_asked_at < DASHBOARD_AGAIN:
            return False
        workers = sum(node.status in ("RUNNING", "IDLE") for node in state.view.ray_nodes) - 1
        late = time.monotonic() - state.since > DASHBOARD_AFTER
        return late or self._jobs.waiting or (workers >= self._config.expected_workers and bool(state.view.ray_nodes))

    def _drain_due(self, drain: Drain) -> bool:
        """Tell whether a drained node's Ray is to be stopped now. Ray itself ends a worker's raylet when it is free."""
        state = self._ray.state
        if drain.mode is DrainMode.NOW or state.status in (RayStatus.DOWN, RayStatus.WAITING):
            return True
        if drain.mode is DrainMode.IDLE:
            return False
        own = [node for node in state.view.ray_nodes if state.started and node.ray_id == state.started.ray_id]
        return datetime.now(UTC) >= drain.deadline or any(node.status == "IDLE" for node in own)

    def _leave(self) -> None:
        """Stop Ray, put its logs away, be STOPPED. Until then the status stays: DOWN would speak of a failure."""
        detail = "told to end by a signal" if self._drain is None else f"drained ({self._drain.mode.value})"
        status = RayStatus.DOWN if self._drain is None else self._ray.state.status
        self._end_ray(status, detail)
        trouble = self._put_logs()
        self._ray.stopped(f"{detail}; {trouble}" if trouble else detail)

    def _put_logs(self) -> str:
        """Put Ray's logs away; return why that was not possible, or nothing."""
        try:
            count = store.put_logs(self._config.store, self._name, self._home.ray_temp)
        except Exception as error:  # obstore has no common base; a node must be able to go without its logs
            log.warning("Ray's logs were not put away: %s", error)
            return f"its logs were not put away: {error}"
        log.info("%d logs were put away", count)
        return ""

    def _compose(self, wait: timedelta) -> Heartbeat:
        state, config = self._ray.state, self._config
        with self._lock:
            self._seq += 1
            seq = self._seq
        return Heartbeat(
            seq=seq,
            wait=wait,
            config_version=config.version,
            epoch=state.epoch,
            # A raylet that ended because it was drained has not failed; STOPPED follows when its logs are put away.
            ray=RayStatus.ALIVE if self._drain is not None and state.status is RayStatus.DOWN else state.status,
            ray_id=state.started.ray_id if state.started else "",
            detail=state.detail,
            renew_at=current.after(RENEW) if (current := self._certificates.current) is not None else None,
            head=self._head_report() if self._is_head else None,
        )

    def _head_report(self) -> HeadReport | None:
        state = self._ray.state
        if not state.gcs_address:
            return None
        return HeadReport(
            gcs_address=state.gcs_address,
            ray_cluster_id=state.started.cluster_id if state.started else "",
            gateway_port=self._door.port,
            demand=state.view.demand,
            gangs=state.view.gangs,
            constraints=state.view.constraints,
            demand_age=state.demand_age(),
            ray_nodes=state.view.ray_nodes,
            jobs=self._jobs.reports,
            drains={order.ray_id: answer for order, answer in state.drains.items()},
        )


def _lives(home: Home) -> int:
    """Count this life of the agent; return its number, from 1."""
    lives = int(home.load("lives.json") or 0) + 1
    home.save("lives.json", lives)
    return lives


def own_address(url: str) -> str:
    """Return the address of this machine on its way to the control plane; nothing is sent."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname or "127.0.0.1", parts.port or 443))
        return str(probe.getsockname()[0])
