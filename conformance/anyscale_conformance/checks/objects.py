"""S-OBJ: objects through the store that the driver opens: whole, in order, one winner, nothing left of what was cut short."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from anyscale_conformance.checks.concurrency import at_once
from anyscale_conformance.checks.stores import Store, done, fails
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal
from anyscale_conformance.rules import Hand, check

PART = 5 * 1024 * 1024
"""The least size of a part of an upload in parts, of S3 and of obstore's default."""
WRITERS = 8
PAGE = 50
"""How many entries of a listing are asked for at once."""
KEYS = (
    "with blank", "ünï/日本/ключ", "emoji 😀", "percent%20sign", "plus+plus", "a=b&c=d", "quote'\"`", "question?x=1", "colon:1",
    "tilde~", "star*", "comma,semicolon;", "[brackets]{braces}", "CamelCase", "camelcase", "dots.in..it", "@at!",
)  # fmt: skip
"""Keys that URLs, patterns and file names treat with care."""


@check("S-OBJ-01", slots=("storage",))
def objects_come_back_as_they_were_put(ctx: Context) -> None:
    """Puts no byte, one, and around a part; reads them by the bucket's and by a prefix's store, whole, by size and by range."""
    where = _bucket(ctx)
    root, below = Store(ctx, where), Store(ctx, where, "a/")
    noise = ctx.rng.randbytes(PART + 1)
    for size in (0, 1, PART - 1, PART, PART + 1):
        body, key = noise[:size], f"size-{size}"
        below.put(key, body, chunk_size=PART)
        for store, path in ((root, f"a/{key}"), (below, key)):
            expect_equal(store.head(path)["size"], size, f"the size of an object of {size} bytes")
            expect(store.read(path) == body, f"an object of {size} bytes does not come back as it was put")
        if size > 1:
            found = root.range(f"a/{key}", start=size - 2, length=2)
            expect_equal(found, body[-2:], f"the last two of {size} bytes")
    root.put("a/size-1", b"other")
    expect_equal(below.read("size-1"), b"other", "an object that was put again")
    below.delete([f"size-{size}" for size in (0, 1, PART - 1, PART, PART + 1)])
    expect_equal(root.keys(), [], "what is left in the bucket after all was deleted")


