"""JUnit's XML, which CI systems show."""

from xml.etree import ElementTree as xml

from anyscale_conformance.reports.result import Report
from anyscale_conformance.verdicts import Result, Verdict

_TAGS = {
    Verdict.FAIL: "failure", Verdict.ERROR: "error", Verdict.UNVERIFIED: "skipped", Verdict.NOT_RUN: "skipped",
    Verdict.WAIVED: "skipped",
}  # fmt: skip


def junit(report: Report) -> str:
    """Return the report as one test suite, a case per row."""
    counts = report.counts()
    suite = xml.Element(
        "testsuite", name=f"anyscale-conformance {report.provider}", tests=str(len(report.results)),
        failures=str(counts.get(Verdict.FAIL, 0)), errors=str(counts.get(Verdict.ERROR, 0)),
        skipped=str(sum(counts.get(verdict, 0) for verdict, tag in _TAGS.items() if tag == "skipped")),
    )  # fmt: skip
    properties = xml.SubElement(suite, "properties")
    for name in ("provider", "version", "contract", "suite", "mode", "seed"):
        xml.SubElement(properties, "property", name=name, value=str(getattr(report, name)))
    xml.SubElement(properties, "property", name="grade", value=report.grade.value)
    for result in report.results:
        _case(suite, report, result)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + xml.tostring(suite, encoding="unicode") + "\n"


def _case(suite: xml.Element, report: Report, result: Result) -> None:
    case = xml.SubElement(
        suite, "testcase", classname=f"conformance.{report.provider}", name=result.row, time=f"{result.duration_s:.4f}"
    )
    properties = xml.SubElement(case, "properties")
    for name, value in (("check", result.check), ("level", result.level.value), ("verdict", result.verdict.value)):
        xml.SubElement(properties, "property", name=name, value=value)
    tag = _TAGS.get(result.verdict) or ("failure" if result.leaks else "")
    if tag:
        message = result.message or f"left behind: {', '.join(result.leaks)}"
        child = xml.SubElement(case, tag, message=_clean(message))
        child.text = _clean(result.replay)


def _clean(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(char for char in text if char in "\t\n" or ord(char) >= 0x20)
