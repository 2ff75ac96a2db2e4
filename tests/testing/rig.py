"""A fake cloud with its four drivers, for the tests of the fake provider."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Created,
    Deletion,
    Instance,
    InstanceSpec,
    NotCreated,
    Outcome,
)
from anyscale_core.models.owner import Owner
from anyscale_core.testing import FakeCloud, FakeProvider
from anyscale_core.testing import builders as build

OURS = build.owner()
THEIRS = build.owner(plane="pln_other")
SECOND = timedelta(seconds=1)


class Rig:
    """A cloud and its four drivers."""

    def __init__(self, **options: Any) -> None:
        self.cloud = FakeCloud(**options)
        self.clock = self.cloud.clock
        config = DriverConfig(owner=OURS, home=Path("unused"), clock=self.clock)
        provider = FakeProvider(self.cloud)
        self.cluster = provider.cluster(config)
        self.identity = provider.identity(config)
        self.storage = provider.storage(config)
        self.networking = provider.networking(config)

    @property
    def deadline(self) -> datetime:
        return self.clock.now() + timedelta(minutes=1)

    def create(self, *specs: InstanceSpec, token: str = "tok_1") -> tuple[Outcome, ...]:
        return self.cluster.create(specs, token=Token(token), deadline=self.deadline)

    def launch(self, name: str = "demo-worker-1", **fields: Any) -> Instance:
        (outcome,) = self.create(build.an_instance_spec(name, **fields), token=f"tok_{name}")
        assert isinstance(outcome, Created), outcome
        return outcome.instance

    def fail(self, name: str = "demo-worker-1", **fields: Any) -> Any:
        (outcome,) = self.create(build.an_instance_spec(name, **fields), token=f"tok_{name}")
        assert isinstance(outcome, NotCreated), outcome
        assert outcome.name == name
        return outcome.error

    def list(self, owner: Owner = OURS) -> dict[str, Instance]:
        listed = self.cluster.list(owner, deadline=self.deadline)
        assert len({instance.id for instance in listed}) == len(listed)
        return {instance.name: instance for instance in listed}

    def delete(self, *ids: InstanceId, owner: Owner = OURS) -> dict[InstanceId, Deletion]:
        return dict(self.cluster.delete(ids, owner=owner, deadline=self.deadline))
