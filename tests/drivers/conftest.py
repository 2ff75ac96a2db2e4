"""Fixtures of the driver tests."""

import pytest

from tests.drivers.rig import Rig


@pytest.fixture
def world() -> Rig:
    """A fake cloud, its drivers, and a sleep that moves its clock."""
    return Rig()
