"""Fixtures of the node tests: one authority, a scripted control plane, and what was started is always ended."""

from collections.abc import Iterator

import pytest

from tests.node.scripted import Authority, Cluster, ControlPlane


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def plane(authority: Authority) -> Iterator[ControlPlane]:
    plane = ControlPlane(authority)
    yield plane
    plane.close()


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    cluster = Cluster(plane)
    yield cluster
    cluster.close()
