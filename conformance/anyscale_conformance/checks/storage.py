"""S-BKT, S-ACL, S-GRT and S-URL: buckets, who may use them, and URLs that are good for one thing."""

from datetime import timedelta
from functools import partial
from urllib.parse import quote, unquote

import attrs

from anyscale_conformance.checks.rights import (
    READ,
    WRITE,
    bucket,
    expect_rights,
    grant,
    held,
    identity,
    long_names,
    revoke,
    revoke_for_good,
    right,
)
from anyscale_conformance.checks.stores import BODY, Store
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.kit import Item
from anyscale_conformance.rules import Hand, check
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.instance import Deletion
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Grant, UrlMethod


@check("S-BKT-01", slots=("storage",))
def a_taken_name_is_told_apart(ctx: Context) -> None:
    """Asks for names that we have, that another cluster of ours has, and that a stranger has; nobody loses anything."""
    it = ctx.subject("storage")
    ours, theirs = it.make(), it.make(owner=ctx.stranger)
    Store(ctx, ours.name).put("key")
    sibling = attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b"))
    for owner in (ctx.owner, sibling):
        when = "creating a bucket under a name that we have already"
        with ctx.untouched(when), expect_error(AlreadyExists, reason="OWNED", when=when):
            it.make(ours.name, owner=owner)
    before = ctx.inventory()
    try:
        made = it.make(theirs.name)
    except AlreadyExists as error:
        expect_equal(error.reason, "FOREIGN", "the reason of AlreadyExists for a name that a stranger has")
        ctx.expect_inventory(before, "asking for a stranger's name")
    else:
        expect(made.url != theirs.url, f"a bucket under a stranger's name has the stranger's own place, {made.url}")
    left = [item for item in ctx.inventory(it.kind) if item.name == theirs.name and ctx.stranger.owns(item.tags)]
    expect_equal(len(left), 1, "the number of buckets that the stranger has after we asked for its name")
    expect_equal(Store(ctx, ours.name).read(), BODY, "what is in our bucket in the end")
    places = {it.make(name).url for name in long_names(ctx)}
    expect_equal(len(places), 2, "the number of places of two buckets whose long names differ at their ends")


@check("S-BKT-02", slots=("storage",))
def what_holds_something_is_not_deleted(ctx: Context) -> None:
    """Deletes buckets with objects of every size and depth: refused and whole. An adopted one that is let go of keeps its own."""
    it = ctx.subject("storage")
    for key, body in (("one", BODY), ("nothing-in-it", b""), ("deep/down/below", BODY)):
        name = it.make().name
        Store(ctx, name).put(key, body)
        when = f"deleting a bucket that holds {key!r}"
        with ctx.untouched(when), expect_error(Conflict, reason="NOT_EMPTY", when=when):
            it.delete(name)
        expect_equal(Store(ctx, name).read(key), body, f"{key!r} after its bucket was not deleted")
        expect_equal(it.get(name).name, name, "the bucket that was not deleted")
        Store(ctx, name).delete(key)
        it.delete_for_good(name)
        ctx.eventually(partial(_none_called, ctx, name), "an emptied bucket to be gone after its delete")
    if ctx.provider.capabilities.has("adopt") and Hand.OFFER in ctx.hands:
        _adopted_ones_keep_their_objects(ctx)


def _none_called(ctx: Context, name: str) -> bool:
    return all(item.name != name for item in ctx.inventory("bucket"))


def _adopted_ones_keep_their_objects(ctx: Context) -> None:
    it = ctx.subject("storage")
    spec = attrs.evolve(it.spec(), adopt=ctx.hand(Hand.OFFER)("bucket"))
    name = it.create(spec).name
    Store(ctx, name).put("key")
    it.delete_for_good(name)
    again = it.create(it.renamed(spec, ctx.name())).name
    expect_equal(
        Store(ctx, again).read(), BODY, "what the customer's bucket holds after it was let go of and adopted again"
    )
    Store(ctx, again).delete("key")
    it.delete_for_good(again)


@check("S-BKT-03", slots=("storage",))
def the_unchangeable_is_refused(ctx: Context) -> None:
    """Asks for a bucket that exists in another region, by a new token and by its own; it stays as and where it was."""
    it, token = ctx.subject("storage"), ctx.token()
    spec = it.spec()
    made = it.create(spec, token=token)
    Store(ctx, made.name).put("key")
    elsewhere = attrs.evolve(spec, region=f"{spec.region or 'conformance'}-elsewhere")
    for again, reasons in ((ctx.token(), ("OWNED", "FIELD", "UNSUPPORTED_VALUE")), (token, ("TOKEN_MISMATCH",))):
        when = "asking for a bucket in another region than it is in"
        with ctx.untouched(when), expect_error(AlreadyExists, Conflict, InvalidRequest, reason=reasons, when=when):
            it.create(elsewhere, token=again)
    for found in (it.get(made.name), *it.listed()):
        expect_equal((found.region, found.url), (made.region, made.url), "the region and place of the bucket")
    expect_equal(Store(ctx, made.name).read(), BODY, "what is in the bucket")


