"""C-SCA, C-DEL, C-QUI: many instances at once, their deletes, and rest."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from anyscale_conformance.batches import a_few_pages, ask, made, make, names, refused, specs, there
from anyscale_conformance.checks.cluster import until_running
from anyscale_conformance.checks.paging import lists_of
from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error, expect_one
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Hand, Uses, check
from anyscale_core.errors import Conflict
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import Deletion, InstanceState, NotCreated, Outcome
from anyscale_core.models.owner import Owner

HOUR = timedelta(hours=1)
LOOKS = 60
"""How often the core looks in an hour of rest."""


@check("C-SCA-01", slots=("cluster",), needs=("cluster.batch",))
def a_batch_is_absolute(ctx: Context) -> None:
    """Repeats a batch at once, by another process, with one item more and less, and after one of it was deleted."""
    it, token = ctx.subject("cluster"), ctx.token()
    wanted = specs(ctx, 4)
    first = make(ctx, wanted, token=token)
    expect_equal(there(ctx), names(wanted), "the names of what exists after a batch")
    for restart in (False, True):
        if restart:
            ctx.restart()
        again = make(ctx, wanted, token=token)
        expect_equal([i.id for i in again], [i.id for i in first], "the ids that a repeated batch returned")
    for other in ((*wanted, *specs(ctx, 1)), wanted[:-1], wanted[:1]):
        when = f"repeating a batch of 4 as one of {len(other)} with its token"
        with ctx.untouched(when), expect_error(Conflict, reason="TOKEN_MISMATCH", when=when):
            _raise_any(ask(ctx, other, token=token))
    expect_equal(there(ctx), names(wanted), "the names of what exists after the repeats of a batch")
    it.delete_for_good(first[1].id)
    _expect_not_revived(ctx, [i.id for i in first], partial(ask, ctx, wanted, token=token))


@check("C-SCA-02", slots=("cluster",), needs=("cluster.batch",))
def from_none_to_some_and_back(ctx: Context) -> None:
    """Goes up by a batch over several pages and back to none, twice, under the same names; nothing is left or missing."""
    it = ctx.subject("cluster")
    before = frozenset(item.key for item in ctx.inventory())
    wanted = specs(ctx, a_few_pages(ctx))
    for _ in range(2):
        make(ctx, wanted)
        expect_equal(it.names(), names(wanted), "the names in the list after going up")
        expect_equal(there(ctx), names(wanted), "the names of what exists after going up")
        _delete_all(ctx, [instance.id for instance in it.listed()])
        ctx.expect_inventory_of(before, "going up and back to none")
        expect_equal(it.listed(), (), "the list after going back to none")


@check("C-SCA-03", slots=("cluster",), needs=("cluster.batch",), uses=(Hand.LIMIT,))
def what_was_not_made_is_told(ctx: Context) -> None:
    """Lets the account have room for a part of a batch, tells what came, then makes room and repeats with the token."""
    it, token = ctx.subject("cluster"), ctx.token()
    it.make()
    ctx.hand(Hand.LIMIT)(3)
    ctx.restart()
    wanted = specs(ctx, 4)
    outcomes = ask(ctx, wanted, token=token)
    some = made(outcomes)
    expect_equal(len(some), 2, "the number of instances that a batch of 4 made where there was room for 2 more")
    for outcome in refused(outcomes):
        expect_equal(
            type(outcome.error).__name__, "QuotaExceeded", f"why {outcome.name} was not made, which had no room,"
        )
    exist = {name for name in there(ctx) if name in {spec.name for spec in wanted}}
    expect_equal(
        exist, {instance.name for instance in some}, "the names of what exists of a batch that was met in part"
    )
    for instance in some:
        expect_equal(it.get(instance.id).name, instance.name, "the name of what a batch that was met in part made")
    ctx.hand(Hand.LIMIT)(10)
    ctx.restart()
    rest = make(ctx, wanted, token=token)
    kept = {instance.id for instance in rest} >= {instance.id for instance in some}
    expect(kept, "the repeat of a batch that was met in part replaced what the first call had made")
    expect_equal(len(there(ctx)), 5, "the number of instances after there was room and the batch was repeated")


@check("C-SCA-04", slots=("cluster",), needs=("cluster.batch",), uses=(Effect.CRASH_AFTER,))
def never_more_than_wanted(ctx: Context) -> None:
    """Dies after each write of a batch to count what exists at that moment, and repeats; never more than was wanted."""
    size = 3
    writes = ctx.count_writes(lambda: make(ctx, specs(ctx, size)))
    expect(writes > 0, "a batch passed no write where faults strike")
    for position in range(1, writes + 1):
        before, token, wanted = set(there(ctx)), ctx.token(), specs(ctx, size)
        fault = ctx.inject(Effect.CRASH_AFTER, "*", at=position, may_miss=position > 1)
        ctx.crash(partial(ask, ctx, wanted, token=token))
        fault.lift()
        for when in (f"just after write {position} of a batch", "after its repeat", "after one more repeat"):
            new = [name for name in there(ctx) if name not in before]
            expect(len(new) <= size, f"there were {len(new)} instances for {size} specs {when}: {', '.join(new)}")
            strangers = set(new) - {spec.name for spec in wanted}
            expect(not strangers, f"there were instances that no spec names {when}: {', '.join(sorted(strangers))}")
            repeat(partial(make, ctx, wanted, token=token))
        expect_equal(
            len(set(there(ctx)) - before), size, f"the instances after a crash at write {position} and repeats"
        )


@check("C-SCA-05", slots=("cluster",))
def delete_takes_what_it_is_given(ctx: Context) -> None:
    """Deletes two of five, beside unknown ids, a stranger's, one named twice, and none at all; the others stay."""
    it = ctx.subject("cluster")
    ours = (
        make(ctx, specs(ctx, 5))
        if ctx.provider.capabilities.has("cluster.batch")
        else tuple(it.make() for _ in "12345")
    )
    theirs = it.make(owner=ctx.stranger)
    kept = [ours[place].name for place in (0, 2, 4)]
    unknown = InstanceId(f"{ours[0].id}x")
    with ctx.untouched("deleting no ids"):
        expect_equal(_delete(ctx, []), {}, "the answer to a delete of no ids")
    answer = _delete(ctx, [ours[3].id, unknown, ours[1].id, theirs.id, ours[3].id])
    expect_equal(set(answer), {ours[3].id, ours[1].id, unknown, theirs.id}, "the ids that a delete answered for")
    for absent in (unknown, theirs.id):
        expect_equal(answer[absent], Deletion.ALREADY_ABSENT, f"the answer for {absent}, unknown or a stranger's,")
    for id in (ours[3].id, ours[1].id):
        expect(answer[id] is not Deletion.ALREADY_ABSENT, "an instance was told as absent by the delete that took it")
    ctx.eventually(lambda: len(there(ctx)) <= 4, "the two that were deleted to be gone")
    expect_equal(there(ctx), tuple(sorted([*kept, theirs.name])), "the names of what exists after two were deleted")
    states = {it.get(instance.id).state for instance in (ours[0], ours[2], ours[4])}
    expect(InstanceState.DELETING not in states, "an instance that nobody named is being deleted")


