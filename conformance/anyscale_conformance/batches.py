"""Batches of instances, as checks of the cluster driver make and judge them."""

from collections.abc import Sequence

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect_equal
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, Instance, InstanceSpec, NotCreated, Outcome

MOST = 7
"""The most instances that a check makes at once: machines of this world are real ones for some providers."""


def specs(ctx: Context, count: int) -> tuple[InstanceSpec, ...]:
    """Return so many smallest valid specs, each under a name of its own."""
    it = ctx.subject("cluster")
    return tuple(it.spec() for _ in range(count))


def a_few_pages(ctx: Context) -> int:
    """Return a number of instances that takes more than two pages to list, where pages are small enough for that."""
    return min(2 * ctx.provider.capabilities.numbers.get("list.page_size", MOST) + 1, MOST)


def ask(ctx: Context, wanted: Sequence[InstanceSpec], *, token: Token | None = None) -> tuple[Outcome, ...]:
    """Create a batch and return its outcomes, which must be one per spec and in the specs' order."""
    outcomes = ctx.cluster.create(tuple(wanted), token=token or ctx.token(), deadline=ctx.deadline())
    expect_equal(
        [outcome.instance.name if isinstance(outcome, Created) else outcome.name for outcome in outcomes],
        [spec.name for spec in wanted],
        "the names in the outcomes of a batch",
    )
    return tuple(outcomes)


def made(outcomes: Sequence[Outcome]) -> tuple[Instance, ...]:
    """Return the instances of the items that were made."""
    return tuple(outcome.instance for outcome in outcomes if isinstance(outcome, Created))


def refused(outcomes: Sequence[Outcome]) -> tuple[NotCreated, ...]:
    """Return the items that were not made."""
    return tuple(outcome for outcome in outcomes if isinstance(outcome, NotCreated))


def make(ctx: Context, wanted: Sequence[InstanceSpec], *, token: Token | None = None) -> tuple[Instance, ...]:
    """Create a batch that must be met as a whole."""
    outcomes = ask(ctx, wanted, token=token)
    for outcome in refused(outcomes):
        raise CheckFailed(f"{outcome.name} of a valid batch was not made: {outcome.error}") from outcome.error
    return made(outcomes)


def there(ctx: Context) -> tuple[str, ...]:
    """Return the names of the instances that exist, of every owner, as the oracle sees them."""
    return tuple(sorted(item.name for item in ctx.inventory("instance")))


def names(things: Sequence[InstanceSpec] | Sequence[Instance]) -> tuple[str, ...]:
    """Return the names of specs or instances, in order."""
    return tuple(sorted(thing.name for thing in things))
