"""X-AMB: the cloud acted and the answer was lost, at every write of a call."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect_equal
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import MAIN
from anyscale_core.errors import CloudError

T = TypeVar("T")

ATTEMPTS = 4
"""How often the core would repeat a call with its token."""


@check("X-AMB-01", on=MAIN, uses=(Effect.LOSE_AFTER,))
def timeout_after_the_act(ctx: Context) -> None:
    """Counts the writes of an undisturbed create, then loses the answer of each in turn and repeats with the token."""
    sweep_positions(ctx, Effect.LOSE_AFTER)


def sweep_positions(ctx: Context, effect: Effect) -> None:
    """Disturb a create at each of its writes with ``effect``; after repeats with the token there must be one thing."""
    it = ctx.it
    writes = ctx.count_writes(it.make)
    if writes == 0:
        raise CheckFailed(f"creating a {it.kind} passed no write at the carrier")
    for position in range(1, writes + 1):
        before = len(ctx.inventory(it.kind))
        fault = ctx.inject(effect, at=position)
        spec, token = it.spec(), ctx.token()
        thing = repeat(partial(it.create, spec, token=token))
        fault.lift()
        expect_equal(thing.name, spec.name, "the name of what the repeated create returned")
        found = len(ctx.inventory(it.kind)) - before
        expect_equal(
            found, 1, f"the number of {it.kind}s after {effect.value} at write {position} of {writes} and a repeat"
        )


def repeat(act: Callable[[], T]) -> T:
    """Call ``act`` as the core would: again with the same token after an error that may be repeated."""
    last: CloudError | None = None
    for _ in range(ATTEMPTS):
        try:
            return act()
        except CloudError as error:
            last = error
    raise CheckFailed(f"repeating {ATTEMPTS} times with the token did not help: {last}") from last
