"""What all tests share."""

from pathlib import Path

import pytest

from tests.controlplane.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A control plane on a fake cloud, on a clock moved by hand."""
    return World.new(tmp_path)
