"""The reference provider as a plugin's module would hand it over, so that the checks of plugins have something to load."""

from anyscale_core.hookspecs import Provider, hookimpl
from anyscale_core.testing.fake import FakeProvider
from anyscale_core.testing.world import FakeCloud


@hookimpl
def anyscale_provider() -> Provider:
    """Return a fake provider over a cloud of its own."""
    return FakeProvider(FakeCloud()).provider()
