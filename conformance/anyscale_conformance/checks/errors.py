"""X-ERR: what went wrong is told, as it was."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.plan import Effect, Reach
from anyscale_conformance.rules import Hand, Uses, check
from anyscale_conformance.subjects import ALL, LASTING, MAIN, Subject
from anyscale_core.errors import (
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
)
from anyscale_core.models.instance import NotCreated

REFUSALS: tuple[tuple[type[CloudError], str], ...] = (
    (InvalidRequest, "FIELD"), (Unauthenticated, "EXPIRED"), (PermissionDenied, "POLICY"), (Conflict, "BUSY"),
    (QuotaExceeded, "COUNT"), (CapacityUnavailable, "SKU"), (Transient, "SERVER"), (Transient, "PROPAGATION"),
)  # fmt: skip
"""Categories that any write can meet, each with a reason."""

RETRIES: dict[type[CloudError], frozenset[Retry]] = {
    InvalidRequest: frozenset({Retry.AFTER_FIX, Retry.NEVER}),
    Unauthenticated: frozenset({Retry.AFTER_FIX}),
    PermissionDenied: frozenset({Retry.AFTER_FIX, Retry.NEVER}),
    QuotaExceeded: frozenset({Retry.ELSEWHERE, Retry.AFTER_FIX}),
    CapacityUnavailable: frozenset({Retry.ELSEWHERE}),
    Throttled: frozenset({Retry.SAME, Retry.WITH_TOKEN}),
    Transient: frozenset({Retry.SAME, Retry.WITH_TOKEN}),
    DeadlineExceeded: frozenset({Retry.WITH_TOKEN, Retry.SAME}),
    Unclassified: frozenset({Retry.NEVER}),
}
"""What each category may say of repeating (docs/errors.md)."""

Verb = tuple[str, Callable[[], object]]


@check(
    "X-ERR-01",
    uses=(Uses.CODES,),
    why="the reference provider's wire speaks the tree, so no mutant of it has codes to mistake",
)
def codes_become_what_the_table_says(ctx: Context) -> None:
    """Hands each of the vendor's answers to the plugin and compares category, reason and code."""
    wrong: list[str] = []
    for code in ctx.kit.wire_codes():
        error = code.translate()
        kept = "" if error.vendor is None else error.vendor.code
        if type(error) is not code.category or (code.reason and error.reason != code.reason):
            wrong.append(
                f"{code.code} became {error.category}({error.reason}), not {code.category.category}({code.reason})"
            )
        elif kept != code.code:
            wrong.append(f"{code.code} is kept as {kept!r}")
    expect(not wrong, "; ".join(wrong))


@check("X-ERR-02", on=MAIN)
def only_errors_of_the_tree(ctx: Context) -> None:
    """Calls each verb with what nobody should: empty, endless and odd names and owners. The guard fails what escapes."""
    it = ctx.it
    thing = it.make()
    for name in ("", " ", "-", "a" * 300, "Ünï", "a/b", "..", "a\nb", "%s", "{}"):
        for _, act in _verbs_with(it, name):
            try:
                act()
            except CloudError:
                continue
    expect_equal(it.key(it.get(it.key(thing))), it.key(thing), "what `get` returns after odd calls")


