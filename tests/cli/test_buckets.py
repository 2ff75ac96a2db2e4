import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anyscale_core.cli.buckets import Store
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess


class Service(ThreadingHTTPServer):
    """A blob service that has nothing, and keeps how it was asked: the path, and what Authorization said."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Nothing)
        self.asked: list[tuple[str, str | None]] = []


class Nothing(BaseHTTPRequestHandler):
    server: Service

    def do_HEAD(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(404)
        self.end_headers()


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ends", "said"), [(datetime(2030, 1, 1, tzinfo=UTC), (True, None)), (None, (False, "Bearer mine"))]
)
def test_a_persons_own_variables_decide_nothing_where_credentials_are_handed_out(
    ends: datetime | None, said: tuple[bool, str | None], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "mine")
    options = {"account_name": "a", "endpoint": f"http://127.0.0.1:{service.server_port}/a", "sas_token": "sp=r&sig=x"}
    handed = {name: Secret(value) for name, value in options.items()}
    store = Store(StoreAccess(url="az://container/prefix", options=handed, expires_at=ends))
    assert store.size("key") is None
    ((path, authorization),) = service.asked
    assert ("sig=x" in path, authorization) == said
