"""The suite as a whole: the same twice, whole or it says so, and nothing left when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from anyscale_conformance import integrity, rules
from anyscale_conformance.checks.demonstrations import DEMONSTRATIONS
from anyscale_conformance.cli import Exit, main
from anyscale_conformance.context import Context
from anyscale_conformance.kit import Mode, RunScope, find
from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.refusals import PROBES
from anyscale_conformance.reports.result import TIMES, as_json, read, report_of, without_times
from anyscale_conformance.rows import Row
from anyscale_conformance.runner import FOLDER, Run, all_checks
from anyscale_conformance.sweep import sweep
from anyscale_conformance.verdicts import Grade, Verdict

from anyscale_core.drivers.capability import CAPABILITIES

FINE = (Verdict.PASS, Verdict.REFUSED_OK)
UNVERIFIED = {"X-ERR-01"}
"""The fake's wire speaks the tree itself: there is no vendor's code to translate."""
KEPT = Path(__file__).parents[1] / "results"


def bad(run: Run) -> list[str]:
    results = list(run.each(run.rows(all_checks())))
    leaks = [leak for result in results for leak in result.leaks]
    return leaks + [f"{r.row}: {r.message}" for r in results if r.verdict not in FINE and r.check not in UNVERIFIED]


def test_two_runs_of_one_seed_give_one_report_but_for_times_and_it_is_the_kept_one() -> None:
    run = Run(kit=find("fake"))
    rows = run.rows(all_checks())
    plains = [as_json(report_of(run, rows=rows, results=list(run.each(rows)))) for _ in range(2)]
    first, second = (json.dumps(without_times(plain), sort_keys=True) for plain in plains)
    assert first == second
    assert plains[0]["grade"] == Grade.CONFORMANT.value
    assert {r["row"]: r["verdict"] for r in plains[0]["results"]} == kept("fake"), "keep the result anew"
    assert {"duration_s", "virtual_s"} == TIMES


def test_the_kept_result_of_local_has_every_row_that_there_is_now() -> None:
    rows = Run(kit=find("local")).rows(all_checks())
    assert {row.id for row in rows} == kept("local").keys(), "run the suite on local and keep the result anew"
    assert read(KEPT / "local.json").grade is Grade.CONFORMANT


def kept(name: str) -> dict[str, str]:
    return {result.row: result.verdict.value for result in read(KEPT / f"{name}.json").results}


@pytest.mark.parametrize(("page_size", "lag_s", "seed"), [(2, 0, 11), (4, 5, 12), (7, 60, 13)])
def test_the_reference_passes_with_pages_of_any_size_and_lists_of_any_age(
    page_size: int, lag_s: int, seed: int
) -> None:
    kit = type("Varied", (ReferenceKit,), {"name": "fake", "page_size": page_size, "lag": timedelta(seconds=lag_s)})
    assert bad(Run(kit=kit, seed=seed)) == []


def test_the_manifest_is_that_of_the_checks() -> None:
    assert dict(integrity.released()) == integrity.manifest(), "anyscale-conformance manifest --write"
    assert integrity.faults() == ()


@pytest.fixture
def check() -> Iterator[rules.Check]:
    found = dict(rules.load())
    yield found["X-IDEM-01"]
    rules.CHECKS.clear()
    rules.CHECKS.update(found)


def test_a_removed_check_is_named(check: rules.Check) -> None:
    del rules.CHECKS[check.id]
    assert integrity.faults() == (f"check {check.id} was removed",)


def test_an_overridden_check_is_named(check: rules.Check) -> None:
    rules.CHECKS[check.id] = attrs.evolve(check, run=lambda ctx: None)
    assert any(f"check {check.id} was overridden" in fault for fault in integrity.faults())


def test_an_assertion_that_was_put_to_sleep_is_named(check: rules.Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[check.run.__module__], "expect", lambda *_: None)
    assert any("expect was replaced" in fault for fault in integrity.faults())


def test_the_sweep_finds_planted_orphans_over_many_pages_and_spares_what_was_there(tmp_path: Path) -> None:
    kit = ReferenceKit(RunScope(run="run", row="row", seed=0, mode=Mode.HERMETIC, home=tmp_path))
    ctx = Context(kit, "cluster")
    ctx.subject("storage").make()
    before = ctx.inventory()
    for name in ("cluster", "networking", "networking.endpoint", "identity", "storage", "storage.grant"):
        for _ in range(2 * kit.cloud.page_size + 1):
            ctx.subject(name).make()
            if name in ("cluster", "storage"):
                ctx.subject(name).make(owner=ctx.stranger)
    assert len(ctx.inventory()) > 6 * 2 * kit.cloud.page_size
    assert sweep(ctx, before) == ()
    assert {item.kind for item in ctx.inventory()} <= {"bucket"}


def test_a_run_that_is_interrupted_leaves_no_process_and_no_folder() -> None:
    name = f"interrupted{os.getpid()}"
    words = [sys.executable, "-m", "anyscale_conformance", "run", "--provider", "local", "--scope", name]
    words += ["--check", "X-PAGE-01[cluster]", "--check", "X-CON-05[cluster]", "--check", "X-AMB-01[cluster.batch]"]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        pattern = f"{FOLDER}{name}-*/local/instances/*/booted"
        end = time.monotonic() + 60
        while not any(Path(tempfile.gettempdir()).glob(pattern)):
            assert run.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() < end, "it made no instance"
            time.sleep(0.005)
        run.send_signal(signal.SIGTERM)
        out, _ = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == Exit.INTERRUPTED, out
    assert "NOT_RUN" not in out.partition("FAIL")[0] or "INCOMPLETE" in out
    assert list(Path(tempfile.gettempdir()).glob(f"{FOLDER}{name}-*")) == []
    marked = [pid for pid in Path("/proc").glob("[0-9]*") if name.encode() in environment_of(pid)]
    assert marked == []


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def test_a_sweep_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--provider", "fake"]) == Exit.USAGE
    assert "--scope" in capsys.readouterr().err


def test_a_live_run_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--provider", "fake", "--mode", "L"]) == Exit.USAGE
    assert "--scope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run", "--provider", "nobody"], Exit.USAGE, "no kit for provider 'nobody'"),
        (["run", "--provider", "fake", "--check", "X-NO-01"], Exit.USAGE, "no check X-NO-01"),
        (["run", "--provider", "fake", "--check", "X-IDEM-01[storage]"], Exit.OK, "1 PASS"),
        (["explain", "X-IDEM-01"], Exit.OK, "IgnoresTheToken"),
        (["explain", "X-NO-01"], Exit.USAGE, "no check X-NO-01"),
        (["mutants", "--only", "UserTagsWin", "--json"], Exit.OK, '"score": 1.0'),
        (["mutants", "--provider", "fake", "--only", "ListsOneLess"], Exit.OK, "ListsOneLess: caught by"),
        (["mutants", "--only", "Nobody"], Exit.USAGE, "no mutant Nobody"),
        (["list"], Exit.OK, "X-IDEM-01[cluster]"),
        (["diff", str(KEPT / "fake.json"), str(KEPT / "fake.json")], Exit.OK, ""),
        (["badge", str(KEPT / "fake.json"), "--format", "json"], Exit.OK, '"schemaVersion": 1'),
        (["badge", "no-such-file"], Exit.USAGE, "no-such-file"),
    ],
)
def test_a_command_says_and_ends_as_it_should(
    words: list[str], status: Exit, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_new_kit_writes_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("keep")
    assert main(["new-kit", "Bad Name", str(tmp_path)]) == Exit.USAGE
    said = capsys.readouterr().err
    assert "'Bad Name'" in said
    assert "not empty" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_every_row_can_be_run_in_an_authors_own_pytest(tmp_path: Path) -> None:
    words = ["--anyscale-provider", "fake", "-p", "no:cacheprovider", "-k", "X-IDEM-01", "--anyscale-report", "out"]
    done = in_pytest(words, tmp_path)
    assert done.returncode == 0, done.stdout
    report = read(tmp_path / "out")
    assert report.grade is Grade.INCOMPLETE, "a part of the suite earns no grade"
    assert report.counts()[Verdict.PASS] == 7
    assert report.counts()[Verdict.NOT_RUN] > 400


def test_pytest_ends_with_status_4_when_nothing_of_the_suite_ran(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    done = in_pytest(["--anyscale-provider", "fake", "-k", "test_own"], tmp_path)
    assert done.returncode == Exit.NOTHING_RAN


def in_pytest(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_row_knows_its_number_and_its_thing() -> None:
    check = rules.load()["X-IDEM-01"]
    assert Row(check=check, subject="storage").id == "X-IDEM-01[storage]"


def test_every_capability_has_a_demonstration_and_a_probe() -> None:
    assert DEMONSTRATIONS.keys() == PROBES.keys() == CAPABILITIES.keys()
