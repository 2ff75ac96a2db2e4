"""What a head keeps for the next one: the port that raylets know, and a way out when the stored state is broken."""

import socket
from pathlib import Path

from anyscale_core.node.gcsstore import TRIES, GcsStore


def test_the_next_gcs_takes_the_port_of_the_last_one_at_the_same_address_while_it_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        GcsStore(tmp_path).remember(f"127.0.0.1:{port}")
        assert GcsStore(tmp_path).port("127.0.0.1") == 0, "somebody else listens there"
    assert GcsStore(tmp_path).port("127.0.0.1") == port
    assert GcsStore(tmp_path).port("127.0.0.2") == 0


def test_what_no_gcs_can_start_on_is_set_aside_and_an_alive_one_begins_the_count_anew(tmp_path: Path) -> None:
    store = GcsStore(tmp_path)
    db = Path(store.environment()["RAY_gcs_storage_path"])
    db.mkdir()
    (db / "CURRENT").write_text("broken")
    for _ in range(TRIES):
        store.begin()
    store.remember("127.0.0.1:1")
    for _ in range(TRIES):
        store.begin()
    assert (db / "CURRENT").exists()
    store.begin()
    assert not db.exists()
    assert (tmp_path / "db.broken" / "CURRENT").read_text() == "broken"
