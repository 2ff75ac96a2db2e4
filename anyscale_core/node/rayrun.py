"""Ray on this node: started through a launcher, watched, stopped. Thread-safe; every change calls ``on_change``."""

import enum
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import attrs

from anyscale_core.models import wire
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import DrainAnswer, DrainMode, GcsStorage, HeadAddress, NodeConfig, NodeDrain, RayStatus
from anyscale_core.node import sessions
from anyscale_core.node.gcsstore import GcsStore
from anyscale_core.node.home import Home
from anyscale_core.node.rayargs import node_environment, start_arguments
from anyscale_core.node.rayprivate import Started
from anyscale_core.node.view import HeadView
from anyscale_core.node.warm import spawn_launcher

RECORD = "ray.json"
COMEBACKS, COMEBACKS_IN = 5, 60.0
"""How often a Ray may be started again within so many seconds before it counts as DOWN."""
ALONE = 0.1
"""Seconds after the end of a gcs_server in which its raylet may be seen to have ended with it."""
LEAVE = 0.3
"""Seconds that a raylet has to tell its cluster good-bye (it needs about 0.03) before everything is killed."""

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Record:
    """What the next agent must know of a Ray that outlives this one. Written before Ray is started, completed after."""

    session: int
    epoch: str
    started: Started | None = None
    born: float = 0.0
    """When the raylet was started, so that another process with its pid is not taken for it."""
    dashboard: str = ""
    dashboard_pid: int = 0


class Loss(enum.Enum):
    """What a head has lost and can be started again, on what its GCS has stored."""

    NOTHING = "nothing"
    GCS = "gcs"
    RAY = "ray"


@attrs.frozen(kw_only=True)
class RayState:
    """A snapshot: what an agent reports. ``since``: seconds of the monotonic clock at which the status began."""

    status: RayStatus = RayStatus.WAITING
    detail: str = ""
    epoch: str = ""
    since: float = 0.0
    started: Started | None = None
    gcs_address: str = ""
    """A head's ``host:port``; stays what it was while the head is started again."""
    loss: Loss = Loss.NOTHING
    """What has to be started again now; the status is STARTING meanwhile."""
    dashboard: str = ""
    """``host:port``; empty until it runs."""
    view: HeadView = attrs.field(factory=HeadView)
    wanted_since: float = 0.0
    """Since when the demand of ``view`` has been as it is."""
    drains: Mapping[NodeDrain, DrainAnswer] = attrs.field(factory=dict)

    def belongs_to(self, head: HeadAddress) -> bool:
        """Tell whether this Ray is one of this head's already: its GCS is the same one, or goes on from the same storage."""
        ray = self.started
        if self.status is not RayStatus.ALIVE or ray is None or not head.ray_cluster_id:
            return False
        return (ray.cluster_id, ray.gcs_address) == (head.ray_cluster_id, head.address)

    def lives_without(self, head: HeadAddress) -> bool:
        """Tell whether this Ray looks for its head where that is not."""
        alive = self.status is RayStatus.ALIVE and self.started is not None
        return alive and bool(head.address) and self.gcs_address != head.address

    def demand_age(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self.wanted_since) if self.wanted_since else timedelta()


