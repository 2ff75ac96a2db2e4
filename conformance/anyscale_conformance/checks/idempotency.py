"""X-IDEM: calls that come twice."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import attrs

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Uses, check
from anyscale_conformance.subjects import ALL, BATCH, ENDPOINT, GRANT, MAIN, Subject
from anyscale_core.errors import AlreadyExists, Conflict
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import EndpointState


@check("X-IDEM-01", on=ALL)
def same_token_same_spec(ctx: Context) -> None:
    """Creates again with one token: at once, by another process, when all is ready, and a day later; counts."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    first = it.create(spec, token=token)
    made = [item.key for item in ctx.inventory(it.kind)]
    expect_equal(len(made), it.size, f"the number of {it.kind}s after the first create")
    for when in ("at once", "by another process", "when all is ready", "much later"):
        if when == "by another process":
            ctx.restart()
        if when == "when all is ready":
            _let_it_be_ready(ctx, it, it.key(first))
        if when == "much later" and ctx.kit.is_virtual:
            ctx.pass_time(timedelta(days=1))
        again = it.create(spec, token=token)
        expect_equal(it.key(again), it.key(first), f"the key that a create {when} with the same token returned")
        found = [item.key for item in ctx.inventory(it.kind)]
        expect_equal(found, made, f"the {it.kind}s after a create {when} with the same token")