@check("C-DEL-01", slots=("cluster",))
def deleting_twice_is_deleting_once(ctx: Context) -> None:
    """Deletes again at once, while it goes, by another process and when it is gone; beside an instance that stays."""
    it = ctx.subject("cluster")
    stays, goes = it.make(), it.make()
    first = it.delete(goes.id)
    expect(first is not Deletion.ALREADY_ABSENT, "the first delete said that the instance was absent already")
    for _ in range(3):
        if it.delete(goes.id) is not Deletion.GOING:
            left = [item.name for item in ctx.inventory("instance")]
            expect_equal(left, [stays.name], "what exists when a repeated delete says that it is done")
        ctx.restart()
    ctx.eventually(lambda: len(there(ctx)) == 1, "the deleted instance to be gone")
    for _ in range(3):
        expect_equal(it.delete(goes.id), Deletion.ALREADY_ABSENT, "deleting an instance that is gone")
    expect_equal(there(ctx), (stays.name,), "the names of what exists after one of two was deleted many times")


@check("C-DEL-02", slots=("cluster",))
def delete_returns_at_once(ctx: Context) -> None:
    """Deletes running instances; the cloud's clock may not move meanwhile, and GONE has to be the oracle's word too."""
    it = ctx.subject("cluster")
    before = frozenset(item.key for item in ctx.inventory())
    for instance in [it.make() for _ in range(3)]:
        until_running(ctx, instance)
        began = ctx.clock.now()
        answer = it.delete(instance.id)
        took = ctx.clock.now() - began
        limit = timedelta() if ctx.kit.is_virtual else ctx.kit.patience / 2
        expect(took <= limit, f"delete returned after {took}: it waited, and waiting is the core's work")
        left = [str(item) for item in ctx.inventory("instance") if item.name == instance.name]
        expect(answer is Deletion.GOING or not left, f"delete said {answer.name} while {', '.join(left)} still exists")
        if answer is Deletion.GOING:
            ctx.eventually(partial(it.is_gone, instance.id), "an instance to be gone after its delete")
    ctx.expect_inventory_of(before, "making and deleting three instances")


