"""``pytest --anyscale-provider acme``: every row of the suite as an item of the author's own test run, over the same runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anyscale_conformance.rows import Row
    from anyscale_conformance.runner import Run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("anyscale-conformance")
    group.addoption("--anyscale-provider", metavar="NAME", help="also run the conformance suite of this provider")
    group.addoption("--anyscale-seed", type=int, default=0, metavar="N", help="seed of its names, order and sizes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a row of the suite as an item each, before anything is selected."""
    name = config.getoption("--anyscale-provider")
    if name is None:
        return
    # The suite is loaded only by those who asked for it: this plugin is on in every pytest of the environment.
    from anyscale_conformance.kit import find
    from anyscale_conformance.runner import Run, all_checks

    run = Run(kit=find(name), seed=config.getoption("--anyscale-seed"))
    items += [RowItem.from_parent(session, name=row.id, run=run, row=row) for row in run.rows(all_checks())]


class NotConformant(Exception):
    """A row came out as FAIL or ERROR, or left something behind."""


class RowItem(pytest.Item):
    """One row. It cannot be skipped from within: the runner turns that into ERROR."""

    def __init__(self, *, run: Run, row: Row, **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]
        self._run, self._row = run, row

    def runtest(self) -> None:
        """Run the row. Raises NotConformant."""
        result = self._run.run(self._row)
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
