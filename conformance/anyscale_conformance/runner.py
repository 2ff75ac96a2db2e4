"""Runs rows: each in a world of its own, in a thread that is watched, with everything swept after it."""

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from anyscale_conformance.context import LEFT_BEHIND, Context
from anyscale_conformance.expect import CheckFailed
from anyscale_conformance.faults.plan import Crashed
from anyscale_conformance.kit import Item, Kit, Mode, RunScope
from anyscale_conformance.refusals import verify_refusal
from anyscale_conformance.rows import REFUSAL, Row, missing, rows_of
from anyscale_conformance.rules import Check, load
from anyscale_conformance.sweep import sweep
from anyscale_conformance.verdicts import Result, Verdict
from anyscale_core.errors import CloudError

LIMIT_S = {Mode.HERMETIC: 30.0, Mode.EMULATOR: 300.0, Mode.LIVE: 3600.0}
"""The longest that a row may take on this machine's clock: a driver that never returns is a broken one."""

FOLDER = "ac-conf-"
"""What the folders of the rows begin with; the name of the run follows."""

INTERRUPTED_S = 0.5
"""How long the call of a driver that was interrupted is given to end by itself, before its things are swept."""

HUNG = "it had not ended"

SKIPS = ("Skipped", "XFailed", "SkipTest")
"""Exceptions of test tools by which a check would get out of its work."""


