"""The badge: one line that carries the truth. Red on a failure or a leak, grey on incomplete, green only on the whole."""

import json
from html import escape

from anyscale_conformance.reports.result import Report
from anyscale_conformance.rules import Level
from anyscale_conformance.verdicts import Grade, Verdict

_COLOURS = {Grade.CONFORMANT: "#2e7d32", Grade.PARTIAL: "#b58900", Grade.FAILED: "#c0392b", Grade.INCOMPLETE: "#7f8c8d"}
_WIDTH = 6.6
"""Pixels of a character of the badge's font, on the safe side."""


def text(report: Report) -> str:
    """Return what the badge says: ``contract 1.0 | must 310/310 | mode H``."""
    musts = [r for r in report.results if r.level is Level.MUST and r.verdict is not Verdict.UNVERIFIED]
    held = [result for result in musts if result.verdict in (Verdict.PASS, Verdict.REFUSED_OK)]
    grade = "" if report.grade is Grade.CONFORMANT else f" | {report.grade.value.lower()}"
    return f"contract {report.contract} | must {len(held)}/{len(musts)} | mode {report.mode}{grade}"


def shields(report: Report) -> str:
    """Return the badge in the form of a shields endpoint."""
    body = {
        "schemaVersion": 1, "label": report.provider, "message": text(report), "color": _COLOURS[report.grade].lstrip("#"),
    }  # fmt: skip
    return json.dumps(body, indent=1) + "\n"


def svg(report: Report) -> str:
    """Return the badge as a picture."""
    label, message = report.provider, text(report)
    left, right = round(len(label) * _WIDTH) + 14, round(len(message) * _WIDTH) + 14
    full = left + right
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="20" role="img" '
        f'aria-label="{escape(label)}: {escape(message)}">'
        f'<rect width="{left}" height="20" fill="#555"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[report.grade]}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="7" y="14">{escape(label)}</text><text x="{left + 7}" y="14">{escape(message)}</text></g></svg>\n'
    )
