"""The package as a whole."""

import subprocess
import sys

SDKS = ("azure",)

CODE = f"""
import sys
import anyscale_azure
loaded = [name for name in sys.modules if name.partition('.')[0] in {SDKS!r}]
sys.exit(f'loaded: {{loaded}}' if loaded else 0)
"""


def test_importing_the_package_loads_no_sdk() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DRIVERS = """
import sys
from pathlib import Path
from anyscale_azure.plugin import anyscale_provider
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.owner import Owner
settings = {"subscription_id": "s", "resource_group": "g", "tenant_id": "t", "storage_account": "a"}
config = DriverConfig(owner=Owner(plane="p", cloud="c"), home=Path(), region="eastus", settings=settings)
provider = anyscale_provider()
drivers = [getattr(provider, slot)(config) for slot in provider.slots()]
assert len(drivers) == 4
loaded = {name.partition('.')[0] for name in sys.modules} & {'azure', 'msal', 'obstore', 'requests', 'joserfc'}
sys.exit(f'loaded: {loaded}' if loaded else 0)
"""


def test_drivers_are_built_without_any_sdk() -> None:
    done = subprocess.run([sys.executable, "-c", DRIVERS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