@attrs.frozen(kw_only=True)
class Run:
    """One run of the suite: which kit, by which seed, how real. ``home``: a folder that the rows' homes are made in."""

    kit: type[Kit]
    seed: int = 0
    mode: Mode = Mode.HERMETIC
    name: str = ""
    home: Path = attrs.field(factory=lambda: Path(tempfile.gettempdir()))
    limit_s: float | None = None

    @property
    def scope_name(self) -> str:
        """The name of the run: every owner, name and folder of its things has it."""
        return self.name or f"conf{self.seed}"

    def rows(self, checks: Iterable[Check]) -> tuple[Row, ...]:
        """Return all rows of the provider."""
        with self.world("rows") as kit:
            return rows_of(kit.provider(), checks)

    def each(self, rows: Iterable[Row]) -> Iterator[Result]:
        """Run the rows in the order that the seed gives, and yield each result as it comes."""
        order = list(rows)
        random.Random(self.seed).shuffle(order)
        for row in order:
            yield self.run(row)

    def run(self, row: Row) -> Result:
        """Run one row and sweep after it. Raises nothing but what ends the process."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                kit = stack.enter_context(self.world(row.id))
                ctx = Context(kit, row.subject)
                lacking = missing(row, kit, ctx.carrier)
                before, started = ctx.inventory(), ctx.clock.now()
            except Exception as error:
                return self._result(row, Verdict.ERROR, f"the kit failed: {type(error).__name__}: {error}", began)
            if lacking and not row.undeclared:
                message = f"the kit has not: {', '.join(lacking)}"
                return self._result(row, Verdict.UNVERIFIED, message, began)
            try:
                verdict, message = self._judge(row, ctx)
            except BaseException:
                # Interrupted: what still runs in the driver ends at its next request, and what it made is swept all the same.
                ctx.plan.die()
                time.sleep(INTERRUPTED_S)
                self._swept(ctx, before)
                raise
            if verdict in (Verdict.PASS, Verdict.REFUSED_OK):
                closed, why = watched(partial(_close, ctx), limit_s=self.limit_s or LIMIT_S[self.mode])
                verdict, message = (verdict, message) if closed is Verdict.PASS else (closed, why)
            faults = tuple(f"{fault} struck {fault.fired}" for fault in ctx.plan.armed)
            leaks = self._swept(ctx, before)
            virtual_s = (ctx.clock.now() - started).total_seconds() if kit.is_virtual else 0.0
            watched(ctx.close, limit_s=self.limit_s or LIMIT_S[self.mode])  # the sweep's own; the row's are judged
        return self._result(row, verdict, message, began, faults=faults, leaks=leaks, virtual_s=virtual_s)

    def _judge(self, row: Row, ctx: Context) -> tuple[Verdict, str]:
        act = (lambda: refused(row, ctx)) if row.undeclared or row.check.id == REFUSAL else lambda: row.check.run(ctx)
        verdict, message = watched(act, limit_s=self.limit_s or LIMIT_S[self.mode])
        if message.startswith(HUNG):
            # Whatever still runs in the driver ends at its next request.
            ctx.plan.die()
        if verdict is Verdict.PASS:
            idle = [str(fault) for fault in ctx.plan.armed if not fault.fired and not fault.may_miss]
            if idle:
                return Verdict.ERROR, f"a fault never struck, so nothing was proven: {'; '.join(idle)}"
            if row.undeclared or row.check.id == REFUSAL:
                return Verdict.REFUSED_OK, f"{', '.join(row.undeclared) or row.subject} is not declared, and is refused"
        return verdict, message

    def _swept(self, ctx: Context, before: tuple[Item, ...]) -> tuple[str, ...]:
        leaks: list[str] = []
        verdict, message = watched(
            lambda: leaks.extend(_described(item, ctx) for item in sweep(ctx, before)),
            limit_s=self.limit_s or LIMIT_S[self.mode],
        )
        return tuple(leaks) if verdict is Verdict.PASS else (f"the sweep failed: {message}",)

    @contextlib.contextmanager
    def world(self, row: str) -> Iterator[Kit]:
        with tempfile.TemporaryDirectory(
            prefix=f"{FOLDER}{self.scope_name}-", dir=self.home, ignore_cleanup_errors=True
        ) as home:
            kit = self.kit(RunScope(run=self.scope_name, row=row, seed=self.seed, mode=self.mode, home=Path(home)))
            try:
                yield kit
            finally:
                kit.close()

    def _result(self, row: Row, verdict: Verdict, message: str, began: float, **fields: Any) -> Result:
        replay = f"anyscale-conformance run --provider {self.kit.name} --check '{row.id}' --seed {self.seed}"
        if self.mode is not Mode.HERMETIC:
            replay += f" --mode {self.mode.value} --scope {self.name}"
        result = Result(
            row=row.id, check=row.check.id, subject=row.subject, level=row.check.level, verdict=verdict, message=message,
            replay=replay, duration_s=round(time.monotonic() - began, 4),
        )  # fmt: skip
        return attrs.evolve(result, **fields)


def _close(ctx: Context) -> None:
    try:
        ctx.close()
    except Exception as error:
        raise CheckFailed(f"closing a driver raised {type(error).__name__}: {error}") from error


def refused(row: Row, ctx: Context) -> None:
    """Verify the refusal of what the row needs and the provider does not declare."""
    for capability in row.undeclared or (row.subject,):
        verify_refusal(ctx, capability)


def watched(act: Callable[[], object], *, limit_s: float) -> tuple[Verdict, str]:
    """Run ``act`` in a thread and say how it ended. One that does not end is left behind, and is the provider's failure."""
    outcome: list[tuple[Verdict, str]] = []

    def work() -> None:
        try:
            act()
            outcome.append((Verdict.PASS, ""))
        except BaseException as error:
            outcome.append(_verdict_of(error))

    thread = threading.Thread(target=work, name="conformance-row", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        LEFT_BEHIND.add(thread)
        return Verdict.FAIL, f"{HUNG} after {limit_s:g} s: a call of the driver does not return"
    return outcome[0]


def _verdict_of(error: BaseException) -> tuple[Verdict, str]:
    if isinstance(error, CheckFailed):
        return Verdict.FAIL, str(error)
    if isinstance(error, CloudError):
        return Verdict.FAIL, f"unexpected: {error}"
    if isinstance(error, Crashed):
        return Verdict.ERROR, f"the check did not catch the crash that it injected: {error}"
    if type(error).__name__ in SKIPS:
        return Verdict.ERROR, f"the check tried to get out of its work: {type(error).__name__}: {error}"
    return Verdict.ERROR, f"the suite or the kit failed: {type(error).__name__}: {error}{_where(error)}"


def _where(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})"


def _described(item: Item, ctx: Context) -> str:
    return f"{item} ({item.id}) of {ctx.scope.row}"


def all_checks() -> tuple[Check, ...]:
    """Return every check of the suite, by id."""
    return tuple(load().values())
