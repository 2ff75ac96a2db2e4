"""I-ROL: rights that are exactly what was granted, and identities that leave none behind."""

from functools import partial

from anyscale_conformance.checks.concurrency import at_once
from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.checks.rights import (
    NEEDS,
    READ,
    SLOTS,
    WRITE,
    bucket,
    expect_may,
    expect_rights,
    grant,
    held,
    identity,
    long_names,
    revoke_for_good,
    right,
)
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Hand, check
from anyscale_core.errors import CloudError, InvalidRequest, NotFound, Transient

WRITERS = 8
ODD_PREFIXES = ("st*r/", "who?/", "a-b/", "${id}/", "[ab]/")
"""What an identity policy or a pattern may read as more than these characters."""


@check("I-ROL-01", slots=SLOTS, needs=NEEDS)
def rights_are_exactly_the_grants(ctx: Context) -> None:
    """Grants and revokes in turn and compares the oracle's rights each time; a namesake of a deleted identity has none."""
    it, where = ctx.subject("identity"), bucket(ctx)
    spec = it.spec()
    who = it.create(spec).name
    expect_rights(ctx, who, set(), "when it is new,")
    for prefix, access in (("a/", READ), ("b/", WRITE), ("c/deep/", READ)):
        grant(ctx, where, prefix, who, access)
    b = right(where, "b/", WRITE)
    c = right(where, "c/deep/", READ)
    expect_rights(ctx, who, {right(where, "a/", READ), b, c}, "after three grants")
    revoke_for_good(ctx, where, "a/", who)
    expect_rights(ctx, who, {b, c}, "after one of three grants was revoked")
    grant(ctx, where, "c/deep/", who, WRITE)
    expect_rights(ctx, who, {b, right(where, "c/deep/", WRITE)}, "after a READ became a WRITE")
    it.delete_for_good(who)
    ctx.pass_window("consistency.delete")
    it.create(spec)
    expect_rights(ctx, who, set(), "made anew under the name of a deleted one,")


@check("I-ROL-02", slots=SLOTS, needs=NEEDS, uses=(Hand.MAY,))
def no_grant_gives_more(ctx: Context) -> None:
    """Tries what lies beside, above and below each grant, in other buckets and as other identities; odd prefixes as well."""
    where, other = bucket(ctx), bucket(ctx)
    reader, nobody = (ctx.subject("identity").make(name).name for name in long_names(ctx))
    writer = identity(ctx)
    when = "granting below a prefix that does not end in '/'"
    with ctx.untouched(when), expect_error(InvalidRequest, when=when):
        grant(ctx, where, "a", reader, READ)
    grant(ctx, where, "a/", reader, READ)
    grant(ctx, where, "a/b/", writer, WRITE)
    may, why = partial(expect_may, ctx), "READ on 'a/'"
    for key in ("a/k", "a/b/k"):
        may(reader, where, key, READ, True, why)
        may(reader, where, key, WRITE, False, why)
    for key in ("k", "ab/k", "b/a/k", "A/k", "a"):
        may(reader, where, key, READ, False, why)
    for access in (READ, WRITE):
        may(writer, where, "a/b/k", access, True, "WRITE on 'a/b/'")
        for key in ("a/k", "a/bc/k", "k"):
            may(writer, where, key, access, False, "WRITE on 'a/b/'")
        may(writer, other, "a/b/k", access, False, "WRITE on 'a/b/' of another bucket")
        may(nobody, where, "a/b/k", access, False, "no grant, and a name that differs at its end,")
    _odd_prefixes(ctx, where, nobody)


def _odd_prefixes(ctx: Context, where: str, who: str) -> None:
    for prefix in ODD_PREFIXES:
        try:
            grant(ctx, where, prefix, who, READ)
        except InvalidRequest:
            continue
        why = f"READ on {prefix!r}"
        expect_may(ctx, who, where, f"{prefix}k", READ, True, why)
        for key in ("star/k", "stxxr/k", "whom/k", "a/k", "b/k", "acb/k", f"{who}/k", "k"):
            expect_may(ctx, who, where, key, READ, False, why)
        revoke_for_good(ctx, where, prefix, who)


@check("I-ROL-03", slots=SLOTS, needs=NEEDS, uses=(Effect.LOSE_AFTER,))
def what_exists_already_is_a_success(ctx: Context) -> None:
    """Loses the answer of each write of a create and of a grant, and repeats; grants what is granted, as another process too."""
    where, it = bucket(ctx), ctx.subject("identity")
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        ctx.inject(Effect.LOSE_AFTER, at=position)
        made = repeat(partial(it.create, spec, token=token))
        expect_equal(made, it.get(it.key(made)), "the identity that the repeat returned")
        expect(made in it.listed(), "the list shows an identity otherwise than the repeat returned it, or not at all")
    who = identity(ctx)
    writes = ctx.count_writes(partial(grant, ctx, where, "first/", who, READ))
    for position in range(1, writes + 1):
        token, prefix = ctx.token(), f"lost{position}/"
        fault = ctx.inject(Effect.LOSE_AFTER, at=position, may_miss=position > 1)
        repeat(partial(grant, ctx, where, prefix, who, WRITE, token=token))
        fault.lift()
        expect(right(where, prefix, WRITE) in held(ctx, who), f"a grant whose answer {position} was lost is not there")
    before = held(ctx, who)
    for _ in range(2):
        try:
            again = grant(ctx, where, "first/", who, READ)
        except CloudError as error:
            raise CheckFailed(f"granting what is granted already raised {error}") from error
        expect_equal((again.bucket, again.prefix, again.identity), (where, "first/", who), "the grant said again")
        ctx.restart()
    expect_rights(ctx, who, before, "after grants that were there already")


