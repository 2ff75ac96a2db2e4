"""Each verdict can be reached, and only by what it stands for; a run is worth what its rows are."""

import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import attrs
import pytest
from anyscale_conformance import waivers
from anyscale_conformance.cli import Exit
from anyscale_conformance.commands.run import exit_of
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect
from anyscale_conformance.faults.plan import Crashed, Effect
from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.reports.result import report_of
from anyscale_conformance.rows import Row
from anyscale_conformance.rules import Check, Level, Needed, Uses
from anyscale_conformance.runner import Run
from anyscale_conformance.verdicts import Grade, Result, Verdict, grade

from anyscale_core.errors import PermissionDenied, SpecError
from anyscale_core.hookspecs import Provider


class Kit(ReferenceKit):
    name = "fake"


def a_row(act: Callable[[Context], object], *, uses: tuple[Needed, ...] = (), **fields: object) -> Row:
    def run(ctx: Context) -> None:
        act(ctx)

    return Row(check=Check(id="X-IDEM-01", run=run, uses=uses), **fields)  # type: ignore[arg-type]


def judged(act: Callable[[Context], object], kit: type[ReferenceKit] = Kit, **fields: object) -> Result:
    return Run(kit=kit, limit_s=5.0).run(a_row(act, **fields))  # type: ignore[arg-type]


def skip(_: Context) -> None:
    pytest.skip("not today")


def xfail(_: Context) -> None:
    pytest.xfail("known")


def let_go(ctx: Context) -> None:
    ctx.plan.arm(attrs.evolve(ctx.inject(Effect.REFUSE, may_miss=True), may_miss=False))


def forbid(ctx: Context) -> None:
    ctx.inject(Effect.REFUSE, category=PermissionDenied)
    ctx.subject("storage").make()


def crash(ctx: Context) -> None:
    ctx.inject(Effect.CRASH_BEFORE)
    ctx.subject("storage").make()


def hang(ctx: Context) -> None:
    while True:
        ctx.subject("storage").list()


