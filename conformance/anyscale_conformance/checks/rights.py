"""Who may do what in a bucket: helpers of the checks of identities and grants."""

from typing import TYPE_CHECKING

from anyscale_conformance.expect import CheckFailed
from anyscale_conformance.rules import Hand
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import Grant

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

NEEDS = ("identity.create", "storage.grants")
SLOTS = ("identity", "storage")
READ, WRITE = Access.READ, Access.WRITE
NAME_MAX = 63
"""The greatest length of a name that the core makes."""
Right = tuple[str, str]
"""``bucket/prefix`` and ``read`` or ``write``."""


def long_names(ctx: "Context") -> tuple[str, str]:
    """Return two names of the greatest length that differ at their ends alone."""
    name = ctx.name(min(ctx.provider.capabilities.numbers.get("name.max_len", NAME_MAX), NAME_MAX))
    return f"{name[:-1]}1", f"{name[:-1]}2"


def bucket(ctx: "Context", *, owner: Owner | None = None) -> str:
    """Make a bucket and return its name."""
    return str(ctx.subject("storage").make(owner=owner).name)


def identity(ctx: "Context", *, owner: Owner | None = None) -> str:
    """Make an identity and return its name; where none can be made, the one that the kit names."""
    if not ctx.has_slot("identity") or not ctx.provider.capabilities.has("identity.create"):
        return ctx.samples.identity_name
    return str(ctx.subject("identity").make(owner=owner).name)


def grant(ctx: "Context", bucket: str, prefix: str, who: str, access: Access, *, token: Token | None = None) -> Grant:
    """Grant, with a new token unless one is given."""
    return ctx.storage.grant(
        bucket, prefix, identity=who, access=access, owner=ctx.owner, token=token or ctx.token(),
        deadline=ctx.deadline(),
    )  # fmt: skip


def revoke(ctx: "Context", bucket: str, prefix: str, who: str) -> Deletion:
    """Revoke."""
    return ctx.storage.revoke(bucket, prefix, identity=who, owner=ctx.owner, deadline=ctx.deadline())


def revoke_for_good(ctx: "Context", bucket: str, prefix: str, who: str) -> Deletion:
    """Revoke and wait until a repeat says that nothing is left to take; return the first answer."""
    answer = revoke(ctx, bucket, prefix, who)
    if answer is Deletion.GOING:
        ctx.eventually(lambda: revoke(ctx, bucket, prefix, who) is not Deletion.GOING, "the grant to go")
    return answer


def held(ctx: "Context", who: str) -> set[Right]:
    """Return the rights of an identity, as the oracle sees them; a WRITE says all of a READ beside it."""
    found = {(item.name, item.state) for item in ctx.inventory("grant") if item.id == who}
    return {right for right in found if right[1] == WRITE.value or (right[0], WRITE.value) not in found}


def right(bucket: str, prefix: str, access: Access) -> Right:
    """Return a right as ``held`` shows it."""
    return (f"{bucket}/{prefix}", access.value)


def expect_rights(ctx: "Context", who: str, wanted: set[Right], when: str) -> None:
    """Fail the check unless the identity has exactly these rights."""
    found = held(ctx, who)
    more, less = sorted(found - wanted), sorted(wanted - found)
    parts = [f"has {access} on {place} unasked" for place, access in more]
    parts += [f"has not {access} on {place}" for place, access in less]
    if parts:
        raise CheckFailed(f"{when} the identity {' and '.join(parts)}")


def expect_may(ctx: "Context", who: str, bucket: str, key: str, access: Access, wanted: bool, why: str) -> None:
    """Fail the check unless the cloud lets the identity (or does not). ``why``: the grants that there are, in words."""
    if bool(ctx.hand(Hand.MAY)(who, bucket, key, access)) is wanted:
        return
    verdict = "may not" if wanted else "may"
    raise CheckFailed(f"an identity with {why} {verdict} {access.value} {key!r}")
