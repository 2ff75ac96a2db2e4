"""What all tests share. No test reaches beyond this machine (``--allow-hosts`` in pyproject.toml)."""

import signal
from pathlib import Path

import pytest

from tests.controlplane.world import World

HERMETIC = frozenset({"controlplane", "drivers", "models", "planning", "testing"})
"""Folders whose tests may not open a socket at all."""


def pytest_configure() -> None:
    """Let Ctrl-C be heard by what the tests start: a shell has it ignored in its background jobs, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the network away from the hermetic folders."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in HERMETIC:
            item.add_marker(pytest.mark.disable_socket)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A control plane on a fake cloud, on a clock moved by hand."""
    return World.new(tmp_path)
