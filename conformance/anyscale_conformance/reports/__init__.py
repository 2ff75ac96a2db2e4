"""From results to what people and tools read. ``result.json`` is the one source; everything else derives from it."""

from pathlib import Path

from anyscale_conformance.reports import badge
from anyscale_conformance.reports.html import html
from anyscale_conformance.reports.junit import junit
from anyscale_conformance.reports.markdown import markdown
from anyscale_conformance.reports.result import Report, write_json


def write_all(report: Report, folder: Path) -> None:
    """Write ``result.json`` and every form of it into a folder, made when it is missing."""
    write_json(report, folder)
    forms = {
        "junit.xml": junit, "report.md": markdown, "report.html": html, "badge.svg": badge.svg, "badge.json": badge.shields,
    }  # fmt: skip
    for name, form in forms.items():
        (folder / name).write_text(form(report), encoding="utf-8")
