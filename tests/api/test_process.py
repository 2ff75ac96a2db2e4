"""The process of the service: one per home, its port kept, its file private, its end orderly."""

import stat
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from anyscale_core.api.client import CONNECTION_FILE, Unreachable, connect, read_connection
from anyscale_core.api.server import AlreadyServed, PortTaken
from anyscale_core.errors import SpecError
from anyscale_core.models.phases import ClusterPhase
from tests.api.serving import Service, spec_body

PROGRAM = """
import sys
from pathlib import Path
from anyscale_core.api.server import serve
from anyscale_core.controlplane.settings import Settings
from anyscale_core.registry import Registry
serve(Settings(home=Path(sys.argv[1])), registry=Registry(), ready=lambda serving: print("ready", flush=True))
"""


def test_the_connection_file_is_private_and_gone_after_the_end(tmp_path: Path) -> None:
    home = tmp_path / "home"
    service = Service(home).start()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for secret in (home / CONNECTION_FILE, *(home / "keys").iterdir()):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600, secret
    connection = read_connection(home)
    assert service.serving is not None
    assert connection is not None
    assert connection == service.serving.connection
    assert connection.token.reveal() not in repr(connection)
    with connect(home) as client:
        client.stop()
    service.ended()
    assert read_connection(home) is None
    with pytest.raises(Unreachable, match="anyscale-core serve"):
        connect(home)


def test_a_second_service_on_a_home_is_refused_and_told_which_process_has_it(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    with pytest.raises(AlreadyServed, match=r"by process \d+"):
        Service(tmp_path).start()
    with connect(tmp_path) as client:
        assert client.health()["status"] == "ok"
    service.stop()


def test_a_restart_keeps_the_port_the_authority_and_the_clusters(tmp_path: Path) -> None:
    first = Service(tmp_path).start()
    assert first.serving is not None
    with first.client() as client:
        made = client.apply(spec_body("stays"))
    before = first.serving.connection
    first.stop()
    machines = set(first.cloud.machines)
    second = Service(tmp_path, cloud=first.cloud).start()
    assert second.serving is not None
    after = second.serving.connection
    assert (after.url, after.ca_pem) == (before.url, before.ca_pem)
    assert machines <= set(second.cloud.machines)
    with second.client(before.token) as client:
        assert client.get("stays").id == made.id
        assert client.get("stays").phase is ClusterPhase.STARTING
    second.stop()


def test_a_port_that_somebody_took_is_an_error_that_names_it(tmp_path: Path) -> None:
    service = Service(tmp_path / "one").start()
    assert service.serving is not None
    port = int(service.serving.connection.url.rpartition(":")[2])
    with pytest.raises(PortTaken, match=f"port {port} "):
        Service(tmp_path / "two").start(port=port)
    service.stop()


def test_held_answers_do_not_delay_the_end(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    client = service.client()
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(client.events(wait=timedelta(seconds=20))))
    waiter.start()
    time.sleep(0.2)  # let it be held, for this is what is tested
    began = time.monotonic()
    service.stop()
    waiter.join(5)
    assert time.monotonic() - began < 4
    assert found == [()]


def test_nobody_there_is_unreachable_with_the_remedy(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    client = service.client()
    service.stop()
    with pytest.raises(Unreachable, match="anyscale-core serve"):
        client.health()


def test_a_connection_file_that_cannot_be_read_is_a_fault_that_names_it(tmp_path: Path) -> None:
    (tmp_path / CONNECTION_FILE).write_text('{"url": 3}')
    with pytest.raises(SpecError, match=CONNECTION_FILE):
        read_connection(tmp_path)


@pytest.mark.parametrize("end", ["terminate", "send_signal"])
def test_a_signal_ends_the_process_in_order(tmp_path: Path, end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with connect(tmp_path) as client:
            assert client.health()["status"] == "ok"
        getattr(process, end)(*([2] if end == "send_signal" else []))
        _, log = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 0
    assert read_connection(tmp_path) is None
    assert '"event": "ending; clusters run on"' in log
    assert "Traceback" not in log


def test_the_client_loads_neither_the_server_nor_the_control_plane() -> None:
    program = (
        "import sys, anyscale_core.api.client; "
        "print([name for name in ('litestar', 'sqlalchemy', 'httpx', 'structlog', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
