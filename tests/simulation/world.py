"""The world that a history is played in: clouds, nodes and several control planes on one store and one clock."""

import random
import secrets
import shutil
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from unittest import mock

import attrs

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.schema import metadata
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CoreError, Transient
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.node import Heartbeat, Orders, Registered, Registration
from anyscale_core.models.records import Timing
from anyscale_core.models.secret import Secret
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider, FaultRule, ManualClock
from anyscale_core.testing.agents import JobScript
from tests.controlplane.watched import Killed, hasten, watch
from tests.simulation.actions import ACTIONS
from tests.simulation.history import Action, History
from tests.simulation.judge import TRIGGERS, Broken, Judge, Rule
from tests.simulation.seats import Seat

TIMING = Timing(
    suspect_after=timedelta(seconds=40),
    lost_after=timedelta(seconds=120),
    boot_timeout=timedelta(minutes=4),
    call_timeout=timedelta(seconds=15),
    history=timedelta(minutes=5),
)
LEASE = timedelta(seconds=20)
JOBS = {"short": JobScript(takes=timedelta(seconds=15)), "long": JobScript(takes=timedelta(seconds=90))}
ROUND = timedelta(seconds=10)
QUIET = timedelta(minutes=60)
"""How long everything may take to be as it is wanted once nothing disturbs it; a shortage is believed for up to half of it."""


@attrs.define(kw_only=True, eq=False)
class Tally:
    """What was played, for people."""

    histories: int = 0
    steps: int = 0
    faults: int = 0
    kills: int = 0
    freezes: int = 0
    calls: int = 0
    instances: int = 0
    actions: Counter[str] = attrs.field(factory=Counter)
    moves: Counter[str] = attrs.field(factory=Counter)

    def add(self, other: "Tally") -> None:
        for field in attrs.fields(Tally):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def __str__(self) -> str:
        moves = ", ".join(f"{count} x {move}" for move, count in self.moves.most_common())
        return (
            f"{self.histories} histories, {self.steps} steps; fired: {self.faults} faults, {self.kills} kills, "
            f"{self.freezes} freezes; {self.calls} calls, {self.instances} instances; {moves}"
        )


class Bench:
    """A folder with one store and the plane's keys: made once, wiped for every history."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "plane.db"
        Store.at(self.path).close()
        self.store = Store(f"sqlite:///{self.path}")
        self._on_position: Callable[[], None] = lambda: None
        hasten(self.store)
        watch(self.store, lambda: self._on_position())
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(TRIGGERS)

    def fresh(self, on_position: Callable[[], None]) -> Store:
        """Return the store, empty."""
        self._on_position = lambda: None
        with self.store._loose.begin() as connection:
            for table in metadata.tables.values():
                connection.execute(table.delete())
            connection.exec_driver_sql("DELETE FROM moves")
        self._on_position = on_position
        return self.store

    def close(self) -> None:
        self.store.close()


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench in a temporary folder."""
    home = Path(tempfile.mkdtemp(prefix="anyscale-core-simulation-"))
    made = Bench(home)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(home)


Answer = TypeVar("Answer", Registered, Orders)


class Door:
    """How nodes reach the control planes: any that is up and reachable, one after the other."""

    def __init__(self, seats: list[Seat]) -> None:
        self._seats, self._turn = seats, 0
        self.lost = 0
        """Answers still to be lost."""

    def register(self, registration: Registration) -> Registered:
        return self._answered(self._plane().register(registration))

    def heartbeat(self, credential: Secret[str], heartbeat: Heartbeat) -> Orders:
        return self._answered(self._plane().heartbeat(credential, heartbeat))

    def _plane(self) -> ControlPlane:
        self._turn += 1
        up = [seat.plane for seat in self._seats if seat.plane is not None and not seat.busy and not seat.nodeless]
        if not up:
            raise Transient("no control plane answers", reason="NETWORK")
        return up[self._turn % len(up)]

    def _answered(self, answer: Answer) -> Answer:
        if self.lost:
            self.lost -= 1
            raise Transient("the answer was lost", reason="NETWORK")
        return answer


