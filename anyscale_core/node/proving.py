"""How a node proves itself: through its provider's identity driver."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from anyscale_core.clock import SystemClock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import PluginError
from anyscale_core.models.identity import Proof
from anyscale_core.models.ids import CloudName, PlaneId
from anyscale_core.models.instance import Bootstrap
from anyscale_core.models.node import PROOF_AUDIENCE
from anyscale_core.models.owner import Owner
from anyscale_core.registry import Registry

DEADLINE = timedelta(seconds=10)

NOBODY = Owner(plane=PlaneId("node"), cloud=CloudName("node"))
"""A node owns nothing in the cloud; ``prove`` is about the machine that it is called on."""


def prover(bootstrap: Bootstrap, *, home: Path, subject: str, registry: Registry | None = None) -> Callable[[], Proof]:
    """Return a function that makes a fresh proof. Raises UnknownName or PluginError when the provider cannot be used here;
    the function raises CloudError."""
    config = DriverConfig(owner=NOBODY, home=home, settings=bootstrap.identity_settings)
    name = bootstrap.identity_provider
    driver = (registry or Registry.load()).driver(name, "identity", config)
    if not isinstance(driver, IdentityDriver):
        raise PluginError(name, f"its identity driver is a {type(driver).__name__}, not an IdentityDriver")
    clock = SystemClock()
    return lambda: driver.prove(PROOF_AUDIENCE, subject=subject, deadline=clock.now() + DEADLINE)
