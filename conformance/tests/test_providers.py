"""Every provider with a kept result keeps the contract, on this machine or on its simulated cloud; the results are true."""

import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from anyscale_conformance.kit import Mode, find
from anyscale_conformance.reports.result import read
from anyscale_conformance.verdicts import Grade, Verdict

KEPT = Path(__file__).parents[1] / "results"
MODES = {
    "azure": Mode.EMULATOR,
    "gcp": Mode.EMULATOR,
    "kubernetes": Mode.EMULATOR,
    "local": Mode.HERMETIC,
}  # fmt: skip
FINE = {Verdict.PASS, Verdict.REFUSED_OK, Verdict.UNVERIFIED}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MODES)
def test_a_provider_keeps_every_promise_that_its_cloud_can_show(name: str, tmp_path: Path) -> None:
    assert MODES[name] in find(name).modes
    words = [sys.executable, "-m", "anyscale_conformance", "run", "--provider", name, "--mode", MODES[name].value]
    scope = f"ci{secrets.token_hex(4)}"
    done = subprocess.run(
        [*words, "--scope", scope, "--report", str(tmp_path)], capture_output=True, text=True, check=False
    )
    report = read(tmp_path / "result.json")
    bad = [
        f"{r.row}: {r.verdict.value} {r.message} {r.leaks}" for r in report.results if r.verdict not in FINE or r.leaks
    ]
    assert bad == [], done.stdout
    assert report.grade is Grade.CONFORMANT
    kept = {result.row: result.verdict for result in read(KEPT / f"{name}.json").results}
    assert kept.keys() == {result.row for result in report.results}, "keep the result anew"
    weaker = [
        r.row for r in report.results if r.verdict is Verdict.UNVERIFIED and kept[r.row] is not Verdict.UNVERIFIED
    ]
    assert weaker == [], "what the kept result says was proven is not proven any more"
    print(f"{name}: {dict(Counter(result.verdict.value for result in report.results))}")
