"""X-OWN: whose a thing is, and who may see and touch it."""

from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect_equal, expect_error
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import MAIN
from anyscale_core.errors import NotFound
from anyscale_core.models.instance import Deletion


@check("X-OWN-02", on=MAIN)
def foreign_things_are_left_alone(ctx: Context) -> None:
    """Lets another control plane have things in the same account; they are not listed, got or deleted by us."""
    it = ctx.it
    ours, theirs = it.make(), it.make(owner=ctx.stranger)
    expect_equal(it.names(), (ours.name,), f"the {it.kind}s in our list, beside one of a stranger's,")
    expect_equal(it.names(owner=ctx.stranger), (theirs.name,), f"the {it.kind}s in the stranger's list")
    with (
        ctx.untouched(f"touching a stranger's {it.kind}"),
        expect_error(NotFound, when=f"getting a stranger's {it.kind}"),
    ):
        it.get(it.key(theirs))
    before = ctx.inventory(owner=ctx.stranger)
    expect_equal(it.delete(it.key(theirs)), Deletion.ALREADY_ABSENT, f"deleting a stranger's {it.kind}")
    expect_equal(ctx.inventory(owner=ctx.stranger), before, f"what the stranger has after our delete of its {it.kind}")
