"""The provider's settings, checked once."""

import sys
from pathlib import Path

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models import wire

STATE_VARIABLE = "ANYSCALE_LOCAL_STATE"
"""Tells a node where the state folder of its machine is; set by the cluster driver, read when a node proves itself."""

INSTANCE_VARIABLE = "ANYSCALE_CORE_INSTANCE"
"""Tells a node, and who looks at its processes, the name of its instance."""

MARKER_VARIABLE = "ANYSCALE_LOCAL_INSTANCE"
"""Marks every process of an instance with the instance's folder, which is unique on the machine as names are not."""

NODE_AGENT = (
    *("-m", "anyscale_core.node", "--bootstrap", "{bootstrap}"),
    *("--home", "{home}", "--name", "{name}", "--address", "{address}", "--volume", "{volume}"),
)


@attrs.frozen(kw_only=True)
class Settings:
    """What a cloud may set for this provider; the keys are explained in ``plugin``."""

    command: tuple[str, ...] = ()
    max_instances: int = 16
    python: str = ""
    state: str = ""

    def boot_command(self) -> tuple[str, ...]:
        """Return the words to boot an instance with, their blanks not yet filled in."""
        return self.command or (self.python or sys.executable, *NODE_AGENT)


def read_settings(config: DriverConfig) -> Settings:
    """Return the settings of a cloud. Raises SpecError with every fault."""
    return wire.structure(dict(config.settings), Settings, subject="settings of provider local")


def state_folder(config: DriverConfig, settings: Settings) -> Path:
    """Return the folder that everything of this provider is kept in, absolute."""
    return Path(settings.state or config.home / "local").expanduser().absolute()