class Ray:
    """The Ray of one node. One start at a time; ``stop`` ends it to the last process."""

    def __init__(
        self, home: Home, *, volume: Path, address: str, on_change: Callable[[], None],
        launcher: "subprocess.Popen[str]",
    ) -> None:  # fmt: skip
        self._home = home
        self._volume = volume
        self._store: GcsStore | None = None
        self._comebacks: deque[float] = deque(maxlen=COMEBACKS)
        self._address = address
        self._on_change = on_change
        self._launcher: subprocess.Popen[str] | None = launcher
        self._lock = threading.RLock()
        self._turn = 0
        """Counts starts and stops: what an earlier launcher or watcher still says is not heard."""
        self._record: Record | None = None
        self._told: set[str] = set()
        self._asked: set[NodeDrain] = set()
        self.state = RayState()

    def prepare(self) -> None:
        """Have a warm launcher at hand for the next start."""
        if self._launcher is None or self._launcher.poll() is not None:
            self._launcher = spawn_launcher(self._home.path)

    def start(self, config: NodeConfig, *, epoch: str) -> None:
        """Start Ray as configured and return at once; ``state`` tells how it goes."""
        self.prepare()
        with self._lock:
            self._turn += 1
            self._keep(Record(session=os.getsid(0), epoch=epoch))
            self._set(status=RayStatus.STARTING, epoch=epoch, since=time.monotonic(), loss=Loss.NOTHING)
            is_head = config.kind is NodeKind.HEAD
            self._store = self._store_of(config)
            self._tidy()
            if self._store is not None:
                self._store.begin()
            arguments = start_arguments(
                config,
                head_address=None if is_head or config.head is None else config.head.address,
                address=self._address,
                temp_dir=self._home.ray_temp,
                shm_free=_shm_free(),
                port=self._store.port(self._address) if self._store else 0,
            )
            env = node_environment(config) | (self._store.environment() if self._store else {})
            groups = wire.unstructure(config.groups) if is_head else {}
            self._follow()
            self._order({"start": {"arguments": arguments, "env": env, "head": is_head, "groups": groups}})

    def restart_gcs(self) -> bool:
        """Start a lost GCS again and return at once; return whether that is what is missing: the raylet goes on."""
        with self._lock:
            started, launcher = self.state.started, self._launcher
            raylet_goes_on = started is not None and bool(sessions.born(started.raylet_pid))
            if self.state.loss is not Loss.GCS or not raylet_goes_on or launcher is None or launcher.poll() is not None:
                return False
            self._set(loss=Loss.NOTHING)
            self._order({"gcs": None})
            return True

    def restart(self, config: NodeConfig, *, detail: str) -> None:
        """End what is left of Ray and start it again on what its GCS has stored, for the same epoch."""
        epoch = self.state.epoch
        self.stop(status=RayStatus.STARTING, detail=detail)
        self.start(config, epoch=epoch)

    def adopt(self, config: NodeConfig) -> bool:
        """Take over the Ray that an earlier agent of this home left running; return whether there was one."""
        record = self._home.load_as(RECORD, Record)
        if record is None:
            return False
        started = record.started
        alive = started is not None and all(sessions.born(pid) for pid in started.pids())
        if started is None or not alive or abs(sessions.born(started.raylet_pid) - record.born) > 1.0:
            sessions.sweep(record.session, instance=config.instance_name)
            return False
        with self._lock:
            self._turn += 1
            self._record = record
            self._store = self._store_of(config)
            dashboard = record.dashboard if sessions.born(record.dashboard_pid) else ""
            self._set(
                status=RayStatus.ALIVE,
                epoch=record.epoch,
                since=time.monotonic(),
                started=started,
                gcs_address=started.gcs_address,
                dashboard=dashboard,
            )
            if config.kind is NodeKind.HEAD:
                self.prepare()
                self._follow()
                groups = wire.unstructure(config.groups)
                env = node_environment(config) | (self._store.environment() if self._store else {})
                self._order({"attach": {"ray": attrs.asdict(started), "env": env, "groups": groups}})
            self._watch(started)
        return True

    @property
    def holds(self) -> bool:
        """Tell whether there may be processes of Ray here."""
        return self._record is not None

    def name_epoch(self, epoch: str) -> None:
        """Note the name that the control plane gave to the head that already runs here."""
        with self._lock:
            if self._record is not None:
                self._keep(attrs.evolve(self._record, epoch=epoch))
            self._set(epoch=epoch)

    def stop(self, *, status: RayStatus, detail: str = "") -> None:
        """End Ray and everything it started, raylet first so that its cluster knows at once; then show ``status``."""
        with self._lock:
            self._turn += 1
            started, record = self.state.started, self._record
            launcher, self._launcher = self._launcher, None
        if launcher is not None:
            launcher.kill()
        if started is not None and sessions.born(started.raylet_pid):
            sessions.send(started.raylet_pid, signal.SIGTERM)
            sessions.await_end((started.raylet_pid,), timeout=LEAVE)
        instance = os.environ.get("ANYSCALE_CORE_INSTANCE", "")
        if os.getsid(0) == os.getpid():
            sessions.sweep(os.getpid())
        if record is not None and record.session != os.getpid() and instance:
            sessions.sweep(record.session, instance=instance)
        if launcher is not None:
            launcher.wait()
        self._home.save(RECORD, None)
        with self._lock:
            self._record = None
            self._told.clear()
            self._asked.clear()
            epoch = "" if status is RayStatus.WAITING else self.state.epoch
            # Of a head that comes back the others should not think that it is gone.
            address = self.state.gcs_address if status is RayStatus.STARTING else ""
            self.state = RayState()
            self._set(status=status, detail=detail, since=time.monotonic(), epoch=epoch, gcs_address=address)

    def stopped(self, detail: str) -> None:
        """Say that all is done: Ray has ended and its logs are where they belong."""
        with self._lock:
            self._set(status=RayStatus.STOPPED, detail=detail)

    def start_dashboard(self) -> None:
        """Ask for the dashboard; ``state.dashboard`` tells when it is there. Asked again after it died, it starts again."""
        self._once("dashboard", {"dashboard": None})

    def drain_node(self, order: NodeDrain) -> None:
        """Ask Ray to drain a node, once per order; the answer comes into ``state.drains``."""
        if order in self._asked:
            return
        self._asked.add(order)
        ask = {
            "ray_id": order.ray_id,
            "idle": order.mode is DrainMode.IDLE,
            "deadline_ms": int(order.deadline.timestamp() * 1000),
            "reason": order.reason,
        }
        self._order({"drain": {"order": wire.unstructure(order), "ask": ask}})

    def forget_drains(self, orders: tuple[NodeDrain, ...]) -> None:
        """Drop the answers to orders that are no longer given."""
        self._asked &= set(orders)
        with self._lock:
            kept = {order: answer for order, answer in self.state.drains.items() if order in self._asked}
            if kept != self.state.drains:
                self._set(drains=kept)

    def unregister(self, ray_id: str, reason: str) -> None:
        """Tell Ray, once, that a node is lost."""
        self._once(f"unregister {ray_id}", {"unregister": {"ray_id": ray_id, "reason": reason}})

    def _once(self, key: str, order: Mapping[str, Any]) -> None:
        if key not in self._told:
            self._told.add(key)
            self._order(order)

    def _order(self, order: Mapping[str, Any]) -> None:
        launcher = self._launcher
        if launcher is None or launcher.stdin is None:
            return
        try:
            launcher.stdin.write(json.dumps(order) + "\n")
            launcher.stdin.flush()
        except OSError:
            # It is gone; the thread that follows it sees that too and reports it.
            log.warning("the launcher does not take orders any more")

    def _follow(self) -> None:
        launcher, turn = self._launcher, self._turn
        assert launcher is not None
        assert launcher.stdout is not None
        threading.Thread(
            target=self._read, args=(launcher, launcher.stdout, turn), name="launcher", daemon=True
        ).start()

    def _read(self, launcher: "subprocess.Popen[str]", events: IO[str], turn: int) -> None:
        for line in events:
            name, argument = next(iter(json.loads(line).items()))
            with self._lock:
                if turn != self._turn:
                    return
                getattr(self, f"_on_{name}")(argument)
        launcher.wait()
        with self._lock:
            if turn == self._turn and self.state.status is RayStatus.STARTING:
                why = f"its launcher ended with {launcher.returncode}; see launcher.log in the node's folder"
                self._lost(Loss.RAY, why)

    def _on_started(self, argument: Mapping[str, Any]) -> None:
        started = wire.structure(argument, Started)
        record = self._record
        assert record is not None
        # Recorded before it is told: what the control plane knows of, the next agent finds.
        self._keep(attrs.evolve(record, started=started, born=sessions.born(started.raylet_pid)))
        if self._store is not None:
            self._store.remember(started.gcs_address)
        self._set(
            status=RayStatus.ALIVE, started=started, gcs_address=started.gcs_address, since=time.monotonic(), detail=""
        )
        self._watch(started)

    def _on_view(self, argument: Mapping[str, Any]) -> None:
        view, old = wire.structure(argument, HeadView), self.state.view
        same = view.wants() == old.wants() and self.state.wanted_since
        since = self.state.wanted_since if same else time.monotonic()
        if view.shape() == old.shape():
            # Only idle clocks have moved on: the next heartbeat will carry them.
            self.state = attrs.evolve(self.state, view=view, wanted_since=since)
        else:
            self._set(view=view, wanted_since=since)

    def _on_dashboard(self, argument: Mapping[str, Any]) -> None:
        assert self._record is not None
        self._keep(attrs.evolve(self._record, dashboard=argument["address"], dashboard_pid=argument["pid"]))
        self._set(dashboard=argument["address"])

    def _on_dashboard_gone(self, argument: Mapping[str, Any]) -> None:
        log.warning("the dashboard ended with %s; starting it again", argument["code"])
        self._told.discard("dashboard")
        self._set(dashboard="")

    def _on_drained(self, argument: Mapping[str, Any]) -> None:
        answer = DrainAnswer.ACCEPTED if argument["accepted"] else DrainAnswer.REJECTED
        order = wire.structure(argument["order"], NodeDrain)
        if order in self._asked:
            self._set(drains={**self.state.drains, order: answer})

    def _on_unregistered(self, argument: Mapping[str, Any]) -> None:
        log.info("Ray was told that node %s is lost", argument["ray_id"])

    def _on_failed(self, argument: Mapping[str, Any]) -> None:
        command, error = argument["command"], argument["error"]
        if command == "start":
            self._down(f"ray start failed: {error}")
            return
        if command == "gcs":
            self._lost(Loss.RAY, f"the GCS alone could not be started again: {error}")
            return
        log.warning("the launcher could not do %s: %s", command, error)
        if command == "drain":
            self._asked.clear()
        else:
            self._told = {key for key in self._told if not key.startswith(command)}

    def _watch(self, started: Started) -> None:
        threading.Thread(target=self._guard, args=(started, self._turn), name="watch", daemon=True).start()

    def _guard(self, started: Started, turn: int) -> None:
        ended = sessions.await_end(started.pids())
        what, loss = "raylet", Loss.RAY
        if ended == started.gcs_pid:
            both = sessions.await_end((started.raylet_pid,), timeout=ALONE)
            what, loss = ("gcs_server and raylet", Loss.RAY) if both else ("gcs_server", Loss.GCS)
        with self._lock:
            if turn == self._turn:
                self._lost(loss, f"the {what} (pid {ended}) has ended")

    def _lost(self, loss: Loss, detail: str) -> None:
        """Ask the agent to start again what was lost, if that is stored and has not been lost too often; else be DOWN."""
        now = time.monotonic()
        often = len(self._comebacks) == COMEBACKS and now - self._comebacks[0] < COMEBACKS_IN
        if self._store is None or often:
            self._down(detail)
            return
        self._comebacks.append(now)
        log.warning("Ray is broken: %s; it is started again on what its GCS has stored", detail)
        again = f"{detail}; it is started again where it was"
        self._set(status=RayStatus.STARTING, detail=again, since=now, loss=loss)

    def _store_of(self, config: NodeConfig) -> GcsStore | None:
        if config.kind is not NodeKind.HEAD or config.gcs_storage is GcsStorage.MEMORY:
            return None
        return GcsStore((self._volume if config.gcs_storage is GcsStorage.VOLUME else self._home.path) / "gcs")

    def _tidy(self) -> None:
        """Take away what an ended Ray left in the temporary folder that the next one would stumble over."""
        # `ray start --head` refuses while it is there and any raylet on this machine still belongs to that address.
        (self._home.ray_temp / "ray_current_cluster").unlink(missing_ok=True)
        # A session that goes on numbers its sockets instead, and their paths may have 107 characters.
        for path in self._home.ray_temp.glob("session_*/sockets/*"):
            path.unlink(missing_ok=True)

    def _down(self, detail: str) -> None:
        log.warning("Ray is down: %s", detail)
        self._set(status=RayStatus.DOWN, detail=detail, since=time.monotonic())

    def _keep(self, record: Record) -> None:
        self._record = record
        self._home.save(RECORD, record)

    def _set(self, **changes: Any) -> None:
        self.state = attrs.evolve(self.state, **changes)
        self._on_change()


def _shm_free() -> int:
    try:
        shm = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return shm.f_bavail * shm.f_frsize
