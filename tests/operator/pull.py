"""A world whose cloud is run by an operator: plane, mailbox, wire, operator and fake cloud in one thread, on one clock."""

import enum
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import attrs

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.errors import CoreError
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode, CloudSpec
from anyscale_core.models.order import Dispatch, Login, Noted, Poll, Report, Session
from anyscale_core.models.secret import Secret
from anyscale_core.operator.door import Contact
from anyscale_core.operator.operator import Operator
from anyscale_core.testing import FakeCloud, FakeProvider
from tests.controlplane.watched import Killed
from tests.controlplane.world import World

T = TypeVar("T")
CLOUD = "fake"


class InProcess:
    """A control plane's three routes without HTTP: every value goes through JSON, as it would on the wire."""

    def __init__(self, plane: Callable[[], ControlPlane]) -> None:
        self._plane = plane

    def login(self, login: Login) -> Session:
        return _said(self._plane().operators.login(_said(login)))

    def poll(self, poll: Poll, *, credential: Secret[str]) -> Dispatch:
        return _said(self._plane().operators.poll(credential, _said(poll)))

    def report(self, report: Report, *, credential: Secret[str]) -> Noted:
        return _said(self._plane().operators.report(credential, _said(report)))


def _said(value: T) -> T:
    return wire.structure(json.loads(json.dumps(wire.unstructure_revealed(value))), type(value))


class Dies(enum.Enum):
    """Whose death ``Killed`` is when it comes up in an operator's turn."""

    PLANE = "plane"
    OPERATOR = "operator"


@attrs.define
class Pull:
    """A world with an operator. The engine's calls are performed while they wait, in the same thread.

    ``alive`` False: no operator asks for anything. ``make`` makes the next operator, as a pod that is started again.
    """

    world: World
    operator: Operator
    replicas: int = 1
    alive: bool = True
    who_dies: Dies = Dies.PLANE
    is_idle: bool = False
    door: Any = None

    @classmethod
    def new(cls, home: Path, *, cloud: FakeCloud | None = None, register: bool = True) -> "Pull":
        world = World.new(home, cloud=cloud)
        if register:
            spec = CloudSpec(name=CLOUD, provider="fake", region="fake-1", mode=CloudMode.OPERATOR)
            world.plane.register_cloud(spec, actor="tester")
        pull = cls(world, None)  # type: ignore[arg-type]
        pull.door = InProcess(lambda: pull.world.plane)
        pull.operator = pull.make()
        pull.connect()
        return pull

    def make(self, replica: str = "") -> Operator:
        """Return another operator of the cloud."""
        self.replicas += 1
        name = replica or f"replica-{self.replicas}"

        def login() -> Login:
            return self.login(replica=name, token=self.world.plane.operators.token(CLOUD).token)

        return Operator(
            Contact(self.door, login), self.drivers, ca_pem=self.world.plane.keys.ca_pem, clock=self.world.clock
        )

    def login(self, *, token: Secret[str], replica: str = "replica-x") -> Login:
        return Login(cloud=CLOUD, replica=replica, token=token)

    def drivers(self, session: Session) -> dict[str, Driver]:
        provider = FakeProvider(self.world.cloud).provider()
        config = DriverConfig(owner=session.owner, home=self.world.home, region=session.region, clock=self.world.clock)
        return {slot: getattr(provider, slot)(config) for slot in session.providers}

    def connect(self) -> None:
        """Let the operator of this world work for the plane of this world."""
        self.world.plane.mailbox.idle = self.idle
        if self.alive:
            self.operator.turn()

    def idle(self, most: timedelta) -> None:
        """What the engine does while it waits for an outcome: nothing else happens, so the operator has its turn."""
        if self.alive and self.step():
            return
        self.world.clock.advance(max(most, timedelta(seconds=1)))
        if not self.is_idle:
            self.is_idle = True
            self.world.agents.step()  # nodes speak while the engine waits
            self.is_idle = False

    def step(self) -> int:
        try:
            return self.operator.turn()
        except CoreError:
            return 0
        except Killed:
            if self.who_dies is Dies.PLANE:
                raise
            self.replace()
            return 0

    def run(self, *, steps: int = 1, step: timedelta = timedelta(seconds=1)) -> None:
        """Let time pass; a living operator asks at every step."""
        for _ in range(steps):
            if self.alive:
                self.step()
            self.world.run(step=step)

    def until(self, condition: Callable[[], bool], *, steps: int = 600, step: timedelta = timedelta(seconds=1)) -> int:
        for taken in range(steps):
            if condition():
                return taken
            self.run(step=step)
        lines = "\n".join(f"{event.at:%M:%S} {event.kind} {event.message}" for event in self.world.plane.events()[-40:])
        raise AssertionError(f"not within {steps} steps; what happened last:\n{lines}")

    def restart(self) -> None:
        """Kill the plane and start another; the operator lives on."""
        self.world.restart()
        self.connect()

    def replace(self) -> None:
        """Kill the operator and start another, which knows nothing."""
        self.operator = self.make()