@check("I-ROL-04", slots=SLOTS, needs=NEEDS)
def a_new_identity_is_usable_or_says_when(ctx: Context) -> None:
    """Grants to identities the moment they exist, from other processes: it works, or is Transient(PROPAGATION) for a while."""
    where = bucket(ctx)
    for number in range(3):
        who = identity(ctx)
        ctx.restart()
        ctx.eventually(partial(_granted, ctx, where, f"p{number}/", who), "a new identity to be visible")
        expect_rights(ctx, who, {right(where, f"p{number}/", READ)}, "granted to as soon as it was visible,")


def _granted(ctx: Context, where: str, prefix: str, who: str) -> bool:
    try:
        grant(ctx, where, prefix, who, READ)
    except Transient as error:
        expect_equal(error.reason, "PROPAGATION", "the reason of Transient for an identity that was just made")
        return False
    except NotFound as error:
        raise CheckFailed(f"an identity that was just made is told as absent: {error}") from error
    return True


@check("I-ROL-05", slots=SLOTS, needs=NEEDS, uses=(Effect.CRASH_AFTER,))
def a_deleted_identity_leaves_no_grant(ctx: Context) -> None:
    """Deletes identities with grants, dying after each write: never a grant without its identity; others keep theirs."""
    it, where, other = ctx.subject("identity"), bucket(ctx), identity(ctx)
    grant(ctx, where, "a/", other, WRITE)

    def one_with_grants() -> str:
        who = identity(ctx)
        for prefix in ("a/", "b/"):
            grant(ctx, where, prefix, who, WRITE)
        return who

    first = one_with_grants()
    writes = ctx.count_writes(lambda: it.delete_for_good(first))
    ctx.eventually(partial(_has_nothing, ctx, first), "the grants of a deleted identity to go")
    for position in range(1, writes + 1):
        who = one_with_grants()
        fault = ctx.inject(Effect.CRASH_AFTER, at=position, may_miss=position > 1)
        ctx.crash(partial(it.delete, who))
        fault.lift()
        exists = any(item.name == who for item in ctx.inventory(it.kind))
        rights = held(ctx, who)
        expect(
            exists or not rights,
            f"a delete that died after write {position} left {sorted(rights)} to an identity that is gone",
        )
        it.delete_for_good(who)
        ctx.eventually(partial(_has_nothing, ctx, who), "the grants of a deleted identity to go")
    expect_rights(ctx, other, {right(where, "a/", WRITE)}, "after others were deleted")


def _has_nothing(ctx: Context, who: str) -> bool:
    return not held(ctx, who)


@check("I-ROL-06", slots=SLOTS, needs=NEEDS, uses=(Hand.SHARE,))
def others_stay_in_a_shared_policy(ctx: Context) -> None:
    """Lets somebody else into the bucket, then grants, revokes and deletes, also many at once: nobody else is thrown out."""
    where, ours = bucket(ctx), identity(ctx)
    grant(ctx, where, "a/", ours, READ)
    for prefix in ("a/", "z/"):
        ctx.hand(Hand.SHARE)(where, prefix)
    made = {ours}

    def theirs() -> set[tuple[str, str]]:
        return {(item.id, item.name) for item in ctx.inventory("grant") if item.id not in made}

    before = theirs()
    expect_equal(len(before), 2, "the number of grants of somebody else that the oracle sees")
    grant(ctx, where, "a/", ours, WRITE)
    expect_equal(theirs(), before, "what somebody else has after our grant")
    revoke_for_good(ctx, where, "a/", ours)
    expect_equal(theirs(), before, "what somebody else has after we revoked ours")
    made.update(_all_at_once(ctx, where))
    expect_equal(theirs(), before, "what somebody else has after many grants at once")
    for who in sorted(made):
        ctx.subject("identity").delete_for_good(who)
    expect_equal(theirs(), before, "what somebody else has after our identities were deleted")


def _all_at_once(ctx: Context, where: str) -> list[str]:
    """Grant to many identities at once and return them; each must have its own grant in the end."""
    people = [identity(ctx) for _ in range(WRITERS)]
    tokens = [ctx.token() for _ in people]
    acts = [
        partial(grant, ctx, where, f"w{number}/", who, WRITE, token=tokens[number]) for number, who in enumerate(people)
    ]
    errors = [outcome for outcome in at_once([partial(repeat, act) for act in acts]) if isinstance(outcome, CloudError)]
    expect(not errors, f"{len(errors)} of {WRITERS} grants at once failed: {errors[:1]}")
    for number, who in enumerate(people):
        expect_rights(ctx, who, {right(where, f"w{number}/", WRITE)}, f"after {WRITERS} grants at once")
    return people
