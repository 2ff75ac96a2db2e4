"""Every report says what ``result.json`` says, and hides nothing."""

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as xml

import attrs
import pytest
from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.reports import badge, write_all
from anyscale_conformance.reports.html import html
from anyscale_conformance.reports.junit import junit
from anyscale_conformance.reports.markdown import markdown, providers_page
from anyscale_conformance.reports.result import Report, as_json, read, report_of
from anyscale_conformance.rules import Level
from anyscale_conformance.runner import Run
from anyscale_conformance.verdicts import Grade, Result, Verdict

from anyscale_core.errors import SpecError

SAID = "it shows <script>alert('x')</script> | & \x00 and more"


class Kit(ReferenceKit):
    name = "fake"


@pytest.fixture
def report() -> Report:
    def a_result(verdict: Verdict, subject: str, **fields: object) -> Result:
        plain = Result(
            row=f"X-IDEM-01[{subject}]",
            check="X-IDEM-01",
            subject=subject,
            level=Level.MUST,
            verdict=verdict,
            replay="again",
        )
        return attrs.evolve(plain, **fields)  # type: ignore[arg-type]

    results = [a_result(verdict, verdict.name.lower(), message=SAID) for verdict in Verdict]
    results.append(a_result(Verdict.PASS, "leaky", leaks=("disk d-1",)))
    return report_of(Run(kit=Kit), rows=(), results=results, integrity=("check X was removed",), manifest="abc")


def test_a_result_that_is_written_is_read_back_equal(report: Report, tmp_path: Path) -> None:
    write_all(report, tmp_path)
    assert read(tmp_path) == report
    assert {path.name for path in tmp_path.iterdir()} == {
        "badge.json", "badge.svg", "junit.xml", "report.html", "report.md", "result.json",
    }  # fmt: skip


@pytest.mark.parametrize("body", ["", "{}", '{"schema": 99}', '{"schema": 1}'])
def test_what_is_no_result_is_refused_by_its_name(body: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(body)
    with pytest.raises(SpecError, match=r"odd\.json"):
        read(path)


def test_junit_has_a_case_per_row_with_its_verdict(report: Report) -> None:
    suite = xml.fromstring(junit(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("9", "1", "1")
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases.keys() == {result.row for result in report.results}
    assert cases["X-IDEM-01[fail]"].find("failure") is not None
    assert cases["X-IDEM-01[leaky]"].find("failure") is not None, "what leaks has not passed"
    assert cases["X-IDEM-01[unverified]"].find("skipped") is not None
    assert cases["X-IDEM-01[pass]"].find("failure") is None


def test_the_page_shows_every_row_and_runs_nothing_of_what_providers_say(report: Report) -> None:
    page = html(report)
    scripts: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            scripts.extend([tag] if tag == "script" else [])

    Reader().feed(page)
    assert scripts == ["script"], "ours alone"
    assert all(result.row in page for result in report.results)
    assert "http" not in page, "one file that needs nothing else"


def test_markdown_names_what_is_wrong_and_how_to_see_it_again(report: Report) -> None:
    text = markdown(report)
    for part in (
        "# fake: FAILED",
        "check X was removed",
        "## FAIL",
        "## ERROR",
        "## Left behind",
        "disk d-1",
        "`again`",
    ):
        assert part in text
    assert "X-IDEM-01[pass]" not in text


def test_a_badge_is_green_only_on_the_whole(report: Report) -> None:
    good = attrs.evolve(
        report, integrity=(), results=tuple(r for r in report.results if r.verdict is Verdict.PASS and not r.leaks)
    )
    assert good.grade is Grade.CONFORMANT
    assert badge.text(good) == "contract 1.0 | must 1/1 | mode H"
    assert "#2e7d32" in badge.svg(good)
    assert "#2e7d32" not in badge.svg(attrs.evolve(good, selection=("X-IDEM-01",)))
    assert "#c0392b" in badge.svg(report)
    assert json.loads(badge.shields(report))["message"].endswith("failed")
    xml.fromstring(badge.svg(report))


def test_the_page_of_all_providers_has_every_check_and_capability(report: Report) -> None:
    page = providers_page([report, attrs.evolve(report, provider="other")])
    assert "| Check | Promise | fake | other |" in page
    assert page.count("| `cluster.spot` |") == 1
    assert as_json(report)["counts"]["PASS"] == 2
