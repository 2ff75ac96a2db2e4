"""Declares less in its package than the provider does at run time."""

import attrs

from anyscale_core.hookspecs import Provider, hookimpl
from anyscale_core.testing.fake import FakeProvider
from anyscale_core.testing.world import FakeCloud


@hookimpl
def anyscale_provider() -> Provider:
    """Return a provider without spot instances."""
    provider = FakeProvider(FakeCloud()).provider()
    claims = provider.capabilities
    return attrs.evolve(provider, capabilities=attrs.evolve(claims, supported=claims.supported - {"cluster.spot"}))
