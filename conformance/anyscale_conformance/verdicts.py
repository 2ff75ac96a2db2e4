"""How a row came out, and what the sum of the rows is worth."""

import enum
from collections.abc import Iterable

import attrs

from anyscale_conformance.rules import Level


class Verdict(enum.Enum):
    """How one row came out."""

    PASS = "PASS"
    FAIL = "FAIL"
    """The promise is not kept."""
    ERROR = "ERROR"
    """The suite, the kit or its credentials are at fault; nothing is known about the provider."""
    REFUSED_OK = "REFUSED_OK"
    """The capability is not declared, and asking for it was refused properly with nothing changed."""
    WAIVED = "WAIVED"
    """Fails, is known to, and the kit's waiver says why and until when."""
    UNVERIFIED = "UNVERIFIED"
    """The promise holds for this provider; this kit or mode cannot test it."""
    NOT_RUN = "NOT_RUN"
    """In the manifest and without a result: deselected, removed or interrupted."""
    PROVISIONAL = "PROVISIONAL"
    """A new check in its trial time: shown, not graded."""


class Grade(enum.Enum):
    """What all rows together are worth."""

    CONFORMANT = "CONFORMANT"
    PARTIAL = "PARTIAL"
    """Nothing fails but what a waiver names."""
    FAILED = "FAILED"
    INCOMPLETE = "INCOMPLETE"
    """Something was not run, or was run with an error of the suite's."""


@attrs.frozen(kw_only=True)
class Result:
    """One row's result. ``faults``: what was injected and how often it struck. ``replay``: the command that runs it again.

    ``virtual_s``: how much time passed on the clock of the cloud, which is the same in two runs of one seed.
    """

    row: str
    check: str
    subject: str
    level: Level
    verdict: Verdict
    message: str = ""
    faults: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    replay: str = ""
    duration_s: float = 0.0
    virtual_s: float = 0.0


def grade(results: Iterable[Result], *, is_partial: bool = False) -> Grade:
    """Return what the results are worth; ``is_partial`` when not all checks were asked for."""
    results = tuple(results)
    musts = [result for result in results if result.level is Level.MUST]
    verdicts = {result.verdict for result in musts}
    if Verdict.FAIL in verdicts or any(result.leaks for result in results):
        return Grade.FAILED
    if is_partial or not results or verdicts & {Verdict.ERROR, Verdict.NOT_RUN}:
        return Grade.INCOMPLETE
    return Grade.PARTIAL if Verdict.WAIVED in verdicts else Grade.CONFORMANT
