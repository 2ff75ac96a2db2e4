"""Fixtures: one service per module that needs a plain one, and a client of it."""

from collections.abc import Iterator

import pytest

from anyscale_core.api.client import Client
from tests.api.serving import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("home")).start()
    yield service
    service.stop()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client
