"""``pytest --anyscale-provider acme``: every row of the suite as an item of the author's own test run, over the same runner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyscale_conformance.reports.result import Report
    from anyscale_conformance.rows import Row
    from anyscale_conformance.runner import Run
    from anyscale_conformance.verdicts import Result

NOTHING_RAN = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("anyscale-conformance")
    group.addoption("--anyscale-provider", metavar="NAME", help="also run the conformance suite of this provider")
    group.addoption("--anyscale-seed", type=int, default=0, metavar="N", help="seed of its names, order and sizes")
    group.addoption(
        "--anyscale-report", type=Path, metavar="DIR", help="write result.json and all that derives from it"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run of the suite when one is asked for."""
    name = config.getoption("--anyscale-provider")
    if name is not None:
        config.pluginmanager.register(Session(name, config), "anyscale-conformance-session")


class Session:
    """One run of the suite within one of pytest's."""

    def __init__(self, name: str, config: pytest.Config) -> None:
        # The suite is loaded only by those who asked for it: this plugin is on in every pytest of the environment.
        from anyscale_conformance.kit import find
        from anyscale_conformance.runner import Run
        from anyscale_core.errors import CoreError

        try:
            self.run: Run = Run(kit=find(name), seed=config.getoption("--anyscale-seed"))
        except CoreError as error:
            raise pytest.UsageError(str(error)) from error
        self.folder: Path | None = config.getoption("--anyscale-report")
        self.rows: Sequence[Row] = ()
        self.results: list[Result] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add each row as an item, before anything is selected."""
        from anyscale_conformance.runner import all_checks

        self.rows = self.run.rows(all_checks())
        items += [RowItem.from_parent(session, name=row.id, suite=self, row=row) for row in self.rows]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; say so with the exit status when nothing of the suite ran."""
        if not self.results:
            session.exitstatus = NOTHING_RAN
        if self.folder is not None:
            from anyscale_conformance.reports import write_all

            write_all(self.report(), self.folder)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the grade."""
        report = self.report()
        counts = ", ".join(f"{count} {verdict.value}" for verdict, count in report.counts().items())
        terminalreporter.section(f"conformance of {report.provider}: {report.grade.value}")
        terminalreporter.line(counts)
        for fault in report.integrity:
            terminalreporter.line(f"the suite is not as it was released: {fault}")

    def report(self) -> Report:
        """Return what has been found; a row that was deselected is NOT_RUN."""
        from anyscale_conformance import integrity
        from anyscale_conformance.reports.result import report_of

        return report_of(
            self.run, rows=self.rows, results=self.results, integrity=integrity.faults(), manifest=integrity.digest()
        )


class NotConformant(Exception):
    """A row came out as FAIL or ERROR, or left something behind."""


class RowItem(pytest.Item):
    """One row. It cannot be skipped from within: the runner turns that into ERROR."""

    def __init__(self, *, suite: Session, row: Row, **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]
        self._suite, self._row = suite, row

    def runtest(self) -> None:
        """Run the row. Raises NotConformant."""
        result = self._suite.run.run(self._row)
        self._suite.results.append(result)
        self.user_properties += [
            ("check", result.check),
            ("verdict", result.verdict.value),
            ("level", result.level.value),
        ]
        if result.verdict.value in ("FAIL", "ERROR"):
            raise NotConformant(f"{result.verdict.value} {result.row}: {result.message}\n{result.replay}")
        if result.leaks:
            raise NotConformant(f"{result.row} left behind: {', '.join(result.leaks)}\n{result.replay}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:  # noqa: ARG002
        """Show the message alone: where in the suite it came from helps nobody."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Name the row in pytest's output."""
        return "anyscale-conformance", None, self.name