@check("X-ERR-03", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def the_vendors_words_are_kept(ctx: Context) -> None:
    """Refuses a write with a code and a request id; both must be on the error, and in what is recorded of it."""
    it = ctx.it
    spec = it.spec()
    ctx.inject(Effect.REFUSE, category=PermissionDenied)
    with expect_error(PermissionDenied, when="a forbidden create") as caught:
        it.create(spec)
    vendor = caught.error.vendor
    if vendor is None:
        raise CheckFailed("the error does not say what the vendor said")
    expect(vendor.code, "the vendor's code is lost")
    expect_equal(vendor.request_id, REQUEST_ID, "the vendor's request id")
    expect(vendor.http_status, "the vendor's status is lost")
    expect(REQUEST_ID in str(caught.error.record()), "the request id is not in the record of the error")


@check("X-ERR-04", on=ALL, uses=(Effect.REFUSE, Uses.WIRE))
def the_unknown_is_unclassified(ctx: Context) -> None:
    """Refuses writes and reads with a code that nobody knows; wants Unclassified, never repeated by itself."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    ctx.inject(Effect.REFUSE, category=Unclassified)
    with expect_error(Unclassified, when="a create that was answered with an unknown code") as caught:
        it.create(spec, token=token)
    expect_equal(caught.error.retry, Retry.NEVER, "what an unclassified error says of repeating")
    thing = it.create(spec, token=token)  # of a batch, the others may have been made
    ctx.inject(Effect.REFUSE, category=Unclassified)
    with expect_error(Unclassified, when="a delete that was answered with an unknown code"):
        it.delete(it.key(thing))


@check("X-ERR-05", slots=("cluster",), uses=(Hand.SELL_OUT,))
def errors_inside_an_answer_are_told(ctx: Context) -> None:
    """Sells an instance type out; a create that the cloud answers must not be told as a success."""
    it = ctx.subject("cluster")
    specs = [it.spec() for _ in range(2)]
    ctx.hand(Hand.SELL_OUT)(specs[0].instance_type)
    outcomes: tuple[Any, ...] = ()
    with contextlib.suppress(CapacityUnavailable):
        outcomes = ctx.cluster.create(specs, token=ctx.token(), deadline=ctx.deadline())
    for outcome in outcomes:
        told = isinstance(outcome, NotCreated) and isinstance(outcome.error, CapacityUnavailable)
        expect(told, f"an instance that is sold out came out as {outcome}")
    expect_equal(ctx.inventory("instance"), (), "the instances after a create of what is sold out")


@check("X-ERR-06", on=ALL, uses=(Effect.REFUSE, Effect.THROTTLE, Uses.WIRE))
def repeating_agrees_with_the_category(ctx: Context) -> None:
    """Refuses a write with each category; the error that comes out is of that category and says what fits it of repeating."""
    it = ctx.it
    for category, reason in REFUSALS:
        if not ctx.answers(category):
            continue
        spec = it.spec()
        ctx.inject(Effect.REFUSE, category=category, reason=reason)
        with expect_error(category, reason=reason, when=f"a create that was refused as {category.category}") as caught:
            it.create(spec)
        expect(caught.error.applied is not Applied.YES, f"a refused create says that it was applied: {caught.error}")
        if category in RETRIES:
            fits = caught.error.retry in RETRIES[category]
            expect(fits, f"{category.category} says of repeating: {caught.error.retry.value}")


@check("X-ERR-07", on=LASTING, uses=(Effect.REFUSE,))
def forbidden_is_not_absent(ctx: Context) -> None:
    """Forbids each request of each verb in turn; every call must raise PermissionDenied, not NotFound, and not shrug."""
    for category, reason in ((PermissionDenied, "POLICY"), (Unauthenticated, "EXPIRED")):
        _every_request(ctx, category, reason)


@check("X-ERR-08", on=LASTING, uses=(Effect.REFUSE, Effect.THROTTLE, Effect.LOSE_BEFORE))
def failing_is_not_absent(ctx: Context) -> None:
    """Lets each request of each verb fail in turn, in four ways; no call may tell it as absence or as an empty list."""
    for category, reason in ((Transient, "SERVER"), (Transient, "NETWORK"), (Unclassified, "")):
        _every_request(ctx, category, reason)
    it = ctx.it
    lost: tuple[tuple[Effect, type[CloudError]], ...] = (
        (Effect.THROTTLE, Throttled),
        (Effect.LOSE_BEFORE, DeadlineExceeded),
    )
    for effect, wanted in lost:
        key = it.key(it.make())
        for verb, act in _verbs_on(it, key):
            ctx.inject(effect, reach=Reach.ALL)
            with expect_error(wanted, Transient, when=f"{verb} whose request met {effect.value}"):
                act()


def _every_request(ctx: Context, category: type[CloudError], reason: str) -> None:
    it = ctx.it
    key = it.key(it.make())
    for verb, act in _verbs_on(it, key):
        before = len(ctx.plan.requests)
        # Not the delete: counting it would take the thing away. Its first request is enough.
        requests = 1
        if verb != "delete":
            act()
            requests = len(ctx.plan.requests) - before
        for position in range(1, requests + 1):
            ctx.inject(Effect.REFUSE, reach=Reach.ALL, at=position, category=category, reason=reason)
            when = f"{verb} of a {it.kind} whose request {position} of {requests} was refused as {category.category}"
            with expect_error(category, when=when):
                act()
    expect(ctx.inventory(it.kind), f"the {it.kind} went away although each delete was refused")


def _verbs_on(it: Subject, key: str) -> Iterator[Verb]:
    yield "get", partial(it.get, key)
    yield "list", partial(it.list)
    yield "delete", partial(it.delete, key)


def _verbs_with(it: Subject, name: str) -> Iterator[Verb]:
    yield "get", partial(it.get, name)
    yield "delete", partial(it.delete, name)
    yield "create", lambda: it.create(it.renamed(it.spec(), name))
