"""FakeProvider: a complete provider over a FakeCloud, as a plugin would hand it over."""

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import CAPABILITIES, Capabilities
from anyscale_core.hookspecs import Provider
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import FakeCloud


@attrs.frozen(kw_only=False)
class FakeProvider:
    """A provider whose cloud is in memory: ``Registry.of(FakeProvider(FakeCloud()).provider())``."""

    cloud: FakeCloud
    name: str = "fake"

    def provider(self) -> Provider:
        """Return the provider. ``cloud: <name>`` in a spec works without registering a cloud."""
        return Provider(
            name=self.name,
            contract=">=1.0,<2",
            summary="A cloud in memory, for tests.",
            capabilities=Capabilities(
                supported=frozenset(CAPABILITIES),
                numbers={"name.max_len": 63, "create.batch_max": 1000},
                windows={"consistency.list": self.cloud.list_window, "consistency.delete": self.cloud.list_window},
            ),
            default_cloud=CloudSpec(name=self.name, provider=self.name, region="fake-1"),
            cluster=self.cluster,
            identity=self.identity,
            storage=self.storage,
            networking=self.networking,
        )

    def cluster(self, config: DriverConfig) -> FakeClusterDriver:
        """Build its cluster driver."""
        return FakeClusterDriver(self.cloud, config, self.name)

    def identity(self, config: DriverConfig) -> FakeIdentityDriver:
        """Build its identity driver."""
        return FakeIdentityDriver(self.cloud, config, self.name)

    def storage(self, config: DriverConfig) -> FakeStorageDriver:
        """Build its storage driver."""
        return FakeStorageDriver(self.cloud, config, self.name)

    def networking(self, config: DriverConfig) -> FakeNetworkingDriver:
        """Build its networking driver."""
        return FakeNetworkingDriver(self.cloud, config, self.name)