@pytest.mark.parametrize(
    ("act", "verdict", "said"),
    [
        (lambda ctx: None, Verdict.PASS, ""),
        (lambda ctx: expect(False, "one thing, not two"), Verdict.FAIL, "one thing, not two"),
        (forbid, Verdict.FAIL, "unexpected: PermissionDenied"),
        (lambda ctx: 1 // 0, Verdict.ERROR, "ZeroDivisionError"),
        (skip, Verdict.ERROR, "tried to get out of its work"),
        (xfail, Verdict.ERROR, "tried to get out of its work"),
        (let_go, Verdict.ERROR, "never struck"),
        (crash, Verdict.ERROR, "did not catch the crash"),
        (hang, Verdict.FAIL, "had not ended"),
    ],
)
def test_a_row_ends_as_what_became_of_its_check(act: Callable[[Context], object], verdict: Verdict, said: str) -> None:
    result = Run(kit=Kit, limit_s=0.3 if act is hang else 30.0).run(a_row(act))
    assert result.verdict is verdict
    assert said in result.message


def test_a_driver_that_cannot_be_closed_fails_its_row() -> None:
    class Unclosable:
        def close(self) -> None:
            raise OSError("the pool is gone")

    result = judged(lambda ctx: ctx.use_driver("cluster", Unclosable()))
    assert (result.verdict, result.message) == (Verdict.FAIL, "closing a driver raised OSError: the pool is gone")


def test_what_the_kit_lacks_is_unverified_and_the_check_is_not_begun() -> None:
    class Blind(Kit):
        def wire_codes(self) -> tuple[()]:
            return ()

    result = judged(lambda ctx: expect(False, "never begun"), Blind, uses=(Uses.CODES,))
    assert result.verdict is Verdict.UNVERIFIED


def test_a_kit_that_breaks_is_an_error_and_not_the_providers_failure() -> None:
    class Broken(Kit):
        def oracle(self) -> "object":  # type: ignore[override]
            raise RuntimeError("no eye")

    result = judged(lambda ctx: None, Broken)
    assert (result.verdict, "no eye" in result.message) == (Verdict.ERROR, True)


def test_an_undeclared_capability_is_refused_ok_only_when_it_is_refused() -> None:
    class Silent(Kit):
        def provider(self) -> Provider:
            provider = super().provider()
            claims = provider.capabilities
            return attrs.evolve(
                provider, capabilities=attrs.evolve(claims, supported=claims.supported - {"cluster.images"})
            )

    row = a_row(lambda ctx: None, undeclared=("cluster.images",))
    result = Run(kit=Silent).run(row)
    assert (result.verdict, "cluster.images" in result.message) == (Verdict.FAIL, True)


def a_result(verdict: Verdict, **fields: object) -> Result:
    plain = Result(row="X-IDEM-01", check="X-IDEM-01", subject="", level=Level.MUST, verdict=verdict)
    return attrs.evolve(plain, **fields)  # type: ignore[arg-type]


TODAY = date(2026, 11, 22)


@pytest.mark.parametrize(
    ("verdict", "days", "wanted"),
    [
        (Verdict.FAIL, 1, Verdict.WAIVED),
        (Verdict.FAIL, 0, Verdict.WAIVED),
        (Verdict.FAIL, -1, Verdict.FAIL),
        (Verdict.PASS, 1, Verdict.FAIL),
        (Verdict.ERROR, 1, Verdict.ERROR),
        (Verdict.UNVERIFIED, 1, Verdict.UNVERIFIED),
    ],
)
def test_a_waiver_is_good_for_a_failure_until_its_day(verdict: Verdict, days: int, wanted: Verdict) -> None:
    waiver = waivers.Waiver(row="X-IDEM-01", reason="r", issue="i", expires=TODAY + timedelta(days=days))
    assert [r.verdict for r in waivers.apply([a_result(verdict)], [waiver], today=TODAY)] == [wanted]


def test_a_waiver_without_reason_issue_or_day_is_refused_with_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text('[[waiver]]\nrow = "X-IDEM-01"\nexpires = "soon"\nwhy = "x"\n')
    with pytest.raises(SpecError) as caught:
        waivers.read(path)
    assert {fault.path for fault in caught.value.faults} == {
        f"waiver[0].{f}" for f in ("reason", "issue", "expires", "why")
    }


@pytest.mark.parametrize(
    ("verdicts", "wanted", "status"),
    [
        ((Verdict.PASS, Verdict.REFUSED_OK, Verdict.UNVERIFIED), Grade.CONFORMANT, Exit.OK),
        ((Verdict.PASS, Verdict.WAIVED), Grade.PARTIAL, Exit.OK),
        ((Verdict.PASS, Verdict.FAIL, Verdict.ERROR), Grade.FAILED, Exit.FAILED),
        ((Verdict.PASS, Verdict.ERROR), Grade.INCOMPLETE, Exit.INCOMPLETE),
        ((Verdict.PASS, Verdict.NOT_RUN), Grade.INCOMPLETE, Exit.INCOMPLETE),
        ((Verdict.NOT_RUN,), Grade.INCOMPLETE, Exit.NOTHING_RAN),
        ((), Grade.INCOMPLETE, Exit.NOTHING_RAN),
    ],
)
def test_a_run_is_worth_what_its_rows_are(verdicts: tuple[Verdict, ...], wanted: Grade, status: Exit) -> None:
    results = [a_result(verdict, row=f"X-IDEM-01[{number}]") for number, verdict in enumerate(verdicts)]
    assert grade(results) is wanted
    assert exit_of(report_of(Run(kit=Kit), rows=(), results=results)) is status


def test_what_is_left_behind_fails_the_run_although_every_row_passed() -> None:
    results = [a_result(Verdict.PASS, leaks=("disk 1",))]
    assert grade(results) is Grade.FAILED
    assert exit_of(report_of(Run(kit=Kit), rows=(), results=results)) is Exit.LEAK


def test_a_fault_of_the_suite_itself_costs_the_grade() -> None:
    report = report_of(Run(kit=Kit), rows=(), results=[a_result(Verdict.PASS)], integrity=("check X was removed",))
    assert (report.grade, exit_of(report)) == (Grade.INCOMPLETE, Exit.INCOMPLETE)


def test_a_part_of_the_suite_earns_no_grade() -> None:
    report = report_of(Run(kit=Kit), rows=(), results=[a_result(Verdict.PASS)], selection=("X-IDEM-01",))
    assert (report.grade, exit_of(report)) == (Grade.INCOMPLETE, Exit.OK)


def test_a_check_fails_under_python_without_assertions_too() -> None:
    code = "from anyscale_conformance.expect import expect; expect(False, 'alive')"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert "CheckFailed: alive" in done.stderr


def test_no_check_asserts() -> None:
    import ast

    from anyscale_conformance import checks

    for path in sorted(Path(checks.__path__[0]).glob("*.py")):
        found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert not found, f"{path.name}: lines {found}"


def test_the_dead_make_no_requests() -> None:
    kit_calls: list[str] = []

    def act(ctx: Context) -> None:
        ctx.inject(Effect.CRASH_AFTER)
        with pytest.raises(Crashed):
            ctx.subject("storage").make()
        with pytest.raises(Crashed):
            ctx.subject("storage").list()
        ctx.restart()
        kit_calls.extend(bucket.name for bucket in ctx.subject("storage").list())

    assert judged(act).verdict is Verdict.PASS
    assert len(kit_calls) == 1
