"""``run``, ``list``, ``explain`` and ``sweep``."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from anyscale_conformance import integrity, waivers
from anyscale_conformance.cli import Exit
from anyscale_conformance.context import Context
from anyscale_conformance.kit import Kit, Mode, RunScope, find
from anyscale_conformance.mutants import base
from anyscale_conformance.profiles import belongs
from anyscale_conformance.reports import write_all
from anyscale_conformance.reports.result import Report, report_of
from anyscale_conformance.rows import Row, missing
from anyscale_conformance.runner import FOLDER, Run, all_checks
from anyscale_conformance.sweep import sweep as swept
from anyscale_conformance.verdicts import Result, Verdict
from anyscale_core import CONTRACT_VERSION
from anyscale_core.errors import UnknownName


def run(args: argparse.Namespace) -> Exit:
    """Run the checks of a provider."""
    mode = Mode(args.mode)
    if mode is not Mode.HERMETIC and not args.scope:
        raise UnknownName(
            f"mode {mode.value} makes things in a real account; name the run with --scope, so that it can be swept"
        )
    suite = Run(kit=_kit(args.provider, mode), seed=args.seed, mode=mode, name=args.scope)
    known = waivers.read(args.waivers) if args.waivers else ()
    rows = [row for row in suite.rows(all_checks()) if not args.profile or belongs(row, args.profile)]
    chosen = _chosen(rows, args)
    print(
        f"provider {args.provider}, contract {CONTRACT_VERSION}, mode {mode.value}, seed {args.seed}: {len(chosen)} rows"
    )
    began, results, is_interrupted = time.monotonic(), list[Result](), False
    today = datetime.now(UTC).date()
    try:
        for result in suite.each(chosen):
            results += (_told(each, results) for each in waivers.apply([result], known, today=today))
    except KeyboardInterrupt:
        is_interrupted = True
    faults = integrity.faults()
    report = report_of(
        suite, rows=rows, results=results, selection=tuple(args.check), profile=args.profile, integrity=faults,
        manifest=integrity.digest(),
    )  # fmt: skip
    _summed_up(report, time.monotonic() - began)
    if args.report is not None:
        write_all(report, args.report)
        print(f"reports are in {args.report}")
    return Exit.INTERRUPTED if is_interrupted else exit_of(report)


def exit_of(report: Report) -> Exit:
    """Return the exit status that a report is worth."""
    verdicts = {result.verdict for result in report.results}
    if not verdicts - {Verdict.NOT_RUN}:
        return Exit.NOTHING_RAN
    if Verdict.FAIL in verdicts:
        return Exit.FAILED
    if any(result.leaks for result in report.results):
        return Exit.LEAK
    return Exit.INCOMPLETE if report.integrity or verdicts & {Verdict.ERROR, Verdict.NOT_RUN} else Exit.OK


def every(args: argparse.Namespace) -> Exit:
    """Print every row and its outlook."""
    suite = Run(kit=find(args.provider))
    rows = suite.rows(all_checks())
    with suite.world("list") as kit:
        carrier = kit.carrier()
        for row in rows:
            print(f"{row.id:32} {row.check.level.value:6} {_outlook(row, missing(row, kit, carrier))}")
    return Exit.OK


def explain(args: argparse.Namespace) -> Exit:
    """Print one check."""
    found = {check.id: check for check in all_checks()}
    id = args.id.partition("[")[0]
    if id not in found:
        raise UnknownName(f"no check {args.id}; see `anyscale-conformance list`")
    check = found[id]
    caught = [
        mutant.name for mutant in base.load().values() if {each.partition("[")[0] for each in mutant.caught_by} & {id}
    ]
    lines = [
        f"{check.id} ({check.level.value})", f"  {check.sentence}", "", check.explanation, "",
        f"for: {', '.join(check.on or check.slots) or 'the plugin as a whole'}",
        f"needs the capabilities: {', '.join(check.needs) or 'none'}",
        f"needs of the kit: {', '.join(need.value for need in check.uses) or 'an inventory'}",
        f"catches: {', '.join(caught) or 'no mutant'}{f'; it is there because {check.why}' if check.why else ''}",
    ]  # fmt: skip
    print("\n".join(lines))
    return Exit.OK


def sweep(args: argparse.Namespace) -> Exit:
    """Delete what a run left: in its folders on this machine, and (in modes E and L) in the account."""
    if not args.scope:
        raise UnknownName("a sweep needs --scope NAME: it deletes everything of that run, and nothing without a name")
    mode, kit = Mode(args.mode), find(args.provider)
    left = 0
    homes = sorted(Path(tempfile.gettempdir()).glob(f"{FOLDER}{args.scope}-*"))
    if mode is not Mode.HERMETIC:
        homes = [Path(tempfile.mkdtemp(prefix=FOLDER))]
    for home in homes:
        left += _sweep_one(kit, RunScope(run=args.scope, row="sweep", seed=0, mode=mode, home=home), args)
    print(
        f"{len(homes)} worlds of {args.scope}: {left} things are left" if homes else f"nothing of {args.scope} is there"
    )
    return Exit.LEAK if left and not args.dry_run else Exit.OK


def _sweep_one(kit: type[Kit], scope: RunScope, args: argparse.Namespace) -> int:
    import shutil

    made = kit(scope)
    ctx = Context(made)
    owners = [attrs.evolve(owner, cluster=None) for owner in (ctx.owner, ctx.stranger)]
    items = [item for item in ctx.inventory() if any(owner.owns(item.tags) for owner in owners)]
    for item in items:
        print(f"{'would delete' if args.dry_run else 'deleting'} {item} ({item.id})")
    if args.dry_run:
        ctx.close()
        made.close()
        return len(items)
    others = tuple(item for item in ctx.inventory() if item not in items)
    left = swept(ctx, others)
    ctx.close()
    made.close()
    if not left:
        shutil.rmtree(scope.home, ignore_errors=True)
    return len(left)


def _kit(provider: str, mode: Mode) -> type[Kit]:
    kit = find(provider)
    if mode not in kit.modes:
        modes = ", ".join(sorted(each.value for each in kit.modes))
        raise UnknownName(f"the kit of {provider} has no mode {mode.value}; it has {modes}")
    return kit


def _chosen(rows: Sequence[Row], args: argparse.Namespace) -> "Sequence[Row]":
    unknown = [id for id in args.check if not any(id in (row.id, row.check.id) for row in rows)]
    if unknown:
        raise UnknownName(f"{args.provider} has no check {', '.join(unknown)}; see `anyscale-conformance list`")
    return [row for row in rows if not args.check or {row.id, row.check.id} & set(args.check)]


def _told(result: Result, before: Sequence[Result]) -> Result:
    """Print what is worth a line, and hand the result on. An error of the kit's that strikes every row is told once."""
    if result.verdict is Verdict.ERROR and any(result.message == other.message for other in before):
        return result
    if result.verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.WAIVED):
        print(f"{result.verdict.value} {result.row}: {result.message}")
    if result.verdict in (Verdict.FAIL, Verdict.ERROR):
        print(f"    {result.replay}")
    for leak in result.leaks:
        print(f"LEAK {result.row}: {leak}")
    sys.stdout.flush()
    return result


def _summed_up(report: Report, took_s: float) -> None:
    for fault in report.integrity:
        print(f"the suite is not as it was released: {fault}")
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in report.counts().items()) or "nothing ran"
    part = f" for {report.profile}" if report.profile else ""
    print(f"{report.grade.value}{part}: {counts}; {took_s:.1f} s")


def _outlook(row: Row, lacking: tuple[str, ...]) -> str:
    if row.undeclared:
        return f"refusal of {', '.join(row.undeclared)}"
    return f"unverified: no {', '.join(lacking)}" if lacking else "runs"