@check("S-ACL-01", slots=("storage",), uses=(Effect.CRASH_AFTER,))
def never_public(ctx: Context) -> None:
    """Dies after each write of a create and looks with the oracle: at no moment can anybody read the bucket."""
    it = ctx.subject("storage")
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        ctx.inject(Effect.CRASH_AFTER, at=position)
        expect(
            ctx.crash(partial(it.create, spec, token=token)), f"the crash after write {position} did not end the call"
        )
        _expect_private(ctx, f"after write {position} of its create")
        it.create(spec, token=token)
        _expect_private(ctx, "after a repeat of its create")
    for shown in (*it.listed(), it.make()):
        expect(shown.public is False, f"the driver shows the bucket {shown.name} as public")


def _expect_private(ctx: Context, when: str) -> None:
    public = [str(item) for item in ctx.inventory("bucket", owner=ctx.owner) if item.detail.get("public") == "yes"]
    expect(not public, f"anybody can read {', '.join(public)} {when}")


@check("S-GRT-01", slots=("storage",), needs=("storage.grants",))
def a_revoked_grant_is_gone(ctx: Context) -> None:
    """Revokes one of many grants, again and again, and what never was; only that one goes, and no object with it."""
    where, one, two = bucket(ctx), identity(ctx), identity(ctx)
    for prefix in ("a/", "a/b/", "ab/"):
        for who, access in ((one, WRITE), (two, READ)):
            made = grant(ctx, where, prefix, who, access)
            said = (made.bucket, made.prefix, made.identity, made.access)
            expect_equal(said, (where, prefix, who, access), "what a grant says of itself")
            _can_be_handed_out(ctx, made)
    other = bucket(ctx)
    grant(ctx, other, "a/", one, WRITE)
    grant(ctx, where, "a/", one, READ)
    Store(ctx, where).put("a/key")
    before = _rest(ctx, one, where)
    answer = revoke_for_good(ctx, where, "a/", one)
    expect(answer is not Deletion.ALREADY_ABSENT, "revoking a grant says that there was none")
    gone = {name for name, _ in held(ctx, one)} & {f"{where}/a/"}
    expect(not gone, "a revoked grant is there still")
    expect_equal(_rest(ctx, one, where), before, "the other grants after one was revoked")
    expect_equal(Store(ctx, where).read("a/key"), BODY, "the object below the prefix whose grant was revoked")
    for prefix, who, what in (
        ("a/", one, "again"), ("never/", one, "what never was"), ("a/", ctx.name(), "from nobody"),
    ):  # fmt: skip
        with ctx.untouched(f"revoking {what}"):
            expect_equal(revoke(ctx, where, prefix, who), Deletion.ALREADY_ABSENT, f"revoking {what}")
    with ctx.untouched("revoking in a bucket that is not there"):
        answer = revoke(ctx, ctx.name(), "a/", two)
        expect_equal(answer, Deletion.ALREADY_ABSENT, "revoking in a bucket that is not there")
    grant(ctx, where, "a/", one, READ)
    expect(right(where, "a/", READ) in held(ctx, one), "a grant that was revoked cannot be given again")
    Store(ctx, where).put("a/key", b"")
    _theirs_is_not_ours_to_revoke(ctx, two)


def _rest(ctx: Context, one: str, where: str) -> list[Item]:
    """Return every grant but those of ``one`` at the prefix that is revoked."""
    return [item for item in ctx.inventory("grant") if (item.id, item.name) != (one, f"{where}/a/")]


def _theirs_is_not_ours_to_revoke(ctx: Context, who: str) -> None:
    theirs, member = bucket(ctx, owner=ctx.stranger), identity(ctx, owner=ctx.stranger)
    ctx.storage.grant(
        theirs, "a/", identity=member, access=READ, owner=ctx.stranger, token=ctx.token(), deadline=ctx.deadline()
    )
    for person in (member, who):
        with ctx.untouched("revoking in a stranger's bucket"):
            expect_equal(revoke(ctx, theirs, "a/", person), Deletion.ALREADY_ABSENT, "revoking in a stranger's bucket")
    when = "granting in a stranger's bucket"
    with ctx.untouched(when), expect_error(NotFound, when=when):
        grant(ctx, theirs, "b/", who, READ)


