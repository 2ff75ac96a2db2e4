"""What people are handed of a cluster's bucket, where they cannot use what its nodes use."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import attrs
import pytest

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Grant
from anyscale_core.registry import Registry
from anyscale_core.testing.builders import a_spec
from anyscale_core.testing.clock import ManualClock
from anyscale_core.testing.fake import FakeProvider
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import FakeCloud

HOUR = timedelta(hours=1)


class Signing(FakeStorageDriver):
    """The fake driver on a cloud where only nodes can use a grant's store: people are handed a signature for an hour."""

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        made = super().grant(
            bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
        )
        ends = self._cloud.clock.now() + HOUR
        signed = attrs.evolve(made.store, options={"sas_token": Secret("signature")}, expires_at=ends)
        return attrs.evolve(made, elsewhere=signed)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def plane(clock: ManualClock, tmp_path: Path) -> Iterator[ControlPlane]:
    cloud = FakeCloud(clock)

    def storage(config: DriverConfig) -> Signing:
        return Signing(cloud, config, "fake")

    provider = attrs.evolve(FakeProvider(cloud).provider(), storage=storage)
    settings = Settings(home=tmp_path / "home", url="https://plane.test")
    made = ControlPlane(settings, registry=Registry.of(provider), clock=clock)
    yield made
    made.close()


def test_a_person_is_handed_what_is_good_without_the_identity_and_anew_before_it_ends(
    plane: ControlPlane, clock: ManualClock
) -> None:
    plane.apply(a_spec("demo"), actor="me")
    for _ in range(5):
        clock.advance(timedelta(seconds=5))
        plane.tick()
    id = plane.store.find("demo")
    assert id is not None
    record = plane.store.load(id)
    assert record is not None
    first = plane.logs("demo", actor="me")
    assert "sas_token" in first.options
    assert "sas_token" in plane.upload("fake", actor="me").options
    assert not plane.grants.access(record, Access.READ).options
    clock.advance(HOUR / 2)
    assert plane.logs("demo", actor="me") == first
    clock.advance(HOUR / 3)
    again = plane.logs("demo", actor="me")
    assert again.expires_at == clock.now() + HOUR
