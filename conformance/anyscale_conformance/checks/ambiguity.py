"""X-AMB: the cloud acted and the answer was lost, at every write of a call."""

from functools import partial

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal
from anyscale_conformance.faults.plan import AMBIGUOUS, Effect
from anyscale_conformance.kit import Item
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import ALL, Subject
from anyscale_core.errors import Applied, CloudError, Retry
from anyscale_core.models.instance import Deletion


@check("X-AMB-01", on=ALL, uses=(Effect.LOSE_AFTER,))
def timeout_after_the_act(ctx: Context) -> None:
    """Counts the writes of an undisturbed create, then loses the answer of each in turn and repeats with the token.

    Then the same with a delete.
    """
    disturb_each_write(ctx, Effect.LOSE_AFTER)


@check("X-AMB-02", on=ALL, uses=(Effect.RESET_AFTER,))
def connection_breaks_after_the_act(ctx: Context) -> None:
    """As X-AMB-01, with a connection that breaks."""
    disturb_each_write(ctx, Effect.RESET_AFTER)


@check("X-AMB-03", on=ALL, uses=(Effect.FAIL_AFTER,))
def server_error_after_the_act(ctx: Context) -> None:
    """As X-AMB-01, with a server error in place of the answer."""
    disturb_each_write(ctx, Effect.FAIL_AFTER)


@check("X-AMB-04", on=ALL, uses=(Effect.CRASH_BEFORE, Effect.CRASH_AFTER))
def crash_at_each_write(ctx: Context) -> None:
    """Dies before and after each write of a create and of a delete; another process repeats the call with its token."""
    it = ctx.it
    for position in ctx.positions(it):
        for effect in (Effect.CRASH_BEFORE, Effect.CRASH_AFTER):
            spec, token = it.spec(), ctx.token()
            before = len(ctx.inventory(it.kind))
            ctx.inject(effect, at=position)
            expect(
                ctx.crash(partial(it.create, spec, token=token)), f"the crash at write {position} did not end the call"
            )
            key = it.key(repeat(partial(it.create, spec, token=token)))
            made = len(ctx.inventory(it.kind)) - before
            expect_equal(
                made, it.size, f"the number of {it.kind}s made by a {effect.value} at write {position} and a repeat"
            )
            _delete_crashing(ctx, it, key, effect)


@check("X-AMB-05", on=ALL, uses=AMBIGUOUS)
def the_end_is_as_without_the_fault(ctx: Context) -> None:
    """Compares what exists after a disturbed create and its repeat with what an undisturbed one leaves, in every kind."""
    it = ctx.it
    spec = it.spec()
    before = ctx.inventory()
    writes = ctx.count_writes(lambda: it.create(spec))
    wanted = _shapes(ctx, before)
    for position in range(1, writes + 1):
        for effect in AMBIGUOUS:
            spec, token = it.spec(), ctx.token()
            before = ctx.inventory()
            ctx.inject(effect, at=position)
            repeat(partial(it.create, spec, token=token))
            what = f"what a {effect.value} at write {position} and a repeat left"
            expect_equal(_shapes(ctx, before), wanted, what)


@check("X-AMB-06", on=ALL, uses=AMBIGUOUS)
def the_error_says_that_it_does_not_know(ctx: Context) -> None:
    """Loses the answer of each write; an error that leaves the driver must be UNKNOWN and may be repeated with the token."""
    it = ctx.it
    for position in ctx.positions(it):
        for effect in AMBIGUOUS:
            spec, token = it.spec(), ctx.token()
            ctx.inject(effect, at=position)
            try:
                it.create(spec, token=token)
            except CloudError as error:
                # A driver of several writes may prove, by the token or by undoing, what has become of the one that was lost.
                if error.applied is Applied.NO:
                    expect(not _made(ctx, it, spec.name), _lie(effect, error))
                else:
                    expect(
                        error.applied is Applied.UNKNOWN,
                        f"after a {effect.value} the error says {error.applied}: {error}",
                    )
                allowed = (Retry.SAME, Retry.WITH_TOKEN)
                expect(error.retry in allowed, f"after a {effect.value} the error may not be repeated: {error.retry}")
            else:
                expect(
                    _made(ctx, it, spec.name), f"create returned after a {effect.value} and nothing of that name exists"
                )


def disturb_each_write(ctx: Context, effect: Effect) -> None:
    """Disturb a create, and a delete, at each write with ``effect``; after repeats there must be one thing, or none."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        before = len(ctx.inventory(it.kind))
        ctx.inject(effect, at=position)
        thing = repeat(partial(it.create, spec, token=token))
        at = f"{effect.value} at write {position} and a repeat"
        made = len(ctx.inventory(it.kind)) - before
        expect_equal(made, it.size, f"the number of {it.kind}s made by a create with {at}")
        if hasattr(thing, "name"):
            expect_equal(thing.name, spec.name, f"the name of what a create with {at} returned")
    key = it.key(it.make())
    fault = ctx.inject(effect)
    repeat(partial(it.delete, key))
    fault.lift()
    _expect_gone(ctx, it, key, f"after a delete with {effect.value} and a repeat")


def _delete_crashing(ctx: Context, it: Subject, key: str, effect: Effect) -> None:
    ctx.inject(effect)
    expect(ctx.crash(partial(it.delete, key)), "the crash in the delete did not end the call")
    repeat(partial(it.delete, key))
    _expect_gone(ctx, it, key, f"after a {effect.value} in its delete and a repeat")


def _expect_gone(ctx: Context, it: Subject, key: str, when: str) -> None:
    def gone() -> bool:
        return it.delete(key) is Deletion.ALREADY_ABSENT

    ctx.eventually(gone, f"the {it.kind} to be gone {when}")


def _shapes(ctx: Context, before: tuple[Item, ...]) -> list[tuple[str, ...]]:
    """Return what exists besides ``before``, without what differs from one thing to the next: names and ids."""
    known = {item.key for item in before}
    return sorted((item.kind, *sorted(item.tags)) for item in ctx.inventory() if item.key not in known)


def _made(ctx: Context, it: Subject, name: str) -> bool:
    return any(name.rstrip("/") in item.name for item in ctx.inventory(it.kind))


def _lie(effect: Effect, error: CloudError) -> str:
    return f"after a {effect.value} the error says that nothing was done, and it was: {error}"
