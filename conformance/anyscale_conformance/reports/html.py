"""One HTML file that needs nothing else: the grade, every row, a filter by verdict."""

from html import escape

from anyscale_conformance.promises import PROMISES
from anyscale_conformance.reports.result import Report
from anyscale_conformance.verdicts import Result, Verdict

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
code{background:#f3f3f3;padding:.1rem .3rem}.v{font-weight:600;white-space:nowrap}small{color:#555}
.PASS,.REFUSED_OK{color:#186a3b}.FAIL,.ERROR{color:#a61b1b}.UNVERIFIED,.WAIVED,.NOT_RUN,.PROVISIONAL{color:#7a5c00}
fieldset{border:0;padding:0;margin:1rem 0}label{margin-right:1rem}
@media (prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}td,th{border-color:#444}code{background:#2a2a2a}
small{color:#aaa}.PASS,.REFUSED_OK{color:#7dcea0}.FAIL,.ERROR{color:#f1948a}
.UNVERIFIED,.WAIVED,.NOT_RUN,.PROVISIONAL{color:#f7dc6f}}
"""
_SCRIPT = """
for (const box of document.querySelectorAll('input')) box.addEventListener('change', () => {
  for (const row of document.querySelectorAll('tr.' + box.value + '-row')) row.hidden = !box.checked;
});
"""


def html(report: Report) -> str:
    """Return the page."""
    counts = report.counts()
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{verdict.value}"> {verdict.value} ({count})</label>'
        for verdict, count in counts.items()
    )
    faults = "".join(f"<li>The suite is not as it was released: {escape(fault)}.</li>" for fault in report.integrity)
    rows = "".join(_row(result) for result in report.results)
    part = (
        f"<p>A part of the suite alone was run: {escape(', '.join(report.selection))}.</p>" if report.selection else ""
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{escape(report.provider)}: {report.grade.value}</title><style>{_STYLE}</style>"
        f"<h1>{escape(report.provider)}: {report.grade.value}</h1>"
        f"<p>{escape(report.distribution)} {escape(report.version)}, contract {escape(report.contract)}, mode {report.mode}, "
        f"seed {report.seed}, suite {escape(report.suite)}, Python {escape(report.python)}, {escape(report.system)}</p>"
        f"{part}<ul>{faults}</ul><fieldset>{boxes}</fieldset>"
        f"<table><thead><tr><th>Row<th>Verdict<th>Promise</thead><tbody>{rows}</tbody></table>"
        f"<script>{_SCRIPT}</script></html>\n"
    )


def _row(result: Result) -> str:
    verdict = result.verdict.value
    said = f"<br>{escape(result.message)}" if result.message else ""
    leaks = "".join(f"<br>left behind: {escape(leak)}" for leak in result.leaks)
    faults = "".join(f"<br><small>{escape(fault)}</small>" for fault in result.faults)
    replay = f"<br><code>{escape(result.replay)}</code>" if result.verdict in (Verdict.FAIL, Verdict.ERROR) else ""
    return (
        f'<tr class="{verdict}-row"><td>{escape(result.row)}<td class="v {verdict}">{verdict}'
        f"<td>{escape(PROMISES.get(result.check, ''))}{said}{leaks}{faults}{replay}"
    )
