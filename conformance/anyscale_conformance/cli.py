"""``anyscale-conformance``: arguments in, exit status out."""

import argparse
import enum
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from anyscale_conformance.kit import Mode, find
from anyscale_conformance.reports.result import Report, write_json
from anyscale_conformance.rows import Row, missing
from anyscale_conformance.rules import Check
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.verdicts import Grade, Result, Verdict
from anyscale_core.errors import CoreError


class Exit(enum.IntEnum):
    """Exit statuses; ``docs/conformance.md`` explains them."""

    OK = 0
    FAILED = 1
    LEAK = 2
    INCOMPLETE = 3
    NOTHING_RAN = 4
    USAGE = 5
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = _parser().parse_args(argv)
    verbs: dict[str, Callable[[argparse.Namespace], Exit]] = {"run": _run, "list": _list, "explain": _explain}
    try:
        return int(verbs[args.verb](args))
    except CoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.USAGE


def exit_of(report: Report) -> Exit:
    """Return the exit status that a report is worth."""
    verdicts = {result.verdict for result in report.results}
    if not verdicts - {Verdict.NOT_RUN}:
        return Exit.NOTHING_RAN
    if Verdict.FAIL in verdicts:
        return Exit.FAILED
    if any(result.leaks for result in report.results):
        return Exit.LEAK
    if verdicts & {Verdict.ERROR, Verdict.NOT_RUN} or (report.grade is Grade.INCOMPLETE and not report.selection):
        return Exit.INCOMPLETE
    return Exit.OK


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(int(Exit.USAGE))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="anyscale-conformance", description="Prove that a provider keeps the contract.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run the checks of a provider and grade it")
    run.add_argument("--provider", required=True)
    run.add_argument(
        "--check", action="append", default=[], metavar="ID", help="this check or row alone; may be repeated"
    )
    run.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.HERMETIC.value)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--scope", default="", help="name of the run; required in modes E and L")
    run.add_argument("--report", type=Path, metavar="DIR")
    every = verbs.add_parser("list", help="every row, and why it will or will not be run")
    every.add_argument("--provider", default="fake")
    explain = verbs.add_parser("explain", help="one check: its promise and how it is checked")
    explain.add_argument("id")
    return parser


def _run(args: argparse.Namespace) -> Exit:
    run = Run(kit=find(args.provider), seed=args.seed, mode=Mode(args.mode), name=args.scope)
    rows = run.rows(all_checks())
    chosen = [row for row in rows if not args.check or row.id in args.check or row.check.id in args.check]
    unknown = [id for id in args.check if not any(id in (row.id, row.check.id) for row in rows)]
    if unknown:
        print(
            f"error: {args.provider} has no check {', '.join(unknown)}; see `anyscale-conformance list`",
            file=sys.stderr,
        )
        return Exit.USAGE
    print(f"provider {args.provider}, mode {run.mode.value}, seed {run.seed}: {len(chosen)} of {len(rows)} rows")
    began = time.monotonic()
    results = [_told(result) for result in run.each(chosen)]
    report = Report.of(run, rows=rows, results=results, selection=tuple(args.check))
    if args.report is not None:
        write_json(report, args.report)
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in report.counts().items())
    print(f"{report.grade.value}: {counts}; {time.monotonic() - began:.1f} s")
    return exit_of(report)


def _told(result: Result) -> Result:
    """Print what is worth a line, and hand the result on."""
    if result.verdict not in (Verdict.PASS, Verdict.REFUSED_OK):
        print(f"{result.verdict.value} {result.row}: {result.message}")
    if result.verdict in (Verdict.FAIL, Verdict.ERROR):
        print(f"    {result.replay}")
    for leak in result.leaks:
        print(f"LEAK {result.row}: {leak}")
    return result


def _list(args: argparse.Namespace) -> Exit:
    run = Run(kit=find(args.provider))
    with run.world("list") as kit:
        carrier = kit.carrier()
        for row in run.rows(all_checks()):
            print(f"{row.id:28} {row.check.level.value:6} {_outlook(row, missing(row, kit, carrier))}")
    return Exit.OK


def _outlook(row: Row, lacking: tuple[str, ...]) -> str:
    if row.undeclared:
        return f"refusal of {', '.join(row.undeclared)}"
    return f"unverified: no {', '.join(lacking)}" if lacking else "runs"


def _explain(args: argparse.Namespace) -> Exit:
    found: dict[str, Check] = {check.id: check for check in all_checks()}
    id = args.id.partition("[")[0]
    if id not in found:
        print(f"error: no check {args.id}; see `anyscale-conformance list`", file=sys.stderr)
        return Exit.USAGE
    check = found[id]
    print(f"{check.id} ({check.level.value})\n  {check.sentence}\n\n{check.explanation}")
    return Exit.OK
