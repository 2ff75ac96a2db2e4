"""Several control planes, each a process of its own, on one PostgreSQL and one fake cloud; one of them can be struck.

The cloud, and the agents of its nodes, live in the test's process. A plane's drivers send each call through a pipe and wait
for what came of it: SIGKILL and SIGSTOP therefore strike a plane exactly between a call and its answer. Time is real.
"""

import contextlib
import enum
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import attrs
import psycopg
from sqlalchemy.engine import make_url

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.runner import Runner
from anyscale_core.controlplane.settings import Settings
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.layers import Call, Next, layered, standard
from anyscale_core.errors import CloudError, Refused, Transient
from anyscale_core.models.ids import CloudName, PlaneId
from anyscale_core.models.node import Heartbeat, Orders, Registered, Registration
from anyscale_core.models.owner import Owner
from anyscale_core.models.records import Timing
from anyscale_core.models.secret import Secret
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, ManualClock

STEP = 0.15
LEASE = timedelta(seconds=4)
TIMING = Timing(
    heartbeat_interval=timedelta(seconds=STEP),
    suspect_after=timedelta(seconds=3),
    lost_after=timedelta(seconds=15),
    sweep_floor=timedelta(milliseconds=200),
    sweep_ceiling=timedelta(seconds=2),
    call_timeout=timedelta(seconds=3),
)
PATIENCE = 3.0
"""Seconds after which a plane that does not answer is left for the next, as a load balancer would."""


class Strike(enum.Enum):
    """What can befall a control plane."""

    KILLED = "killed"
    FROZEN = "frozen"
    CUT_OFF = "cut off from the database"


@attrs.frozen(kw_only=True)
class Start:
    """What a plane's process is started with."""

    home: Path
    database: str


class ThroughPipe:
    """The innermost layer of a plane's drivers: it carries a call to the cloud's process and waits for its outcome."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def __call__(self, call: Call, next: Next, /) -> Any:
        with self._lock:
            self._pipe.send((call.slot, call.verb, call.args, dict(call.kwargs)))
            is_well, outcome = self._pipe.recv()
        if is_well:
            return outcome
        raise outcome


def run_plane(settings: Start, cloud: Connection, questions: Connection) -> None:
    """What a plane's process does: turns in threads, and answers to what it is asked, until the pipe ends."""
    clock = SystemClock()
    through = ThroughPipe(cloud)
    plane = ControlPlane(
        Settings(
            home=settings.home, database=settings.database, url="https://plane.test", timing=TIMING, lease_ttl=LEASE
        ),
        registry=Registry.of(FakeProvider(FakeCloud()).provider()),
        wrap=lambda driver, name: layered(driver, *standard(clock, clock.sleep, through), cloud=name),
    )
    runner = Runner(plane)
    runner.start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, verb, args = questions.recv()
            try:
                answer: tuple[bool, Any] = (True, getattr(plane, verb)(*args[0], **args[1]))
            except Refused as refusal:
                answer = (False, ("refused", refusal.why, str(refusal)))
            except CloudError as error:
                answer = (False, ("cloud", error, ""))
            except Exception as error:
                answer = (False, ("down", repr(error), ""))
            questions.send((number, *answer))
    runner.stop()
    plane.close()


