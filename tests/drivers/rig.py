"""A fake cloud whose sleeping callers move its clock, for the tests of the layers."""

from datetime import datetime, timedelta
from pathlib import Path

from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.layers import (
    Layer,
    layered,
)
from anyscale_core.models.ids import Token
from anyscale_core.testing import FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing import builders as build

OWNER = build.owner()
TOKEN = Token("tok_1")
SECOND = timedelta(seconds=1)


class Rig:
    """A fake cloud, its four drivers, and a sleep that moves its clock and remembers how long."""

    def __init__(self) -> None:
        self.cloud = FakeCloud()
        self.clock: ManualClock = self.cloud.clock
        self.naps: list[timedelta] = []
        config = DriverConfig(owner=OWNER, home=Path("unused"), clock=self.clock)
        provider = FakeProvider(self.cloud)
        self.drivers: dict[str, Driver] = {
            "cluster": provider.cluster(config),
            "identity": provider.identity(config),
            "storage": provider.storage(config),
            "networking": provider.networking(config),
        }

    def sleep(self, duration: timedelta) -> None:
        self.naps.append(duration)
        self.clock.advance(duration)

    def cluster(self, *layers: Layer) -> ClusterDriver:
        driver = self.drivers["cluster"]
        assert isinstance(driver, ClusterDriver)
        return layered(driver, *layers, cloud="prod")

    def deadline(self, after: timedelta = timedelta(minutes=1)) -> datetime:
        return self.clock.now() + after
