"""X-IDEM: calls that come twice."""

from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import MAIN
from anyscale_core.models.instance import Deletion


@check("X-IDEM-01", on=MAIN)
def same_token_same_spec(ctx: Context) -> None:
    """Creates twice with one token, at once and again by another process after it is ready, and counts what exists."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    first = it.create(spec, token=token)
    made = ctx.inventory(it.kind)
    expect_equal(len(made), 1, f"the number of {it.kind}s after the first create")
    again = it.create(spec, token=token)
    expect_equal(it.key(again), it.key(first), "the key that the second create with the same token returned")
    ctx.pass_time(ctx.kit.patience if ctx.kit.is_virtual else ctx.kit.patience * 0)
    ctx.restart()
    later = it.create(spec, token=token)
    expect_equal(it.key(later), it.key(first), "the key that a create by another process with the same token returned")
    found = ctx.inventory(it.kind)
    expect_equal(
        [item.key for item in found], [item.key for item in made], f"the {it.kind}s after three creates with one token"
    )


@check("X-IDEM-05", on=MAIN)
def deleting_twice_and_the_unknown(ctx: Context) -> None:
    """Deletes what never was, then one thing again and again until and after it is gone."""
    it = ctx.it
    with ctx.untouched(f"deleting an unknown {it.kind}"):
        expect_equal(it.delete(ctx.name()), Deletion.ALREADY_ABSENT, f"deleting an unknown {it.kind}")
    key = it.key(it.make())
    expect(it.delete(key) in (Deletion.GOING, Deletion.GONE), "the first delete said that the thing was absent already")
    it.delete(key)
    it.delete_for_good(key)
    ctx.eventually(lambda: not ctx.inventory(it.kind), f"the {it.kind} to be gone after its delete")
    expect_equal(it.delete(key), Deletion.ALREADY_ABSENT, f"deleting the {it.kind} once it is gone")
