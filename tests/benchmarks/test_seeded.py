"""The benchmarks on seeded stores: what is seeded is what the engine makes, and each prints its rows, here at a small size."""

import json
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.models import wire
from anyscale_core.models.records import Timing
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeProvider, ManualClock
from benchmarks import heartbeats, rest
from benchmarks.__main__ import main
from benchmarks.seeding import a_cloud, seed


def test_a_seeded_cluster_is_the_one_that_the_engine_made_under_other_names_and_rests_as_that_does(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    cloud = a_cloud(clock)
    day = timedelta(days=1)
    settings = Settings(home=tmp_path, url="https://plane.test", timing=Timing(suspect_after=day, lost_after=2 * day))
    seed(settings, cloud, clock, clusters=3, nodes=4)
    plane = ControlPlane(settings, registry=Registry.of(FakeProvider(cloud).provider()), clock=clock)
    made, copied = plane.status("c0"), plane.status("c2")
    assert len(made.record.nodes) == len(copied.record.nodes) == 4
    names = {made.record.id: copied.record.id, '"c0"': '"c2"'}
    for mine, theirs in zip(made.record.nodes, copied.record.nodes, strict=True):
        names |= {mine.id: theirs.id, mine.name: theirs.name}
    text = json.dumps(wire.unstructure([made.record, list(made.nodes.values())]))
    for before, after in names.items():
        text = text.replace(before, after)
    assert json.loads(text) == wire.unstructure([copied.record, list(copied.nodes.values())])
    assert [item.name for item in cloud.inventory("instance") if item.name.startswith("c2-")] != []
    clock.advance(timedelta(minutes=5))
    plane.tick()
    plane.collector.collect()
    while plane.tick():
        pass
    assert attrs.evolve(plane.status("c2").record) == copied.record, "nothing had to be done about it"
    plane.close()


def test_one_round_of_the_heartbeats_prints_a_row_with_both_rates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "CLUSTERS", 2)
    monkeypatch.setattr(heartbeats, "CONNECTIONS", 4)
    monkeypatch.setattr(heartbeats, "SECONDS", 0.3)
    assert main(["heartbeats", "--json", "-n", "1"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["name"], row["n"]) == ("heartbeats", 1)
    assert "bare Litestar" in row["notes"]


def test_one_round_of_the_idle_ticks_prints_a_row_for_each_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "SIZES", (1, 3))
    assert main(["idle-tick", "--json", "-n", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["idle-tick-1", "idle-tick-3"]


def test_one_round_at_rest_prints_its_cpu_its_memory_and_how_long_a_status_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "CLUSTERS", 3)
    monkeypatch.setattr(rest, "SECONDS", 0.5)
    monkeypatch.setattr(rest, "QUIET", 0.5)
    assert main(["rest", "--json", "-n", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["rest-cpu", "rest-rss", "rest-status"]
    assert "processes: 1" in rows[1]["notes"]