@check("S-OBJ-02", slots=("storage",))
def one_of_many_writers_wins(ctx: Context) -> None:
    """Lets eight writers put one key at once, if it is absent and then if it is unchanged: one wins each time, and is read."""
    where = _bucket(ctx)
    _one_wins(ctx, where, {"mode": "create"}, "put-if-absent")
    store = Store(ctx, where)
    meta = store.head("key")
    unchanged = {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
    expect(unchanged, "an object has neither an ETag nor a version, so put-if-unchanged is not possible")
    _one_wins(ctx, where, {"mode": unchanged}, "put-if-unchanged")
    for mode, what in ((unchanged, "put-if-unchanged after a change"), ("create", "put-if-absent of what is there")):
        before = store.read("key")
        fails(partial(store.put, "key", b"late", mode=mode), what)
        expect_equal(store.read("key"), before, f"the object after {what}")


def _one_wins(ctx: Context, where: str, how: dict[str, Any], what: str) -> None:
    # Of each round its own: where an ETag is a digest of the body, the same body again changes nothing.
    bodies = [f"writer {number} with {what}".encode() for number in range(WRITERS)]
    errors = at_once([partial(_error_of, Store(ctx, where), body, how) for body in bodies])
    won = [body for body, error in zip(bodies, errors, strict=True) if error is None]
    if len(won) != 1:
        why = next((f"; one failed: {error}" for error in errors if error is not None), "")
        raise CheckFailed(f"{len(won)} of {WRITERS} writers won with {what}, not one{why}")
    expect_equal(Store(ctx, where).read("key"), won[0], f"the object after {what}, which is to be the winner's")


def _error_of(store: Store, body: bytes, how: dict[str, Any]) -> CheckFailed | None:
    try:
        store.put("key", body, **how)
    except CheckFailed as error:
        return error
    return None


@check("S-OBJ-03", slots=("storage",), uses=(Hand.DAMAGE,))
def a_damaged_transfer_is_noticed(ctx: Context) -> None:
    """Changes a byte on the way in and on the way out: either an error is raised, or what is there is what was sent."""
    where, body = _bucket(ctx), b"every byte of this matters"
    Store(ctx, where).put("there", body)
    ctx.hand(Hand.DAMAGE)(where)
    if done(lambda: Store(ctx, where).put("sent", body)):
        expect_equal(
            Store(ctx, where).read("sent"), body, "an object that was damaged on its way in, without an error,"
        )
    ctx.hand(Hand.DAMAGE)(where)
    read: list[bytes] = []
    if done(lambda: read.append(Store(ctx, where).read("there"))):
        expect_equal(read, [body], "an object that was damaged on its way out, without an error,")


@check("S-OBJ-04", slots=("storage",))
def a_listing_stops_at_its_delimiter(ctx: Context) -> None:
    """Lists below prefixes that begin alike, with and without a delimiter, by the bucket's store and by a prefix's."""
    where = _bucket(ctx)
    root = Store(ctx, where)
    for key in ("a/1", "a/2", "a/b/3", "a/b/c/4", "ab/5", "a-b/6", "b/a/7", "8"):
        root.put(key, b"")
    _expect_level(root.level("a"), ["a/1", "a/2"], ["a/b"], "'a'")
    _expect_level(root.level(), ["8"], ["a", "a-b", "ab", "b"], "the bucket")
    below = Store(ctx, where, "a/")
    _expect_level(below.level(), ["1", "2"], ["b"], "the store of 'a/'")
    _expect_level(below.level("b"), ["b/3"], ["b/c"], "'b' in the store of 'a/'")
    expect_equal(root.keys("a"), ["a/1", "a/2", "a/b/3", "a/b/c/4"], "all below 'a'")
    expect_equal(below.keys(), ["1", "2", "b/3", "b/c/4"], "all in the store of 'a/'")
    expect_equal(Store(ctx, where, "a/b/").keys(), ["3", "c/4"], "all in the store of 'a/b/'")
    expect_equal(Store(ctx, where, "none/").keys(), [], "all in the store of a prefix that nothing is below")


def _expect_level(found: tuple[list[str], list[str]], objects: list[str], prefixes: list[str], where: str) -> None:
    expect_equal(found[0], objects, f"the objects directly below {where}")
    expect_equal(found[1], prefixes, f"the prefixes directly below {where}")


@check("S-OBJ-05", slots=("storage",))
def keys_are_kept_as_they_are(ctx: Context) -> None:
    """Puts keys of every kind, each with its own name in it; "//", backslashes and dots are kept or refused, never folded."""
    where = _bucket(ctx)
    root, below = Store(ctx, where), Store(ctx, where, "p/")
    for key in KEYS:
        below.put(key, key.encode())
    for key in KEYS:
        expect_equal(root.read(f"p/{key}").decode(), key, f"the object {key!r}")
    expect_equal(below.keys(), sorted(KEYS), "the keys in the list")
    for odd, plain in (("x//y", "x/y"), ("x/./z", "x/z"), ("x/../w", "w"), ("x\\v", "x/v")):
        below.put(plain, b"plain")
        if done(partial(below.put, odd, b"odd")):
            expect_equal(below.read(plain), b"plain", f"{plain!r} after {odd!r} was put")
    below.delete(list(KEYS))


@check("S-OBJ-06", slots=("storage",))
def a_listing_is_ordered_and_complete(ctx: Context) -> None:
    """Puts more than two pages in an order of their own; lists in pages, from a key on, and after half were deleted."""
    where = _bucket(ctx)
    store = Store(ctx, where, "many/")
    count = 2 * ctx.provider.capabilities.numbers.get("storage.page_size", PAGE) + 1
    wanted = sorted(f"{number % 7}/{number:05d}" for number in range(count))
    for key in ctx.rng.sample(wanted, count):
        store.put(key, b"")
    pages = store.pages(chunk_size=PAGE)
    found = [key for page in pages for key in page]
    expect_equal(len(found), count, f"the number of entries in a listing of {count} objects")
    expect_equal(found, wanted, "the listing, in its order,")
    expect(all(len(page) <= PAGE for page in pages), f"a page of at most {PAGE} has more entries")
    middle = wanted[count // 2]
    after = [key for page in store.pages(offset=middle, chunk_size=PAGE) for key in page]
    expect_equal(after, wanted[count // 2 + 1 :], "the listing from the middle on")
    store.delete(wanted[::2])
    expect_equal(store.keys(), wanted[1::2], "the listing after every other object was deleted")
    store.delete(wanted[1::2])


@check("S-OBJ-07", slots=("storage",))
def an_upload_cut_short_leaves_nothing(ctx: Context) -> None:
    """Breaks off an upload in parts after its first part: no object, no part that the oracle sees, and the bucket can go."""
    where = _bucket(ctx)
    before = ctx.inventory()
    for prefix in ("", "a/"):
        store = Store(ctx, where, prefix)
        fails(
            partial(store.put, "cut", _cut_short(), chunk_size=PART, max_concurrency=1), "an upload that is cut short"
        )
        expect_equal(store.keys(), [], "the listing after an upload was cut short")
        fails(partial(store.read, "cut"), "reading an object whose upload was cut short")
    ctx.eventually(lambda: len(ctx.inventory()) <= len(before), "the parts of an upload that was cut short to go")
    ctx.expect_inventory(before, "an upload that was cut short")
    ctx.subject("storage").delete_for_good(where)


def _cut_short() -> Iterator[bytes]:
    """Yield so much that the first part has arrived where parts are sent one at a time, and break off."""
    for _ in range(3):
        yield b"x" * PART
    raise RuntimeError("the conformance suite cuts this upload short")


@check("S-OBJ-08", slots=("storage",))
def beyond_the_end_is_told(ctx: Context) -> None:
    """Reads ranges that begin at, behind and before the end of an object: an error, or as much as there is."""
    where = _bucket(ctx)
    for store in (Store(ctx, where), Store(ctx, where, "a/")):
        store.put("ten", b"0123456789")
        for start in (10, 20):
            what = f"reading from byte {start} on of an object of 10 bytes"
            fails(partial(store.range, "ten", start=start, length=5), what)
        if done(partial(store.range, "ten", start=5, length=10)):
            found = store.range("ten", start=5, length=10)
            expect_equal(found, b"56789", "what a range that reaches beyond the end brought")
        expect_equal(store.range("ten", start=0, length=10), b"0123456789", "the range of the whole object")


@check("S-OBJ-09", slots=("storage",))
def deleting_the_absent_object_succeeds(ctx: Context) -> None:
    """Deletes keys that never were, twice, and among others that are: all are gone, and nothing is raised."""
    where = _bucket(ctx)
    for store in (Store(ctx, where), Store(ctx, where, "a/")):
        for key in ("here", "there", "stays"):
            store.put(key, b"")
        for keys in ("never", "never/was", ["nor", "these"], ["here", "never", "there"], "here"):
            store.delete(keys)
        expect_equal(store.keys(), ["stays"], "what is left")
        store.delete("stays")


def _bucket(ctx: Context) -> str:
    return str(ctx.subject("storage").make().name)