@check("X-IDEM-02", on=ALL)
def same_token_other_spec(ctx: Context) -> None:
    """Uses a token again for a spec that differs in one thing, for each such thing; also by another process."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    it.create(spec, token=token)
    for process in ("the same process", "another process"):
        for other in it.others(spec):
            what = f"the token of another spec, in {process},"
            with ctx.untouched(what), expect_error(Conflict, reason="TOKEN_MISMATCH", when=what):
                it.create(other, token=token)
        ctx.restart()


@check("X-IDEM-03", on=MAIN)
def other_token_same_name(ctx: Context) -> None:
    """Takes a name that is taken: by an equal thing of ours, by another one of ours, and by another cluster's."""
    it = ctx.it
    spec = it.spec()
    it.create(spec)
    other_cluster = attrs.evolve(spec, owner=attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b")))
    for what, wanted in (
        ("equal", spec),
        ("differing", it.retagged(spec, {"conformance": "other"})),
        ("", other_cluster),
    ):
        when = f"a new token with the taken name of {what or 'another cluster'}{' thing of ours' if what else ''}"
        with ctx.untouched(when), expect_error(AlreadyExists, reason=("OWNED", "FOREIGN"), when=when):
            it.create(wanted)


@check("X-IDEM-04", on=(*MAIN, BATCH, ENDPOINT))
def spent_token(ctx: Context) -> None:
    """Uses a token again while what it made is being deleted and after it is gone; wants no dead thing back."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    key = it.key(it.create(spec, token=token))
    it.delete(key)
    new = _expect_no_dead_thing(ctx, it, partial(it.create, spec, token=token), "while it is being deleted")
    if new is not None:
        it.delete(it.key(new))
    _gone(ctx, it)
    ctx.restart()
    _expect_no_dead_thing(ctx, it, partial(it.create, spec, token=token), "after it is gone")


@check("X-IDEM-05", on=ALL)
def deleting_twice_and_the_unknown(ctx: Context) -> None:
    """Deletes what never was, then one thing again and again until and after it is gone."""
    it = ctx.it
    never = it.key(it.make())
    it.delete(never)
    _gone(ctx, it)
    with ctx.untouched(f"deleting an unknown {it.kind}"):
        unknown = _unknown(never)
        expect_equal(it.delete(unknown), Deletion.ALREADY_ABSENT, f"deleting an unknown {it.kind}")
    key = it.key(it.make())
    expect(it.delete(key) in (Deletion.GOING, Deletion.GONE), "the first delete said that the thing was absent already")
    it.delete(key)
    _gone(ctx, it)
    expect_equal(it.delete(key), Deletion.ALREADY_ABSENT, f"deleting the {it.kind} once it is gone")
    ctx.restart()
    expect_equal(it.delete(key), Deletion.ALREADY_ABSENT, f"deleting the {it.kind} once it is gone, by another process")


@check("X-IDEM-06", on=ALL)
def asking_ten_times_changes_nothing(ctx: Context) -> None:
    """Creates ten times with one token when all is ready; the oracle must see the same cloud, in every detail."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    key = it.key(it.create(spec, token=token))
    _let_it_be_ready(ctx, it, key)
    with ctx.untouched("asking ten times for what is already so"):
        for _ in range(10):
            it.create(spec, token=token)


@check("X-IDEM-07", on=ALL, uses=(Uses.WIRE, Effect.CRASH_BEFORE))
def tokens_are_the_same_in_every_process(ctx: Context) -> None:
    """Dies before each write of a create and lets another process repeat it; compares the tokens on the wire."""
    it, positions = ctx.it, ctx.positions(ctx.it)
    for position in positions:
        spec, token = it.spec(), ctx.token()
        before = len(ctx.plan.writes())
        ctx.inject(Effect.CRASH_BEFORE, at=position)
        expect(ctx.crash(partial(it.create, spec, token=token)), f"write {position} was never reached")
        writes = ctx.plan.writes()[before:]
        # What was carried out before may be found, and need not be asked for again.
        cut = [request.token for request in writes[-1:]]
        repeat(partial(it.create, spec, token=token))
        sent = [request.token for request in ctx.plan.writes()[before + len(writes) :]]
        lost = [derived for derived in cut if derived and derived not in sent]
        expect(not lost, f"the repeat by another process did not use {len(lost)} of the tokens that the first one used")
        told = any(sent) or any(request.token for request in writes)
        expect(told, f"no write of creating a {it.name} carries a token")


@check("X-IDEM-08", on=ALL, uses=(Uses.JOURNAL,))
def children_have_tokens_of_their_own(ctx: Context) -> None:
    """Looks at the tokens of all writes of one create, and of two creates that differ in their token alone."""
    it, seen = ctx.it, []
    for _ in range(2):
        spec = it.spec()
        before = len(ctx.plan.writes())
        it.create(spec)
        seen += [request.token for request in ctx.plan.writes()[before:] if request.token]
    twice = {token for token in seen if seen.count(token) > 1}
    expect(not twice, f"{len(twice)} tokens were used by more than one write")


def _let_it_be_ready(ctx: Context, it: Subject, key: str) -> None:
    """Wait until it has come to rest; what has no state is at rest at once."""
    if it.name == GRANT:
        return

    def at_rest() -> bool:
        thing = it.get(key)
        states = [getattr(part, "state", None) for part in getattr(thing, "instances", (thing,))]
        return not any(getattr(state, "value", "") == EndpointState.PENDING.value for state in states)

    ctx.eventually(at_rest, f"the {it.kind} to come to rest")


def _gone(ctx: Context, it: Subject) -> None:
    ctx.eventually(lambda: not ctx.inventory(it.kind), f"the {it.kind} to be gone after its delete")


def _unknown(key: str) -> str:
    """Return a key of the same form that nothing has."""
    return " ".join(f"{part[:-1]}{'z' if part[-1] != 'z' else 'y'}" for part in key.split())


def _expect_no_dead_thing(ctx: Context, it: Subject, create: Callable[[], object], when: str) -> object | None:
    """Use a spent token; return the live new thing that came of it, None when it was refused."""
    try:
        thing = create()
    except Conflict as error:
        if error.reason not in ("TOKEN_SPENT", "BEING_DELETED"):
            raise CheckFailed(f"a spent token {when} raised {error}, not Conflict(TOKEN_SPENT)") from error
        return None
    alive = [item for item in ctx.inventory(it.kind) if item.state != "deleting"]
    expect_equal(len(alive), it.size, f"the number of live {it.kind}s after a spent token made {it.key(thing)} {when}")
    return thing
