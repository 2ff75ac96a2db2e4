"""One operator and two control planes on a real PostgreSQL: whoever orders, and whoever is asked, nothing is made twice."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.models.cloud import CloudMode, CloudSpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created
from anyscale_core.models.order import Login, OperatorState, Session
from anyscale_core.operator.door import Contact
from anyscale_core.operator.operator import Operator
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import an_instance_spec
from tests.controlplane.watched import Killed
from tests.operator.pull import InProcess

CLOUD = "far"


@attrs.define(eq=False)
class Shared:
    """Two planes, the cloud, and its operator; ``asked``: the plane that a load balancer sends the operator to."""

    first: ControlPlane
    second: ControlPlane
    cloud: FakeCloud
    operator: Operator
    asked: ControlPlane

    def instances(self) -> list[str]:
        return sorted(item.name for item in self.cloud.inventory() if item.kind == "instance")

    def work(self, most: timedelta) -> None:
        """What a plane does while it waits for an outcome."""
        if not self.operator.turn():
            self.cloud.clock.advance(max(most, timedelta(milliseconds=100)))


@pytest.fixture
def shared(database: str, tmp_path: Path) -> Iterator[Shared]:
    clock = ManualClock()
    cloud = FakeCloud(clock)
    registry = Registry.of(FakeProvider(cloud).provider())
    first, second = (
        ControlPlane(
            Settings(home=tmp_path / name, database=database, url="https://plane.test"), registry=registry, clock=clock
        )
        for name in ("first", "second")
    )
    first.register_cloud(CloudSpec(name=CLOUD, provider="fake", mode=CloudMode.OPERATOR), actor="tester")
    token = first.operators.token(CLOUD).token
    provider = FakeProvider(cloud).provider()

    def drivers(session: Session) -> dict[str, Driver]:
        config = DriverConfig(owner=session.owner, home=tmp_path, clock=clock)
        return {slot: getattr(provider, slot)(config) for slot in session.providers}

    door = InProcess(lambda: made.asked)
    contact = Contact(door, lambda: Login(cloud=CLOUD, replica="only", token=token))
    operator = Operator(contact, drivers, ca_pem=first.keys.ca_pem, clock=clock)
    made = Shared(first, second, cloud, operator, first)
    first.mailbox.idle = second.mailbox.idle = made.work
    operator.turn()
    yield made
    first.close()
    second.close()


def create(plane: ControlPlane, name: str) -> object:
    cloud = plane.clouds.get(CLOUD)
    spec = an_instance_spec(name, owner=cloud.owner)
    (outcome,) = cloud.cluster.create([spec], token=Token(f"tok-{name}"), deadline=cloud.deadline())
    return outcome


def test_what_one_plane_orders_is_given_and_answered_by_the_other(shared: Shared) -> None:
    assert shared.second.operators.view(CLOUD).state is OperatorState.CONNECTED, "it asked the first"
    assert isinstance(create(shared.second, "one"), Created)
    cloud = shared.second.clouds.get(CLOUD)
    assert [one.name for one in cloud.cluster.list(cloud.owner, deadline=cloud.deadline())] == ["one"]
    shared.asked = shared.second
    assert isinstance(create(shared.first, "two"), Created)
    assert shared.instances() == ["one", "two"]


def test_an_order_of_a_plane_that_dies_is_taken_over_by_the_other_and_made_once(shared: Shared) -> None:
    def perform_and_die(_: timedelta) -> None:
        (slip,) = shared.first.mailbox.give(CLOUD, ())
        done = shared.operator._performed(shared.operator._opened(slip), shared.first.clouds.get(CLOUD).deadline())
        assert done.error is None
        raise Killed

    shared.first.mailbox.idle = perform_and_die
    with pytest.raises(Killed):
        create(shared.first, "one")
    assert shared.instances() == ["one"], "performed, and nobody was told"
    shared.asked = shared.second
    assert isinstance(create(shared.second, "one"), Created), (
        "the same call, as whoever takes the cluster over makes it"
    )
    assert shared.instances() == ["one"]
    assert shared.second.mailbox.waiting([CLOUD]) == {}, "the dead plane's order is answered with it"


def test_an_operator_that_falls_silent_is_told_once_by_whichever_plane_looks(shared: Shared) -> None:
    before = shared.cloud.clock.now()
    shared.cloud.clock.advance(timedelta(seconds=31))
    assert [plane.operators.notice(listening_since=before) for plane in (shared.second, shared.first)] == [1, 0]
    assert shared.first.operators.view(CLOUD).state is OperatorState.DISCONNECTED
    assert [event.kind for event in shared.first.events()].count("cloud.disconnected") == 1
    shared.operator.turn()
    assert isinstance(create(shared.second, "again"), Created)