@check("C-DEL-03", slots=("cluster",), uses=(Hand.PROTECT, Hand.RELEASE))
def the_protected_stays_whole(ctx: Context) -> None:
    """Protects an instance behind the driver's back; deleting it raises Conflict(IN_USE) and leaves it as it was."""
    it = ctx.subject("cluster")
    instance, other = until_running(ctx, it.make()), it.make()
    ctx.hand(Hand.PROTECT)(instance.name)
    try:
        for ids in ([instance.id], [other.id, instance.id]):
            with expect_error(Conflict, reason="IN_USE", when="deleting a protected instance"):
                _delete(ctx, ids)
            item = [item for item in ctx.inventory("instance") if item.name == instance.name]
            expect_equal(expect_one(item, "instances of the protected one's name").state, "running", "its true state")
            expect_equal(it.get(instance.id).state, InstanceState.RUNNING, "the state of a protected instance")
    finally:
        ctx.hand(Hand.RELEASE)(instance.name)
    _delete_all(ctx, [instance.id])


@check("C-QUI-01", slots=("cluster",), uses=(Uses.JOURNAL, Uses.CLOCK))
def rest_is_cheap(ctx: Context) -> None:
    """Looks once a minute for an hour at instances that run; nothing is written, and each look costs as much as the first."""
    it = ctx.subject("cluster")
    wanted = [it.make() for _ in range(a_few_pages(ctx))]
    for instance in wanted:
        until_running(ctx, instance)
    ctx.pass_window("consistency.list")
    size = ctx.provider.capabilities.numbers.get("list.page_size", len(wanted))
    bound = -(-len(wanted) // size) * lists_of(ctx) + 1
    before, written = ctx.inventory(), len(ctx.plan.writes())
    for look in range(LOOKS):
        reads = ctx.count_reads(lambda: it.list())
        expect(
            0 < reads <= bound,
            f"look {look + 1} at {len(wanted)} instances at rest cost {reads} reads, not at most {bound}",
        )
        ctx.pass_time(HOUR / LOOKS)
    new = [request.action for request in ctx.plan.writes()[written:]]
    expect(not new, f"an hour of looking wrote to the cloud {len(new)} times: {', '.join(sorted(set(new)))}")
    expect_equal(ctx.inventory(), before, "what exists after an hour of looking")


def _delete(ctx: Context, ids: list[InstanceId], owner: Owner | None = None) -> Mapping[InstanceId, Deletion]:
    return dict(ctx.cluster.delete(ids, owner=owner or ctx.owner, deadline=ctx.deadline()))


def _delete_all(ctx: Context, ids: list[InstanceId]) -> None:
    """Delete all these in one call and wait until they are gone."""
    answer = _delete(ctx, ids)
    expect_equal(set(answer), set(ids), "the ids that a delete answered for")
    absent = sorted(id for id, deletion in answer.items() if deletion is Deletion.ALREADY_ABSENT)
    expect(not absent, f"a delete of what is there said that it is absent: {', '.join(absent)}")
    it = ctx.subject("cluster")
    for id in ids:
        ctx.eventually(partial(it.is_gone, id), f"{id} to be gone after its delete")


def _raise_any(outcomes: tuple[Outcome, ...]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, NotCreated):
            raise outcome.error
    raise CheckFailed(f"another batch with a spent token was met: {len(outcomes)} items")


def _expect_not_revived(ctx: Context, ids: list[InstanceId], again: Callable[[], tuple[Outcome, ...]]) -> None:
    """Repeat a batch whose second item was deleted: it is refused as spent or made anew, and the others are what they were."""
    exist = list(there(ctx))
    try:
        outcomes = again()
    except Conflict as error:
        expect_equal(
            error.reason, "TOKEN_SPENT", "why the repeat of a batch, one item of which was deleted, was refused"
        )
        outcomes = ()
    for place, outcome in enumerate(outcomes):
        if not isinstance(outcome, NotCreated):
            instance = made([outcome])[0]
            if place == 1:
                expect(
                    instance.id not in ids, "the repeat of a batch returned the instance of it that had been deleted"
                )
                exist.append(instance.name)
                continue
            expect_equal(instance.id, ids[place], f"the id of item {place} after item 1 was deleted")
            continue
        expect_equal(place, 1, "the item that a repeat did not return after item 1 was deleted")
        expect_equal(outcome.error.reason, "TOKEN_SPENT", "why the deleted item was not returned")
    expect_equal(
        sorted(there(ctx)),
        sorted(exist),
        "the names of what exists after the repeat of a batch, one of which was deleted",
    )
