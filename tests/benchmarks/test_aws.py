"""The benchmark of AWS at a small size, without its peers: requests are counted and not judged by a clock."""

from pathlib import Path

import pytest

from benchmarks import aws, peers


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "SIZES", (12,))
    monkeypatch.setattr(aws, "DELAYS_MS", (0,))


def test_a_fleet_costs_as_many_requests_as_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "PEERS", {})
    rows = {row.name: row for row in aws.aws(1)}
    assert list(rows) == ["aws import", *(f"aws 12 nodes, 0 ms: {title}" for _, title, _ in aws.COLUMNS)]
    assert rows["aws import"].notes.endswith("of the SDK loaded: []")
    requests = rows["aws 12 nodes, 0 ms: requests"]
    assert (requests.ours, requests.floor) == (4, 4), "a look before, a create, a list, a terminate"


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "benchmarks" / "peers.py"))
    assert peers.environment("nobody", ["anyscale-core-no-such-package==0"]).startswith(
        "its environment cannot be made: "
    )
