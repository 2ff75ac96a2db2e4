"""Fixtures of the tests of the stand-ins."""

import pytest

from tests.testing.rig import Rig
from tests.testing.stage import Stage


@pytest.fixture
def rig() -> Rig:
    """A fake cloud and its four drivers."""
    return Rig()


@pytest.fixture
def stage() -> Stage:
    """A head and two workers on their way up."""
    stage = Stage()
    stage.plane.launch("w1", "w2", "head")
    return stage
