"""X-PAGE: lists of any length."""

from collections.abc import Callable
from typing import Any

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect, Reach
from anyscale_conformance.rules import Uses, check
from anyscale_conformance.subjects import MAIN, Subject
from anyscale_core.errors import CloudError, PermissionDenied, Transient


@check("X-PAGE-01", on=MAIN)
def complete_at_every_size(ctx: Context) -> None:
    """Lists none, one, a page less one, a page, a page and one, and three pages, among as many of a stranger's."""
    it, page = ctx.it, _page(ctx)
    made: list[str] = []
    expect_equal(it.names(), (), f"the list of no {it.kind}s")
    for size in (1, page - 1, page, page + 1, 3 * page):
        while len(made) < size:
            made.append(it.make().name)
            it.make(owner=ctx.stranger)
        expect_equal(it.names(), tuple(sorted(made)), f"the list of {len(made)} {it.kind}s, with {page} on a page,")


@check("X-PAGE-02", on=MAIN)
def nothing_twice_nothing_missing(ctx: Context) -> None:
    """Counts what three pages and one list, and again after deletes at the borders of pages."""
    it = ctx.it
    things = _fill(ctx, it, 3 * _page(ctx) + 1)
    shown = [it.key(thing) for thing in it.listed()]
    twice = sorted({key for key in shown if shown.count(key) > 1})
    expect(not twice, f"{', '.join(twice)} are listed more than once")
    expect_equal(sorted(shown), sorted(it.key(thing) for thing in things), f"the keys in the list of {len(things)}")
    gone = {it.key(things[place]) for place in (0, _page(ctx) - 1, _page(ctx), len(things) - 1)}
    for key in sorted(gone):
        it.delete(key)
        names = {thing.name for thing in it.list()}
        missing = sorted({item.name for item in ctx.inventory(it.kind, owner=ctx.owner)} - names)
        expect(not missing, f"{', '.join(missing)} are going, still exist, and are not listed")
    for key in sorted(gone):
        it.delete_for_good(key)
    ctx.pass_window("consistency.delete")
    wanted = sorted(it.key(thing) for thing in things if it.key(thing) not in gone)
    expect_equal(sorted(it.key(thing) for thing in it.listed()), wanted, "the keys in the list after some were deleted")


@check("X-PAGE-03", on=MAIN, uses=(Effect.REFUSE,))
def an_error_on_any_page_is_raised(ctx: Context) -> None:
    """Fails each request of a list of three pages in turn, in two ways; no part of a list may come back."""
    it = ctx.it
    _fill(ctx, it, 3 * _page(ctx))
    ctx.pass_window("consistency.list")
    pages = ctx.count_reads(it.list)
    for page in range(1, pages + 1):
        for category in (Transient, PermissionDenied):
            ctx.inject(Effect.REFUSE, reach=Reach.READS, at=page, category=category)
            with expect_error(category, when=f"a list whose page {page} of {pages} failed"):
                it.list()


@check("X-PAGE-04", on=MAIN, uses=(Effect.REPEAT_PAGE, Effect.EXPIRE_PAGE))
def a_bad_page_token_ends_the_call(ctx: Context) -> None:
    """Lets each page name itself as the next, and lets each page token expire; the call must end, with an error."""
    it = ctx.it
    _fill(ctx, it, 3 * _page(ctx))
    ctx.pass_window("consistency.list")
    pages = ctx.count_reads(it.list)
    for page in range(1, pages):
        for effect in (Effect.REPEAT_PAGE, Effect.EXPIRE_PAGE):
            fault = ctx.inject(effect, reach=Reach.READS, at=page, count=None)
            before = len(ctx.plan.reads())
            _ends(ctx, it.list, f"a list whose page {page} met {effect.value}")
            made = len(ctx.plan.reads()) - before
            expect(made <= 3 * pages, f"a list of {pages} pages made {made} requests after {effect.value}")
            fault.lift()


@check("X-PAGE-05", on=MAIN, uses=(Uses.WIRE, Effect.DELAY))
def changes_between_pages_hide_nothing(ctx: Context) -> None:
    """Deletes what the page before has shown, and makes more, between two pages of a list; all others must be in it."""
    it, page = ctx.it, _page(ctx)
    things = _fill(ctx, it, 3 * page)
    ctx.pass_window("consistency.list")
    shown = [it.key(thing) for thing in it.list()]
    for place in range(page):
        victim = shown[place]
        rest = {it.key(thing) for thing in things} - {victim}

        def change(victim: str = victim) -> None:
            it.delete_and_wait(victim)

        with ctx.between(at=2, act=change):
            found = [it.key(thing) for thing in it.list()]
        missing = sorted(rest - set(found))
        expect(not missing, f"{', '.join(missing)} are missing from a list during which {victim} was deleted")
        expect(len(set(found)) == len(found), "a list during which something was deleted shows a thing twice")
        things = [thing for thing in things if it.key(thing) != victim]
        things.append(it.make())
        ctx.pass_window("consistency.list")
        shown = [it.key(thing) for thing in it.list()]


@check("X-PAGE-06", on=MAIN, uses=(Uses.WIRE,))
def a_list_costs_its_pages(ctx: Context) -> None:
    """Counts the requests of lists of one to three pages, among many things of a stranger's."""
    it, page = ctx.it, _page(ctx)
    made = 0
    for pages in (1, 2, 3):
        while made < pages * page:
            it.make()
            made += 1
        ctx.pass_window("consistency.list")
        calls = ctx.count_reads(it.list)
        lists = lists_of(ctx)
        expect(calls <= lists * pages + 1, f"{lists} lists of {pages} pages made {calls} requests")


@check("X-PAGE-07", on=MAIN, uses=(Effect.EMPTY_PAGE,))
def an_empty_page_is_not_the_end(ctx: Context) -> None:
    """Puts an empty page before each page of a list; all of it must come back all the same."""
    it = ctx.it
    things = _fill(ctx, it, 3 * _page(ctx))
    ctx.pass_window("consistency.list")
    pages = ctx.count_reads(it.list)
    for page in range(1, pages + 1):
        ctx.inject(Effect.EMPTY_PAGE, reach=Reach.READS, at=page)
        found = sorted(it.key(thing) for thing in it.list())
        wanted = sorted(it.key(thing) for thing in things)
        expect_equal(found, wanted, f"the list with an empty page before page {page}")


def lists_of(ctx: Context) -> int:
    """Return how many of the cloud's own lists one list of the driver reads, as declared; one unless it says more."""
    return ctx.provider.capabilities.numbers.get("list.lists", 1)


def _page(ctx: Context) -> int:
    """Return how many things a page has: as declared, but no more than the kit lets the suite make."""
    declared = ctx.provider.capabilities.numbers.get("list.page_size", ctx.kit.many)
    return max(2, min(declared, ctx.kit.many))


def _fill(ctx: Context, it: Subject, count: int) -> list[Any]:
    for _ in range(count // 2):
        it.make(owner=ctx.stranger)
    return [it.make() for _ in range(count)]


def _ends(ctx: Context, act: Callable[[], object], what: str) -> None:
    from anyscale_conformance.runner import HUNG, watched

    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(act())
        except CloudError as error:
            outcome.append(error)

    _, message = watched(work, limit_s=5.0)
    if message.startswith(HUNG):
        ctx.plan.die()
        raise CheckFailed(f"{what} did not end")
    if message:
        raise CheckFailed(f"{what}: {message}")
    expect(isinstance(outcome[0], CloudError), f"{what} returned as if it were complete")
