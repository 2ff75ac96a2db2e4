"""Providers whose stores lose, change, hide or overwrite objects."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from obstore.exceptions import NotFoundError

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.kits.reference_hands import hands_of
from anyscale_conformance.mutants.base import mutant
from anyscale_conformance.rules import Hand
from anyscale_core.drivers.storage import ObjectStore
from anyscale_core.models.owner import Owner
from anyscale_core.testing.below import Below
from anyscale_core.testing.fake_storage import FakeStorageDriver

PART = 5 * 1024 * 1024
Page = list[dict[str, Any]]
Pages = list[Page]


class Spoilt:
    """A store that does as another does, but for what a subclass spoils."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Opening(FakeStorageDriver):
    """Opens buckets as stores of the class ``Kind``."""

    Kind: ClassVar[type[Spoilt]]

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        return self.Kind(super().objects(bucket, prefix, owner=owner))


class Changed(Spoilt):
    """Changes what is put."""

    def put(self, path: str, data: Any, **options: Any) -> Any:
        return self._store.put(path, self._changed(data), **options)

    def _changed(self, data: Any) -> Any:
        raise NotImplementedError


@mutant("What goes beyond the first part of an upload is lost.", caught_by=("S-OBJ-01",))
class LosesTheLastPart(ReferenceKit):
    class Storage(Opening):
        class Kind(Changed):
            def _changed(self, data: Any) -> Any:
                return data[:PART] if isinstance(data, bytes) else data


@mutant("An upload of exactly one part is empty.", caught_by=("S-OBJ-01",))
class LosesAWholePart(ReferenceKit):
    class Storage(Opening):
        class Kind(Changed):
            def _changed(self, data: Any) -> Any:
                return b"" if isinstance(data, bytes) and len(data) == PART else data


@mutant("Objects without a byte get one.", caught_by=("S-OBJ-01",))
class EmptyObjectsGetAByte(ReferenceKit):
    class Storage(Opening):
        class Kind(Changed):
            def _changed(self, data: Any) -> Any:
                return data or b"\n"


