"""Leaves nothing behind: deletes all of an owner's things through the drivers, and says what is there all the same."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed
from anyscale_conformance.kit import Item
from anyscale_core.errors import CloudError
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner

ROUNDS = 5


def sweep(ctx: Context, before: tuple[Item, ...]) -> tuple[Item, ...]:
    """Delete what the row's owners have, wait until it is gone, and return what exists that was not there ``before``.

    Errors of the drivers are not raised: a driver that cannot delete is seen by what is left.
    """
    ctx.plan.clear()
    ctx.restart()
    known = {item.key for item in before}

    def left() -> tuple[Item, ...]:
        return tuple(item for item in ctx.inventory() if item.key not in known | ctx.given)

    for _ in range(ROUNDS):
        if not left():
            return ()
        for owner in (attrs.evolve(ctx.owner, cluster=None), attrs.evolve(ctx.stranger, cluster=None)):
            for step in _steps(ctx, owner):
                _try(step)
        try:
            ctx.eventually(lambda: not left(), "nothing")
        except CheckFailed:
            continue
    return left()


def _steps(ctx: Context, owner: Owner) -> Iterator[Callable[[], object]]:
    """Yield one step after another: ways in and instances before the networks that they use, identities last."""
    slots = ctx.provider.slots()
    if "networking" in slots:
        yield lambda: _withdraw(ctx, owner)
    if "cluster" in slots:
        yield lambda: _delete_instances(ctx, owner)
    if "networking" in slots:
        yield lambda: _delete_named(ctx, "networking", owner)
    if "storage" in slots:
        yield lambda: _empty(ctx, owner)
        yield lambda: _delete_named(ctx, "storage", owner)
    if "identity" in slots:
        yield lambda: _delete_named(ctx, "identity", owner)


def _withdraw(ctx: Context, owner: Owner) -> None:
    going: set[str] = set()
    for network in ctx.networking.list(owner, deadline=ctx.deadline()):
        for endpoint in network.endpoints:
            name = endpoint.name
            if ctx.networking.withdraw(name, owner=owner, deadline=ctx.deadline()) is Deletion.GOING:
                going.add(name)
    ctx.eventually(lambda: not going & _endpoints(ctx, owner), "the endpoints to go")


def _endpoints(ctx: Context, owner: Owner) -> set[str]:
    networks = ctx.networking.list(owner, deadline=ctx.deadline())
    return {endpoint.name for network in networks for endpoint in network.endpoints}


def _delete_instances(ctx: Context, owner: Owner) -> None:
    ctx.pass_window("consistency.list")
    ids = [instance.id for instance in ctx.cluster.list(owner, deadline=ctx.deadline())]
    if ids:
        ctx.cluster.delete(ids, owner=owner, deadline=ctx.deadline())
        ctx.eventually(lambda: not ctx.inventory("instance", owner=owner), "the instances to go")
    for volume in ctx.inventory("volume", owner=owner):
        ctx.cluster.delete_volume(volume.name, owner=owner, deadline=ctx.deadline())


def _empty(ctx: Context, owner: Owner) -> None:
    for bucket in ctx.storage.list(owner, deadline=ctx.deadline()):
        if bucket.adopted:
            continue
        store = ctx.storage.objects(bucket.name, owner=owner)
        with contextlib.suppress(Exception):  # of a create that died there may be a record, and no bucket yet
            keys = [meta["path"] for page in store.list() for meta in page]
            if keys:
                store.delete(keys)


def _delete_named(ctx: Context, slot: str, owner: Owner) -> None:
    driver = ctx.driver(slot)
    for thing in driver.list(owner, deadline=ctx.deadline()):
        _try(partial(driver.delete, thing.name, owner=owner, deadline=ctx.deadline()))


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except (CloudError, CheckFailed):
        # What it did not delete is reported as left behind, which says more than the error.
        return