def _can_be_handed_out(ctx: Context, made: Grant) -> None:
    """Fail the check unless a node can be given the grant's store: of that prefix, good for a while, secret where it is."""
    for store in (made.store, *((made.elsewhere,) if made.elsewhere else ())):
        place = unquote(store.url).rstrip("/")
        expect(place.endswith(f"/{made.prefix.rstrip('/')}"), f"the store of a grant on {made.prefix!r} is at {place}")
        end = store.expires_at
        expect(end is None or end > ctx.clock.now(), f"the store of a grant that was just made is good until {end}")
        for option, value in store.options.items():
            expect(isinstance(value, Secret), f"the store option {option!r} of a grant is a {type(value).__name__}")
            expect(not value.reveal() or value.reveal() not in repr(made), f"the repr of a grant shows {option!r}")


@check("S-GRT-02", slots=("storage",), needs=("storage.grants",))
def a_read_takes_nothing_from_a_write(ctx: Context) -> None:
    """Grants READ after, before and among WRITEs of one identity at one prefix, and above and below it."""
    where, who = bucket(ctx), identity(ctx)
    for prefix, order in (("x/", (WRITE, READ)), ("y/", (READ, WRITE)), ("z/", (WRITE, READ, WRITE, READ))):
        for access in order:
            grant(ctx, where, prefix, who, access)
            _may(ctx, who, where, prefix, READ)
        names = " then ".join(access.value for access in order)
        expect(right(where, prefix, WRITE) in held(ctx, who), f"{names} at one prefix leaves no write")
        _may(ctx, who, where, prefix, WRITE)
    grant(ctx, where, "x/below/", who, READ)
    grant(ctx, where, "y/below/", who, WRITE)
    wanted = {right(where, prefix, WRITE) for prefix in ("x/", "y/", "z/", "y/below/")}
    expect_rights(ctx, who, wanted | {right(where, "x/below/", READ)}, "with grants above each other")
    _may(ctx, who, where, "x/below/", WRITE)


def _may(ctx: Context, who: str, where: str, prefix: str, access: Access) -> None:
    if Hand.MAY in ctx.hands:
        allowed = ctx.hand(Hand.MAY)(who, where, f"{prefix}key", access)
        expect(allowed, f"the cloud does not let the identity {access.value} below {prefix!r}")


@check("S-URL-01", slots=("storage",), needs=("storage.signed_urls",), uses=(Hand.USE_URL,))
def a_url_is_good_for_one_thing(ctx: Context) -> None:
    """Uses a signed URL as it is meant, then with another method, for other keys and buckets, changed, and too late."""
    where, use = bucket(ctx), ctx.hand(Hand.USE_URL)
    for key in ("a/key", "with blank/ü+%"):
        Store(ctx, where).put(key)
        Store(ctx, where).put(f"{key}2", b"not for you")
        url = _signed(ctx, where, key, UrlMethod.GET)
        expect_equal(use(url, "GET", b""), (200, BODY), "what a URL for GET brought")
        _refused(use(url, "PUT", b"overwritten"), "a URL for GET let a PUT through")
        _refused(use(_for_another(url, key), "GET", b""), "a URL for one key is good for another")
        _refused(use(url.replace(where, bucket(ctx), 1), "GET", b""), "a URL for one bucket is good for another")
        expect_equal(Store(ctx, where).read(key), BODY, "the object after a URL for GET was misused")
        put = _signed(ctx, where, key, UrlMethod.PUT)
        _refused(use(put, "GET", b""), "a URL for PUT let a GET through")
        status, _ = use(put, "PUT", b"new")
        expect(status < 300, f"a URL for PUT was answered with {status}")
        expect_equal(Store(ctx, where).read(key), b"new", "the object after a PUT by URL")
    late = _signed(ctx, where, key, UrlMethod.GET, timedelta(seconds=1))
    ctx.pass_time(timedelta(seconds=2))
    _refused(use(late, "GET", b""), "a URL that has expired is good still")
    with expect_error(NotFound, when="asking for a URL into a stranger's bucket"):
        _signed(ctx, bucket(ctx, owner=ctx.stranger), key, UrlMethod.GET)


def _signed(
    ctx: Context, where: str, key: str, method: UrlMethod, expires_in: timedelta = timedelta(seconds=60)
) -> str:
    url = ctx.storage.signed_url(
        where, key, method=method, expires_in=expires_in, owner=ctx.owner, deadline=ctx.deadline()
    )
    expect(isinstance(url, Secret), f"a signed URL is a {type(url).__name__}, not a Secret")
    return url.reveal()


def _for_another(url: str, key: str) -> str:
    """Return the URL with its key changed to the one of its neighbour."""
    written = next((form for form in (quote(key), quote(key, safe="")) if form in url), "")
    if not written:
        raise CheckFailed(f"the key {key!r} is not in the signed URL")
    return url.replace(written, f"{written}2", 1)


def _refused(answer: tuple[int, bytes], message: str) -> None:
    status, body = answer
    expect(status >= 400 and BODY not in body, f"{message} ({status})")
