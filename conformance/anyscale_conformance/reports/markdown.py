"""Markdown: a report for a comment, and the page of all providers."""

from collections.abc import Iterable, Sequence

from anyscale_conformance.promises import PROMISES
from anyscale_conformance.reports.result import Report
from anyscale_conformance.verdicts import Result, Verdict

_SHOWN = (Verdict.FAIL, Verdict.ERROR, Verdict.WAIVED, Verdict.NOT_RUN)
_SHORT = {
    Verdict.PASS: "yes", Verdict.REFUSED_OK: "refused", Verdict.UNVERIFIED: "unverified", Verdict.WAIVED: "waived",
    Verdict.FAIL: "**no**", Verdict.ERROR: "error", Verdict.NOT_RUN: "not run", Verdict.PROVISIONAL: "provisional",
}  # fmt: skip


def markdown(report: Report) -> str:
    """Return the report for people: the grade, what is wrong, what could not be tested, what is claimed."""
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in report.counts().items())
    lines = [
        f"# {report.provider}: {report.grade.value}", "",
        f"{report.distribution} {report.version}, contract {report.contract}, mode {report.mode}, seed {report.seed}: {counts}.",
        "",
    ]  # fmt: skip
    if report.selection:
        lines += [f"A part of the suite alone was run: {', '.join(report.selection)}.", ""]
    lines += [f"- The suite is not as it was released: {fault}." for fault in report.integrity]
    for verdict in _SHOWN:
        lines += _section(verdict, [result for result in report.results if result.verdict is verdict])
    leaks = [leak for result in report.results for leak in result.leaks]
    if leaks:
        lines += ["## Left behind", "", *(f"- {_cell(leak)}" for leak in leaks), ""]
    unverified = [result for result in report.results if result.verdict is Verdict.UNVERIFIED]
    if unverified:
        lines += ["## What could not be tested", "", *_grouped(unverified), ""]
    lines += ["## Capabilities", "", "| Capability | Declared | Verdict | Note |", "|---|---|---|---|"]
    lines += [
        f"| `{id}` | {each.declared} | {each.verdict} | {_cell(each.note)} |"
        for id, each in report.capabilities.items()
    ]
    return "\n".join(lines) + "\n"


def providers_page(reports: Sequence[Report]) -> str:
    """Return ``docs/providers.md``: every provider beside every capability and every check."""
    names = [report.provider for report in reports]
    lines = [
        "# Providers", "",
        "Made by `anyscale-conformance docs` from the results kept in `conformance/results`; do not edit it by hand.", "",
        "| Provider | Grade | Mode | Contract | Package | Rows | Unverified |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for report in reports:
        unverified = report.counts().get(Verdict.UNVERIFIED, 0)
        lines.append(
            f"| {report.provider} | {report.grade.value} | {report.mode} | {report.contract} | "
            f"{report.distribution} {report.version} | {len(report.results)} | {unverified} |"
        )
    lines += ["", "Mode H is hermetic: in memory or on one machine. *Refused*: not declared, and refused as it should be.",
              "*Unverified*: nothing in this mode can test it.", "", "## Capabilities", ""]  # fmt: skip
    lines += [f"| Capability | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for id in reports[0].capabilities if reports else ():
        lines.append(f"| `{id}` | {' | '.join(_claimed(report, id) for report in reports)} |")
    lines += ["", "## Checks", "", f"| Check | Promise | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    checks = sorted({result.check for report in reports for result in report.results})
    for id in checks:
        cells = " | ".join(_verdicts(report, id) for report in reports)
        lines.append(f"| {id} | {_cell(PROMISES.get(id, ''))} | {cells} |")
    return "\n".join(lines) + "\n"


def _section(verdict: Verdict, results: Sequence[Result]) -> list[str]:
    if not results:
        return []
    lines = [f"## {verdict.value}", ""]
    for result in results:
        lines += [f"- **{result.row}**: {_cell(result.message)}", f"  `{result.replay}`" if result.replay else ""]
    return [*(line for line in lines if line or line == ""), ""]


def _grouped(results: Iterable[Result]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for result in results:
        reasons.setdefault(result.message, []).append(result.row)
    return [f"- {_cell(reason)}: {', '.join(rows)}" for reason, rows in sorted(reasons.items())]


def _claimed(report: Report, id: str) -> str:
    claim = report.capabilities.get(id)
    if claim is None:
        return "-"
    if not claim.verdict:
        return "-"
    return f"{claim.declared}, {_SHORT[Verdict(claim.verdict)]}" if claim.declared != "unsupported" else "refused"


def _verdicts(report: Report, check: str) -> str:
    found = [result.verdict for result in report.results if result.check == check]
    if not found:
        return "-"
    kinds = sorted(set(found), key=list(Verdict).index)
    return ", ".join(_SHORT[kind] for kind in kinds)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
