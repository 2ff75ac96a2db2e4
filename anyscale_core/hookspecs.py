"""The one hook of a plugin: hand over a Provider. Listing providers loads no SDK; building a driver may."""

from collections.abc import Callable, Iterable

import attrs
import pluggy

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.models.cloud import CloudSpec

PROJECT = "anyscale_core"
ENTRY_POINTS = "anyscale_core.providers"
"""The entry-point group: ``name = "package.plugin"``, a module (or object) with the hook below."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@attrs.frozen(kw_only=True)
class Provider:
    """A package that can fill one to four driver slots. The factories import what they need when they are called.

    ``contract``: the range of contract versions it was written for (``">=1.0,<2"``). ``settings``: the keys that its
    settings may have, with a sentence each. ``default_cloud``: for providers that need no settings, the cloud that a spec
    may name without having registered it.
    """

    name: str
    contract: str
    summary: str
    capabilities: Capabilities
    settings: dict[str, str] = attrs.field(factory=dict)
    default_cloud: CloudSpec | None = None
    cluster: Callable[[DriverConfig], ClusterDriver] | None = None
    identity: Callable[[DriverConfig], IdentityDriver] | None = None
    storage: Callable[[DriverConfig], StorageDriver] | None = None
    networking: Callable[[DriverConfig], NetworkingDriver] | None = None

    def slots(self) -> Iterable[str]:
        """Return the slots that it fills."""
        return tuple(slot for slot in ("cluster", "identity", "storage", "networking") if getattr(self, slot))


@hookspec(firstresult=True)
def anyscale_provider() -> Provider:  # type: ignore[empty-body]
    """Return the provider. Called once, offline; must not import a cloud SDK."""