class Sim:
    """One world. ``play`` a history, then let it come to rest with ``quiet``."""

    def __init__(self, bench: Bench, *, planes: int = 3, names: int = 5) -> None:
        self.clock = ManualClock()
        self.dice = random.Random(0)
        self.tally = Tally()
        self.story: list[str] = []
        self.clouds = {
            "near": FakeCloud(self.clock, boot=timedelta(seconds=6), delete_takes=timedelta(seconds=4)),
            "far": FakeCloud(self.clock, boot=timedelta(seconds=15), delete_takes=timedelta(seconds=15)),
        }
        self.names = [f"c{number}" for number in range(names)]
        self.seats = [Seat(number=number) for number in range(planes)]
        self.door = Door(self.seats)
        self.agents = {name: FakeAgents(cloud, self.door) for name, cloud in self.clouds.items()}
        for agents in self.agents.values():
            for entrypoint, script in JOBS.items():
                agents.script(entrypoint, script)
        self.rules: list[FaultRule] = []
        self.silent: list[tuple[FakeAgents, str]] = []
        self._registry = Registry.of(*(FakeProvider(cloud, name).provider() for name, cloud in self.clouds.items()))
        self._settings = Settings(home=bench.home, timing=TIMING, lease_ttl=LEASE, url="https://plane.test")
        self._store = bench.fresh(self._position)
        self._acting: Seat | None = None
        self._begun: dict[int, int] = {}
        self._todo: deque[Action] = deque()
        self.judge = Judge(bench.path, self.clouds, self.agents)
        with self._minting():
            for seat in self.seats:
                self.heal(seat)

    # -- playing -------------------------------------------------------------------------------------------------------

    def play(self, history: History) -> None:
        """Play a history, looking after every step. Raises Broken."""
        self._todo.extend(history)
        with self._minting():
            self._play(len(history))

    def quiet(self) -> None:
        """End all faults and let time pass until everything is as it is wanted; then end all clusters. Raises Broken."""
        with self._minting():
            self._calm()
            self._until(self.judge.unmet, Rule.CONVERGED)
            self._until(lambda: self.judge.left({"instance", "endpoint"}), Rule.LEAKED)
            for name in self._store.names().values():
                self.ask(0, lambda plane, name=name: plane.terminate(name, actor="user"))  # type: ignore[misc]
            self._until(lambda: list(self._store.names().values()), Rule.CONVERGED)
            self._until(lambda: self.judge.left({"instance", "endpoint", "grant"}), Rule.LEAKED)

    def close(self) -> None:
        """Count what was played, and let go of the store."""
        self.lift_faults()
        self.tally.histories = 1
        self.tally.moves = self.judge.moves
        for cloud in self.clouds.values():
            self.tally.calls += len(cloud.calls)
            self.tally.instances += sum(1 for _ in cloud.ever())
        self.judge.close()

    def _play(self, steps: int) -> None:
        for _ in range(steps):
            if not self._todo:
                return
            action = self._todo.popleft()
            self.tally.steps += 1
            self.tally.actions[action.kind] += 1
            number = self.tally.steps
            self.story.append("")  # its place: a plane that freezes in it lets others go on before it ends
            self.story[number - 1] = f"{number:5} {ACTIONS[action.kind].play(self, action.which, action.how)}"
            self._look()

    def _look(self) -> None:
        step = self.tally.steps
        try:
            self.judge.look(step=step, since=min(self._begun.values(), default=step))
        except Broken as broken:
            broken.step = step
            raise

    # -- the hands of actions ------------------------------------------------------------------------------------------

    def at(self, seat: Seat, do: Callable[[ControlPlane], object]) -> str:
        """Let the plane of a seat do something; it may be killed or frozen in the middle. Raises Broken for a crash."""
        if seat.plane is None or seat.busy:
            return "it is down" if seat.plane is None else "it is frozen"
        before, self._acting = self._acting, seat
        seat.busy, self._begun[seat.number] = True, self.tally.steps
        try:
            return str(do(seat.plane))
        except Killed:
            seat.plane = None
            self.tally.kills += 1
            return "it was killed"
        except Broken:
            raise
        except Exception as error:
            raise Broken(Rule.CRASH, f"{type(error).__name__}: {error}", step=self.tally.steps) from error
        finally:
            seat.busy, self._acting = False, before
            del self._begun[seat.number]

    def ask(self, which: int, do: Callable[[ControlPlane], object]) -> str:
        """Let a user ask something of one of the planes; what the plane refuses is an answer too."""

        def asked(plane: ControlPlane) -> str:
            try:
                do(plane)
            except CoreError as refused:
                return f"refused, {refused}"
            return "accepted"

        return self.at(self.seats[which % len(self.seats)], asked)

    def watch(self, plane: ControlPlane) -> None:
        """Do what the runner's watcher does."""
        now = self.clock.now()
        plane.store.notice_silence(now - TIMING.suspect_after, now=now)
        plane.collector.collect()

    def heal(self, seat: Seat) -> None:
        """Start the plane of a seat if it is down, and end what troubles it."""
        seat.dies_in = seat.freezes_in = None
        seat.cloudless = seat.nodeless = False
        seat.lag = timedelta()
        if seat.plane is None:
            seat.plane = ControlPlane(
                self._settings, registry=self._registry, store=self._store, clock=self.clock,
                wrap=seat.wrap(self.clock, self.dice, self._pass_by),
            )  # fmt: skip

    def lift_faults(self) -> None:
        for rule in self.rules:
            rule.lift()
            self.tally.faults += rule.fired
        self.rules.clear()

    def a_cloud(self, which: int) -> FakeCloud:
        return list(self.clouds.values())[which % len(self.clouds)]

    def cloud_of(self, name: str) -> str:
        return list(self.clouds)[self.names.index(name) % len(self.clouds)]

    def clusters_with_nodes(self) -> list[tuple[str, ClusterId]]:
        """Return the clusters that have an instance, with their clouds' names."""
        found = {
            (name, machine.spec.owner.cluster): None
            for name, cloud in self.clouds.items()
            for machine in cloud.machines.values()
        }
        return [(name, cluster) for name, cluster in found if cluster is not None]

    # -- fate ----------------------------------------------------------------------------------------------------------

    def _position(self) -> None:
        """A durable transaction is about to begin, or was committed."""
        if self._acting is not None:
            self._pass_by(self._acting)

    def _pass_by(self, seat: Seat) -> None:
        """Die or freeze, if it is time to."""
        if seat is not self._acting:
            return  # it answers a node
        if seat.dies_in is not None:
            seat.dies_in -= 1
            if seat.dies_in < 0:
                raise Killed  # and again at whatever it tries on its way down
        if seat.freezes_in is None:
            return
        seat.freezes_in -= 1
        if seat.freezes_in < 0:
            seat.freezes_in = None
            self.tally.freezes += 1
            self._acting = None
            try:
                self._play(seat.freezes_for)
            finally:
                self._acting = seat

    # -- quiet ---------------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        self.lift_faults()
        self.door.lost = 0
        for seat in self.seats:
            self.heal(seat)
        for name, cloud in self.clouds.items():
            cloud.restock()
            cloud.lag(timedelta())
            for machine in cloud.machines.values():
                machine.notice = None
            for demand in self.agents[name].demands:
                demand.release()
            self.agents[name].demands.clear()
        for agents, name in self.silent:
            agents.speak(name)
        self.silent.clear()

    def _until(self, remaining: Callable[[], list[str]], rule: Rule) -> None:
        """Let time pass until nothing remains. Raises Broken with what does."""
        for _ in range(QUIET // ROUND):
            if not (left := remaining()):
                return
            self.clock.advance(ROUND)
            for agents in self.agents.values():
                agents.step()
            for seat in self.seats:
                self.at(seat, lambda plane: plane.tick())
                self.at(seat, lambda plane: plane.collector.collect())
            self._look()
        raise Broken(rule, "; ".join(left), step=self.tally.steps)

    @contextmanager
    def _minting(self) -> Iterator[None]:
        """Ids from this world's dice, so that a history is the same each time."""
        with mock.patch.object(secrets, "token_hex", lambda size: f"{self.dice.getrandbits(size * 8):0{size * 2}x}"):
            yield
