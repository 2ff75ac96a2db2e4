"""The pages about conformance are read back against the suite, and its kept results against both."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from anyscale_conformance.cli import Exit
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.promises import PROMISES
from anyscale_conformance.reports.markdown import providers_page
from anyscale_conformance.reports.result import read as read_result
from anyscale_conformance.rules import load
from anyscale_conformance.verdicts import Grade, Verdict

from tests.docs.pages import ROOT, blocks, read, table
from tests.docs.test_tables import CONTRACT, _promises

CONFORMANCE, PROVIDERS, ADD = "docs/conformance.md", "docs/providers.md", "docs/add-a-provider.md"
RESULTS = ROOT / "conformance" / "results"


def test_the_promises_of_the_suite_are_those_of_the_contract_word_for_word() -> None:
    assert {row["Id"]: row["Promise"] for _, row in _promises()} == dict(PROMISES)


def test_every_promise_has_a_check_but_those_that_the_contract_excepts() -> None:
    excepted = {row["Promise"]: row["Tests"] for row in table(CONTRACT, "What checks what")}
    assert PROMISES.keys() - load().keys() == excepted.keys()
    assert [path for path in excepted.values() if not (ROOT / path).exists()] == []


def test_verdicts_grades_and_exit_statuses_are_explained() -> None:
    assert [row["Verdict"] for row in table(CONFORMANCE, "Verdicts")] == [verdict.value for verdict in Verdict]
    assert [row["Grade"] for row in table(CONFORMANCE, "Grades")] == [grade.value for grade in Grade]
    assert [row["Status"] for row in table(CONFORMANCE, "Exit statuses")] == [str(int(status)) for status in Exit]


def test_every_effect_of_a_fault_is_explained() -> None:
    assert {row["Effect"] for row in table(CONFORMANCE, "Faults")} == {effect.value for effect in Effect}


def test_the_page_of_all_providers_is_made_from_the_kept_results() -> None:
    assert read(PROVIDERS) == providers_page([read_result(path) for path in sorted(RESULTS.glob("*.json"))])


@pytest.mark.timeout(300)
def test_a_provider_is_built_from_nothing_to_a_green_graded_run_as_its_page_says(tmp_path: Path) -> None:
    """In an environment that has never seen this repository's own: from ``new-kit`` to CONFORMANT."""
    code = [block.code for block in blocks(ADD) if block.language == "python"]
    python = tmp_path / "venv" / "bin" / "python"
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")

    def do(*words: str, expect: int = 0) -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "PYTHON"))}
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    suite = str(python.with_name("anyscale-conformance"))
    do(uv, "venv", "-q", "--python", sys.executable, "venv")
    do(uv, "pip", "install", "-q", "--python", str(python), str(ROOT), str(ROOT / "conformance"))
    do(suite, "new-kit", "acme", "acme")
    do(uv, "pip", "install", "-q", "--python", str(python), "-e", "acme")
    assert "oracle: return an object" in do(suite, "run", "--provider", "acme", expect=int(Exit.INCOMPLETE)), (
        "it fails honestly"
    )
    for name, text in zip(("cluster.py", "kit.py"), code, strict=True):
        (tmp_path / "acme" / "anyscale_acme" / name).write_text(text, encoding="utf-8")
    assert "CONFORMANT" in do(suite, "run", "--provider", "acme", "--seed", "1", "--report", "report")
    assert do(suite, "badge", "report", "--format", "text").startswith("contract 1.0 | must ")
    kit = code[1].partition("class AcmeKit")[2]
    assert len(kit.strip().splitlines()) <= 25, "a kit is short"