@attrs.define(kw_only=True, eq=False)
class Seat:
    """One plane's process, as the test sees it."""

    name: str
    role: str
    process: Any
    cloud: Connection
    questions: Connection
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    numbers: Iterator[int] = attrs.field(factory=itertools.count)
    out_until: float = 0.0
    """It did not answer: it is not asked again before this time."""

    def ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the plane; raises TimeoutError or OSError when it does not answer, and what it answers with."""
        with self.lock:
            number = next(self.numbers)
            self.questions.send((number, verb, (args, kwargs)))
            until = time.monotonic() + PATIENCE
            while self.questions.poll(max(0.0, until - time.monotonic())):
                came, is_well, outcome = self.questions.recv()
                if came == number:
                    break  # what came late for an older question is dropped
            else:
                raise TimeoutError(f"{self.name} does not answer")
        if is_well:
            return outcome
        kind, what, message = outcome
        if kind == "refused":
            raise Refused(what, message)
        if kind == "cloud":
            raise what
        raise ConnectionError(what)


class Fleet:
    """Planes on one database and one cloud. ``close`` ends all processes and threads."""

    def __init__(self, folder: Path, database: str, *, planes: int = 3) -> None:
        self.cloud = FakeCloud(
            cast(ManualClock, SystemClock()), boot=timedelta(seconds=0.3), delete_takes=timedelta(seconds=0.3),
            exposes_in=timedelta(seconds=0.3), list_window=timedelta(seconds=1),
        )  # fmt: skip
        self.provider = FakeProvider(self.cloud)
        self.database = database
        self.serving = threading.local()
        """``seat``: the plane whose call this thread carries out."""
        self.struck: tuple[Seat, float] | None = None
        self._over = threading.Event()
        self.seats = [self._start(folder, number) for number in range(planes)]
        self.agents = FakeAgents(self.cloud, self, ray_start=timedelta(seconds=0.3))
        self._threads = [threading.Thread(target=self._serve, args=(seat,), daemon=True) for seat in self.seats]
        self._threads.append(threading.Thread(target=self._step, daemon=True))
        for thread in self._threads:
            thread.start()

    # -- a plane for agents and people: whichever answers --------------------------------------------------------------

    def register(self, registration: Registration) -> Registered:
        return cast(Registered, self.ask("register", registration))

    def heartbeat(self, credential: Secret[str], heartbeat: Heartbeat) -> Orders:
        return cast(Orders, self.ask("heartbeat", credential, heartbeat))

    def ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the planes in turn until one answers. Raises Transient when none does."""
        for seat in self.seats:
            if time.monotonic() < seat.out_until:
                continue
            try:
                return seat.ask(verb, *args, **kwargs)
            except (OSError, EOFError):
                seat.out_until = time.monotonic() + 3.0
        raise Transient("no control plane answers", reason="NETWORK")

    # -- strikes -------------------------------------------------------------------------------------------------------

    def strike_at(self, how: Strike, action: str, *, nth: int) -> None:
        """Strike whichever plane makes the ``nth`` such call: after it was carried out, before its answer."""
        self.cloud.after(action, lambda: self._strike(how, self.serving.seat), nth=nth)

    def _strike(self, how: Strike, seat: Seat) -> None:
        self.struck = (seat, time.monotonic())
        match how:
            case Strike.KILLED:
                seat.process.kill()
            case Strike.FROZEN:
                os.kill(seat.process.pid, signal.SIGSTOP)
            case Strike.CUT_OFF:
                self._admin(f"ALTER ROLE {seat.role} NOLOGIN")
                self._admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{seat.role}'")

    def recover(self, how: Strike) -> None:
        """Undo what can be undone: a frozen plane wakes up, one that was cut off is let in again."""
        assert self.struck is not None
        seat = self.struck[0]
        if how is Strike.FROZEN:
            os.kill(seat.process.pid, signal.SIGCONT)
        elif how is Strike.CUT_OFF:
            self._admin(f"ALTER ROLE {seat.role} LOGIN")
        seat.out_until = 0.0

    def holders(self) -> dict[str, str]:
        """Return which process (by its pid, as the holder names it) holds a live lease on which cluster, by name."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT name, lease_holder FROM clusters WHERE lease_holder IS NOT NULL"
            ).fetchall()
        return {name: holder.rsplit("-", 2)[1] for name, holder in rows}

    # -- the test's own ------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], what: str, *, within: float = 90.0) -> float:
        """Wait; return for how many seconds. Fails with what it waited for."""
        began = time.monotonic()
        while time.monotonic() < began + within:
            with contextlib.suppress(CloudError, OSError):
                if condition():
                    return time.monotonic() - began
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {within:.0f} s")

    def instances(self) -> list[str]:
        return sorted(item.name for item in self.cloud.inventory("instance"))

    def close(self) -> None:
        self._over.set()
        for seat in self.seats:
            with contextlib.suppress(OSError, ProcessLookupError):
                os.kill(seat.process.pid, signal.SIGCONT)
            seat.process.kill()
            seat.process.join()
            seat.cloud.close()
            seat.questions.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, folder: Path, number: int) -> Seat:
        spawn = multiprocessing.get_context("spawn")
        role = f"{make_url(self.database).database}_{number}"
        self._admin(f"CREATE ROLE {role} LOGIN SUPERUSER")
        orders = Start(home=folder / f"plane-{number}", database=self.database.replace("//postgres:@", f"//{role}:@"))
        cloud, cloud_there = spawn.Pipe()
        questions, questions_there = spawn.Pipe()
        process = spawn.Process(target=run_plane, args=(orders, cloud_there, questions_there), daemon=True)
        process.start()
        cloud_there.close()
        questions_there.close()
        return Seat(name=f"plane-{number}", role=role, process=process, cloud=cloud, questions=questions)

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(statement)

    def _serve(self, seat: Seat) -> None:
        """Carry out a plane's calls, as the cloud would: also those whose caller dies meanwhile."""
        self.serving.seat = seat
        drivers: dict[str, Any] = {}
        while not self._over.is_set():
            try:
                slot, verb, args, kwargs = seat.cloud.recv()
            except (EOFError, OSError):
                return
            if slot not in drivers:
                drivers[slot] = getattr(self.provider, slot)(_CONFIG)
            try:
                answer = (True, getattr(drivers[slot], verb)(*args, **kwargs))
            except CloudError as error:
                answer = (False, error)
            with contextlib.suppress(OSError):
                seat.cloud.send(answer)

    def _step(self) -> None:
        while not self._over.wait(STEP):
            with contextlib.suppress(CloudError):
                self.agents.step()


_CONFIG = DriverConfig(
    owner=Owner(plane=PlaneId("pln_fleet"), cloud=CloudName("fake")), home=Path("nowhere"), clock=SystemClock()
)