@mutant("Put-if-absent overwrites.", caught_by=("S-OBJ-02",))
class IfAbsentOverwrites(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def put(self, path: str, data: Any, **options: Any) -> Any:
                if options.get("mode") == "create":
                    options["mode"] = "overwrite"
                return self._store.put(path, data, **options)


@mutant("Put-if-absent looks first and puts then.", caught_by=("S-OBJ-02",))
class IfAbsentLooksFirst(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def put(self, path: str, data: Any, **options: Any) -> Any:
                if options.pop("mode", None) is None:
                    return self._store.put(path, data, **options)
                if any(meta["path"] == path for page in self._store.list() for meta in page):
                    raise FileExistsError(path)
                return self._store.put(path, data, **options)


@mutant("Put-if-unchanged ignores the ETag.", caught_by=("S-OBJ-02",))
class IfUnchangedOverwrites(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def put(self, path: str, data: Any, **options: Any) -> Any:
                if isinstance(options.get("mode"), dict):
                    options["mode"] = "overwrite"
                return self._store.put(path, data, **options)


@mutant("No conditional put ever succeeds.", caught_by=("S-OBJ-02",))
class NobodyWins(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def put(self, path: str, data: Any, **options: Any) -> Any:
                if "mode" in options:
                    raise NotImplementedError("no conditions here")
                return self._store.put(path, data, **options)


@mutant("A byte that was changed on the way is not noticed.", caught_by=("S-OBJ-03",))
class DamageUnnoticed(ReferenceKit):
    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        return {**super().hands(), Hand.DAMAGE: hands_of(self.cloud, is_checked=False)[Hand.DAMAGE]}


@mutant("The store of the prefix a/ shows what is below ab/, too.", caught_by=("S-OBJ-04",))
class StoreOfThePrefixShowsItsNeighbour(ReferenceKit):
    class Storage(FakeStorageDriver):
        def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
            store = super().objects(bucket, prefix, owner=owner)
            root = super().objects(bucket, owner=owner)
            return Neighbourly(store, root, prefix.strip("/")) if prefix.strip("/") else store


class Neighbourly(Spoilt):
    """A store that lists by the beginning of keys."""

    def __init__(self, store: Any, root: Any, prefix: str) -> None:
        super().__init__(store)
        self._root, self._prefix = root, prefix

    def list(self, prefix: str | None = None, **options: Any) -> Iterator[Page]:
        if prefix is not None or options:
            yield from self._store.list(prefix, **options)
            return
        for page in self._root.list():
            found = [meta for meta in page if meta["path"].startswith(self._prefix)]
            yield [{**meta, "path": meta["path"].removeprefix(f"{self._prefix}/")} for meta in found]


@mutant("The store of a prefix is the whole bucket.", caught_by=("S-OBJ-04", "S-OBJ-01"))
class PrefixIgnored(ReferenceKit):
    class Storage(FakeStorageDriver):
        def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
            return super().objects(bucket, owner=owner)


@mutant("A listing with a delimiter goes on behind it.", caught_by=("S-OBJ-04",))
class ListingCrossesTheDelimiter(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def list_with_delimiter(self, prefix: str | None = None) -> Any:
                found = self._store.list_with_delimiter(prefix)
                objects = [meta for page in self._store.list(prefix) for meta in page]
                return {"objects": objects, "common_prefixes": found["common_prefixes"]}


@mutant("A listing with a delimiter forgets the prefixes.", caught_by=("S-OBJ-04",))
class PrefixesForgotten(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def list_with_delimiter(self, prefix: str | None = None) -> Any:
                return {"objects": self._store.list_with_delimiter(prefix)["objects"], "common_prefixes": []}


class Rewritten(Spoilt):
    """A store that rewrites keys on their way in."""

    def put(self, path: str, data: Any, **options: Any) -> Any:
        return self._store.put(self._rewritten(path), data, **options)

    def _rewritten(self, path: str) -> str:
        raise NotImplementedError


@mutant("A double slash is folded into one: two keys become one object.", caught_by=("S-OBJ-05",))
class DoubleSlashFolded(ReferenceKit):
    class Storage(Opening):
        class Kind(Rewritten):
            def _rewritten(self, path: str) -> str:
                return path.replace("//", "/")


@mutant("Keys are quoted on their way in and not on their way out.", caught_by=("S-OBJ-05",))
class KeysAreQuotedTwice(ReferenceKit):
    class Storage(Opening):
        class Kind(Rewritten):
            def _rewritten(self, path: str) -> str:
                return path.replace(" ", "%20")


@mutant("Keys are told apart without regard to case.", caught_by=("S-OBJ-05",))
class KeysWithoutCase(ReferenceKit):
    class Storage(Opening):
        class Kind(Rewritten):
            def _rewritten(self, path: str) -> str:
                return path.lower()

            def get(self, path: str) -> Any:
                return self._store.get(path.lower())

            def head(self, path: str) -> Any:
                return self._store.head(path.lower())


@mutant("A plus in a key becomes a blank.", caught_by=("S-OBJ-05",))
class PlusIsABlank(ReferenceKit):
    class Storage(Opening):
        class Kind(Rewritten):
            def _rewritten(self, path: str) -> str:
                return path.replace("+", " ")


class Listing(Spoilt):
    """A store that spoils the pages of its listings."""

    def list(self, prefix: str | None = None, **options: Any) -> Iterator[Page]:
        yield from self._spoilt([*self._store.list(prefix, **options)])

    def _spoilt(self, pages: Pages) -> Pages:
        raise NotImplementedError


@mutant("A listing ends with its first page.", caught_by=("S-OBJ-06",))
class ListingStopsAfterAPage(ReferenceKit):
    class Storage(Opening):
        class Kind(Listing):
            def _spoilt(self, pages: Pages) -> Pages:
                return pages[:1]


@mutant("The last entry of a page comes again as the first of the next.", caught_by=("S-OBJ-06",))
class ListingRepeatsAtBorders(ReferenceKit):
    class Storage(Opening):
        class Kind(Listing):
            def _spoilt(self, pages: Pages) -> Pages:
                return [(pages[at - 1][-1:] if at else []) + page for at, page in enumerate(pages)]


@mutant("A listing has no order.", caught_by=("S-OBJ-06",))
class ListingWithoutOrder(ReferenceKit):
    class Storage(Opening):
        class Kind(Listing):
            def _spoilt(self, pages: Pages) -> Pages:
                return [page[::-1] for page in pages]


@mutant("An upload that is cut short leaves what had arrived as an object.", caught_by=("S-OBJ-07",))
class HalfAnObject(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def put(self, path: str, data: Any, **options: Any) -> Any:
                if isinstance(data, bytes):
                    return self._store.put(path, data, **options)
                arrived = b""
                try:
                    for piece in data:
                        arrived += piece
                finally:
                    self._store.put(path, arrived)
                return None


@mutant("The parts of an upload that is cut short stay in the bucket.", caught_by=("S-OBJ-07",))
class PartsLeftBehind(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def put(self, path: str, data: Any, **options: Any) -> Any:
                try:
                    return self._store.put(path, data, **options)
                except RuntimeError:
                    root = self._store._store if isinstance(self._store, Below) else self._store
                    root.put(f".uploads/{path}/1", b"part")
                    raise

            def list(self, prefix: str | None = None, **options: Any) -> Iterator[Page]:
                for page in self._store.list(prefix, **options):
                    yield [meta for meta in page if not meta["path"].startswith(".uploads")]


@mutant("Reading beyond the end brings nothing, without an error.", caught_by=("S-OBJ-08",))
class BeyondTheEndIsEmpty(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def get_range(self, path: str, *, start: int, length: int) -> bytes:
                return bytes(self._store.get(path).bytes())[start : start + length]


@mutant("A range that reaches beyond the end is filled up.", caught_by=("S-OBJ-08",))
class RangesAreFilledUp(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def get_range(self, path: str, *, start: int, length: int) -> bytes:
                return bytes(self._store.get_range(path, start=start, length=length)).ljust(length, b"\0")


@mutant("Deleting an object that is not there raises NotFoundError.", caught_by=("S-OBJ-09",))
class DeletingTheAbsentRaises(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def delete(self, paths: str | list[str]) -> None:
                there = {meta["path"] for page in self._store.list() for meta in page}
                for path in [paths] if isinstance(paths, str) else paths:
                    if path not in there:
                        raise NotFoundError(path)
                    self._store.delete(path)


@mutant("A delete of many stops at the first that is not there, and says nothing.", caught_by=("S-OBJ-09",))
class DeleteStopsAtTheAbsent(ReferenceKit):
    class Storage(Opening):
        class Kind(Spoilt):
            def delete(self, paths: str | list[str]) -> None:
                there = {meta["path"] for page in self._store.list() for meta in page}
                for path in [paths] if isinstance(paths, str) else paths:
                    if path not in there:
                        return
                    self._store.delete(path)
