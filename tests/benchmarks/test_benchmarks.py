"""The benchmarks run and print rows of one shape. No number is judged here: machines are noisy."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from benchmarks import floor
from benchmarks.__main__ import main, measure_of
from benchmarks.catalogue import BENCHMARKS
from benchmarks.rows import Row, excess, interleaved, readable, row

NAMES = [
    "cluster-start",
    "scale-up",
    "replace",
    "head-recovery",
    "job",
    "import",
    "cli-help",
    "cli-status",
    "kubernetes",
    "engine",
    "heartbeats",
    "operator",
    "azure",
    "idle-tick",
    "rest",
    "placement",
    "placement-quick",
    "gcp",
    "gcp-gets",
    "gcp-import",
    "aws",
]
FIELDS = {"name", "ours", "floor", "ratio", "n", "spread", "unit", "notes"}


def rows_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_names_are_the_promised_ones_and_each_has_its_function() -> None:
    assert list(BENCHMARKS) == NAMES
    assert all(callable(measure_of(name)) for name in BENCHMARKS)


def test_without_a_name_every_name_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def test_an_unknown_name_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["imports"])
    assert caught.value.code == 2
    assert "'imports'; there are cluster-start, " in capsys.readouterr().err


def test_listing_loads_neither_ray_nor_what_is_measured() -> None:
    code = "import sys; from benchmarks.__main__ import main; main([]); print(sorted(sys.modules))"
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
    assert "'benchmarks.catalogue'" in said
    assert not {"'ray'", "'grpc'", "'anyscale_core'"} & set(said.splitlines()[-1].strip("[]").split(", "))


def test_a_row_has_medians_their_ratio_and_both_spreads() -> None:
    made = row("name", "s", [3.0, 1.0, 2.0], [1.0, 4.0, 0.5], "one", "", "two")
    assert made == Row(
        name="name",
        ours=2.0,
        floor=1.0,
        ratio=2.0,
        n=3,
        spread={"ours": (1.0, 3.0), "floor": (0.5, 4.0)},
        unit="s",
        notes="one; two",
    )
    assert set(attrs.asdict(made)) == FIELDS
    assert readable(made) == "name: ours 2 s (1..3), floor 1 (0.5..4), ratio 2.00, n 3; one; two"
    assert excess([3.0, 1.0, 2.0], [1.0, 4.0, 0.5]) == 1.0


@pytest.mark.parametrize(("ours", "least"), [([], []), ([1.0, 2.0], [1.0])])
def test_values_that_are_not_pairs_make_no_row(ours: list[float], least: list[float]) -> None:
    with pytest.raises(ValueError, match="in pairs"):
        row("name", "s", ours, least)


def test_ours_and_the_floor_are_measured_in_turns() -> None:
    turns: list[str] = []
    ours, least = interleaved(2, lambda: turns.append("ours"), lambda: turns.append("floor"))
    assert turns == ["ours", "floor", "ours", "floor"]
    assert len(ours) == len(least) == 2


def test_one_round_of_the_imports_prints_a_row_for_time_and_one_for_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--json", "-n", "1"]) == 0
    rows = rows_of(capsys)
    assert [(one["name"], one["unit"]) for one in rows] == [
        ("import", "ms"),
        ("import-rss", "MB"),
        ("import-contract", "ms"),
        ("import-contract-rss", "MB"),
    ]
    assert all(set(one) == FIELDS and one["n"] == 1 for one in rows)
    assert [str(one["notes"]).endswith("no SDK loaded") for one in rows] == [False, True, False, True]


def test_one_round_of_the_help_prints_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cli-help", "--json", "-n", "1"]) == 0
    (one,) = rows_of(capsys)
    assert (one["name"], one["n"], one["unit"]) == ("cli-help", 1, "ms")


def test_one_round_of_the_engine_brings_every_cluster_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "--json", "-n", "1"]) == 0
    (one,) = rows_of(capsys)
    assert "20 clusters of 10 nodes" in str(one["notes"])


def test_a_point_of_the_placement_grid_stands_beside_the_bound_and_both_of_rays_schedulers() -> None:
    from benchmarks import placement

    price, seconds = placement._point("mixed", 10, 100, 1)
    assert (price.name, price.unit) == ("placement-price-mixed-10-100", "$/h")
    assert price.ours >= price.floor
    assert [part in price.notes for part in ("with the solver", "Ray v2", "Ray v1", "DEARER")] == [
        True,
        True,
        True,
        False,
    ]
    assert (seconds.name, seconds.unit) == ("placement-time-mixed-10-100", "s")


def test_the_floor_stops_its_own_sessions_and_no_other() -> None:
    sleep = [sys.executable, "-c", "import subprocess, sys; subprocess.run(['sleep', '600'])"]
    mine, other = (subprocess.Popen(sleep, start_new_session=True) for _ in range(2))
    try:
        deadline = time.monotonic() + 30
        while len(floor.members({mine.pid})) < 2 or len(floor.members({other.pid})) < 2:
            assert time.monotonic() < deadline, "the children do not start"
            time.sleep(0.02)
        floor.stop_sessions({mine.pid})
        assert mine.wait() == -signal.SIGKILL
        assert floor.members({mine.pid}) == []
        assert len(floor.members({other.pid})) == 2
    finally:
        for child in (mine, other):
            for process in floor.members({child.pid}):
                os.kill(process.pid, signal.SIGKILL)
            child.wait()
