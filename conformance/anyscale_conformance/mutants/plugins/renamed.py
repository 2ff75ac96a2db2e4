"""Has a provider of another name."""

from anyscale_core.hookspecs import Provider, hookimpl
from anyscale_core.testing.fake import FakeProvider
from anyscale_core.testing.world import FakeCloud


@hookimpl
def anyscale_provider() -> Provider:
    """Return a provider that is called otherwise."""
    return FakeProvider(FakeCloud(), "another").provider()
