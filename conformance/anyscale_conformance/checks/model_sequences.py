"""X-SEQ: any sequence of calls, by the model."""

from anyscale_conformance.context import Context
from anyscale_conformance.moves import run
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import BATCH, ENDPOINT, MAIN, SUBJECTS

ALONGSIDE = {"cluster": (BATCH,), "networking": (ENDPOINT,)}
"""What the same driver makes besides."""


@check("X-SEQ-01", on=MAIN)
def any_sequence_of_one_driver(ctx: Context) -> None:
    """Runs random programs of creates, repeats, deletes, crashes and faults against one driver, with the oracle at each step."""
    run(ctx, _made(ctx, (ctx.subject_name, *ALONGSIDE.get(ctx.subject_name, ()))))


@check("X-SEQ-02")
def any_sequence_of_all(ctx: Context) -> None:
    """Runs such programs over all that the provider makes, with instances and ways in that hang on networks."""
    run(ctx, _made(ctx, (*MAIN, BATCH, ENDPOINT)))


def _made(ctx: Context, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the subjects that the provider makes."""
    slots, capabilities = ctx.provider.slots(), ctx.provider.capabilities
    return tuple(
        name for name in names if SUBJECTS[name].slot in slots and all(map(capabilities.has, SUBJECTS[name].needs))
    )
