"""X-LEAK: nothing is left behind, and what is can be found."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.kit import Item
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import ALL, LASTING, MAIN, Subject
from anyscale_core.errors import (
    CapacityUnavailable,
    CloudError,
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    Transient,
)
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner

FAILURES = (PermissionDenied, QuotaExceeded, CapacityUnavailable, InvalidRequest, Transient)


@check("X-LEAK-01", on=ALL)
def nothing_is_left_after_a_delete(ctx: Context) -> None:
    """Makes two things, deletes one and then the other; the oracle must see, in every kind, what it saw before."""
    it = ctx.it
    it.delete_and_wait(it.key(it.make()))
    before = ctx.inventory()
    first = it.make()
    between = _stable(ctx)
    second = it.make()
    it.delete_and_wait(it.key(second))
    ctx.expect_inventory_of(between, f"making and deleting a {it.name} beside another")
    it.delete_and_wait(it.key(first))
    ctx.expect_inventory_of(_keys(before), f"making and deleting a {it.name}")


@check("X-LEAK-02", on=ALL, uses=(Effect.REFUSE,))
def nothing_is_left_after_a_failure(ctx: Context) -> None:
    """Lets each write of a create fail for good, in five ways; what is left must be nothing, or in the owner's list."""
    it = ctx.it
    for position in ctx.positions(it):
        for category in (each for each in FAILURES if ctx.answers(each)):
            spec = it.spec()
            before = {item.key for item in ctx.inventory()}
            fault = ctx.inject(Effect.REFUSE, at=position, count=None, category=category)
            _fails(
                partial(it.create, spec), f"write {position} failed with {category.category} and create did not raise"
            )
            fault.lift()
            left = [item for item in ctx.inventory() if item.key not in before]
            findable = _listed_names(ctx)
            lost = [str(item) for item in left if item.name not in findable]
            expect(not lost, f"a create that failed at write {position} left {', '.join(lost)}, which no list shows")


@check("X-LEAK-03", on=LASTING, uses=(Effect.CRASH_AFTER,))
def what_is_left_can_be_named(ctx: Context) -> None:
    """Dies after each write of a create and never repeats it; the owner's list must show all of it, by name and id."""
    it = ctx.it
    for position in ctx.positions(it):
        spec = it.spec()
        before = {item.key for item in ctx.inventory(it.kind)}
        ctx.inject(Effect.CRASH_AFTER, at=position)
        ctx.crash(partial(it.create, spec))
        left = [item for item in ctx.inventory(it.kind) if item.key not in before]
        shown = {thing.name: thing for thing in it.listed()}
        for item in left:
            expect(
                item.name in shown,
                f"{item} was left by a crash after write {position}, and the owner's list has it not",
            )
            thing = shown[item.name]
            if it.slot == "cluster":
                expect(thing.created_at is not None, f"the list does not say since when {item} has been there")
                expect(thing.node_id, f"the list does not say which node {item} was made for")


@check("X-LEAK-04", on=ALL, uses=(Effect.CRASH_BEFORE, Effect.CRASH_AFTER, Effect.LOSE_AFTER))
def a_delete_cut_short_is_finished(ctx: Context) -> None:
    """Cuts a delete short before and after each of its writes, and repeats it; nothing of the thing may be left."""
    it = ctx.it
    spec = it.spec()
    before = _stable(ctx)
    key = it.key(it.create(spec))
    writes = ctx.count_writes(lambda: it.delete(key))
    it.delete_and_wait(key)
    for position in range(1, writes + 1):
        for effect in (Effect.CRASH_BEFORE, Effect.CRASH_AFTER, Effect.LOSE_AFTER):
            key = it.key(it.make())
            ctx.inject(effect, at=position)
            _cut(ctx, partial(it.delete, key))
            repeat(partial(it.delete, key))
            it.delete_and_wait(key)
            ctx.expect_inventory_of(before, f"a delete with {effect.value} at write {position}, and its repeat,")


@check("X-LEAK-05", on=LASTING)
def a_sweep_takes_the_owners_and_nothing_else(ctx: Context) -> None:
    """Plants things of a stranger and of another cluster, deletes all that our list shows, and compares."""
    it = ctx.it
    others = (ctx.stranger, attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b")))
    for owner in others:
        it.make(owner=owner)
    planted = {owner: ctx.inventory(it.kind, owner=owner) for owner in others}
    for _ in range(2):
        it.make()
    for thing in it.listed():
        ctx.subject("cluster" if it.slot == "cluster" else it.name).delete(_key(it, thing))
    ctx.eventually(lambda: not ctx.inventory(it.kind, owner=ctx.owner), f"our {it.kind}s to be swept")
    for owner, items in planted.items():
        found = [item.key for item in ctx.inventory(it.kind, owner=owner)]
        expect_equal(found, [item.key for item in items], f"what another owner has after a sweep of our {it.kind}s")


@check("X-LEAK-06", on=MAIN)
def a_sweep_without_an_owner_is_refused(ctx: Context) -> None:
    """Lists and deletes with an owner that is empty; nothing may be shown, and nothing may happen."""
    it = ctx.it
    key = it.key(it.make())
    ctx.pass_window("consistency.list")
    nobody = Owner(plane=PlaneId(""), cloud=CloudName(""))
    with ctx.untouched("a sweep with an empty owner"):
        try:
            expect_equal(it.list(owner=nobody), (), "the list of an empty owner")
            expect_equal(it.delete(key, owner=nobody), Deletion.ALREADY_ABSENT, "a delete with an empty owner")
        except InvalidRequest:
            return


Key = tuple[str, str, str]


def _stable(ctx: Context) -> frozenset[Key]:
    return _keys(ctx.inventory())


def _keys(items: tuple[Item, ...]) -> frozenset[Key]:
    return frozenset(item.key for item in items)


def _key(it: Subject, thing: Any) -> str:
    return str(thing.id if it.slot == "cluster" else thing.name)


def _cut(ctx: Context, act: Callable[[], object]) -> None:
    try:
        ctx.crash(act)
    except CloudError:
        return


def _fails(act: Callable[[], object], message: str) -> None:
    try:
        act()
    except CloudError:
        return
    expect(False, message)


def _listed_names(ctx: Context) -> set[str]:
    """Return the names of everything that the owner's lists show, in all slots."""
    ctx.pass_window("consistency.list")
    names: set[str] = set()
    for slot in ctx.provider.slots():
        things = ctx.driver(slot).list(ctx.owner, deadline=ctx.deadline())
        names |= {thing.name for thing in things} | {
            way.name for thing in things for way in getattr(thing, "endpoints", ())
        }
    return names
