"""What the drivers remember: JSON records in one folder, tokens, and the lock that orders those who change them.

Every record is written whole or not at all (a rename), so a reader needs no lock and a crash leaves no half of one.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from anyscale_core.clock import Clock
from anyscale_core.errors import AlreadyExists, Applied, Conflict, DeadlineExceeded, Fault, InvalidRequest, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cluster import NAME
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.owner import RESERVED_TAGS, TAG_CLOUD, TAG_CLUSTER, TAG_PLANE, Owner

LOCK_WAIT_S = 10.0
"""No change holds the lock for longer than it takes to spawn a batch; whoever waits this long looks at a hung process."""

LOCK_POLL_S = 0.002

R = TypeVar("R", bound="Record")
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Record:
    """What any record has: its name, the tags of its owner, and the token that made it."""

    name: str
    tags: dict[str, str]
    token: str

    def owner(self) -> Owner:
        """Return whose it is."""
        cluster = self.tags.get(TAG_CLUSTER)
        return Owner(
            plane=PlaneId(self.tags[TAG_PLANE]),
            cloud=CloudName(self.tags[TAG_CLOUD]),
            cluster=None if cluster is None else ClusterId(cluster),
        )


@attrs.frozen(kw_only=True)
class Claim:
    """What a token stands for: the fingerprint of what it asked for, and which of the names it made are deleted."""

    fingerprint: str
    spent: tuple[str, ...] = ()


class Shelf(Generic[R]):
    """Records of one kind: one file each, named after a digest of its key."""

    def __init__(self, folder: Path, cls: type[R]) -> None:
        self._folder = folder
        self._cls = cls

    def read(self, key: str) -> R | None:
        """Return the record, or None when there is none."""
        return read_record(self._path(key), self._cls)

    def write(self, key: str, record: R) -> None:
        """Put a record in its place, whole."""
        write_record(self._path(key), record)

    def remove(self, key: str) -> None:
        """Take a record away; there may be none."""
        self._path(key).unlink(missing_ok=True)

    def all(self) -> tuple[R, ...]:
        """Return every record, by name. One that goes meanwhile is left out."""
        if not self._folder.exists():
            return ()
        found = (read_record(path, self._cls) for path in self._folder.glob("*.json"))
        return tuple(sorted((record for record in found if record is not None), key=lambda record: record.name))

    def _path(self, key: str) -> Path:
        return self._folder / f"{digest(key)}.json"


class State:
    """The state folder of this machine. ``path`` is made on first use, for this user alone."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    @contextmanager
    def lock(self, deadline: datetime) -> Iterator[None]:
        """Keep every other thread and process that changes the state out of the block.

        Raises Conflict(BUSY) when another holds it for long, DeadlineExceeded(REQUEST) when the deadline comes first.
        """
        private_folder(self.path)
        # Each holder opens the file itself: flock then tells threads apart as it does processes.
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(handle, deadline)
            try:
                yield
            finally:
                # Not left to close(): a process forked meanwhile shares the handle, and the lock with it.
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)

    def shelf(self, kind: str, cls: type[R]) -> Shelf[R]:
        """Return the shelf of one kind of records."""
        return Shelf(self.path / kind, cls)

    def claim(self, slot: str, token: Token, *, owner: Owner, fingerprint: str) -> Claim:
        """Return what is known of a token. Raises Conflict(TOKEN_MISMATCH) when it has asked for something else before."""
        claim = read_record(self._claim_path(slot, token, owner), Claim) or Claim(fingerprint=fingerprint)
        if claim.fingerprint != fingerprint:
            raise Conflict(
                "the token was used before with another spec",
                reason="TOKEN_MISMATCH",
                hint="mint a new token for a new request",
            )
        return claim

    def remember(self, slot: str, token: Token, claim: Claim, *, owner: Owner) -> None:
        """Store what a token stands for, before anything is made in its name."""
        write_record(self._claim_path(slot, token, owner), claim)

    def spend(self, slot: str, record: Record) -> None:
        """Mark, before a thing is deleted, that the token which made it will not make it again."""
        token, owner = Token(record.token), record.owner()
        claim = read_record(self._claim_path(slot, token, owner), Claim) or Claim(fingerprint="")
        if record.name not in claim.spent:
            self.remember(slot, token, attrs.evolve(claim, spent=(*claim.spent, record.name)), owner=owner)

    def settle(
        self, slot: str, shelf: Shelf[R], key: str, *, name: str, owner: Owner, token: Token, fingerprint: str
    ) -> R | None:
        """Return what this token has made already, or None, with the token stored, when it is to be made now.

        Raises Conflict (TOKEN_MISMATCH, TOKEN_SPENT) and AlreadyExists (OWNED, FOREIGN), with nothing changed.
        """
        claim = self.claim(slot, token, owner=owner, fingerprint=fingerprint)
        if name in claim.spent:
            raise token_spent(name)
        record = shelf.read(key)
        if record is None:
            self.remember(slot, token, claim, owner=owner)
            return None
        if record.token == token and same_cloud(owner, record.tags):
            return record
        raise already_exists(name, owner=owner, tags=record.tags)

    def _acquire(self, handle: int, deadline: datetime) -> None:
        budget_s = (deadline - self._clock.now()).total_seconds()
        end = time.monotonic() + min(budget_s, LOCK_WAIT_S)
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= end:
                break
            time.sleep(LOCK_POLL_S)  # flock has no timeout, and a deadline must hold even when the holder is stopped
        if budget_s < LOCK_WAIT_S:
            raise DeadlineExceeded(
                "the state folder was locked until the deadline", reason="REQUEST", applied=Applied.NO
            )
        raise Conflict(
            f"another process has held the lock of {self.path} for {LOCK_WAIT_S:.0f} s",
            reason="BUSY",
            hint="see whether a control plane on this machine hangs",
        )

    def _claim_path(self, slot: str, token: Token, owner: Owner) -> Path:
        return self.path / "tokens" / f"{digest(slot, owner.plane, owner.cloud, token)}.json"


def read_record(path: Path, cls: type[T]) -> T | None:
    """Return the record in a file, or None when there is none. Raises SpecError, naming the file, for what is not one."""
    try:
        body = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return wire.structure(json.loads(body), cls, subject=str(path))
    except ValueError as error:
        raise SpecError([Fault(path="", message=str(error))], subject=str(path)) from error


def write_record(path: Path, record: object) -> None:
    """Put a record in its place, whole or not at all, for this user alone."""
    private_folder(path.parent)
    write_private(path, json.dumps(wire.unstructure_revealed(record)).encode())


def write_private(path: Path, body: bytes) -> None:
    """Write a file that this user alone may read, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(body)
    os.replace(part, path)


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, for this user alone."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def remove_tree(path: Path) -> None:
    """Delete a folder with all that is in it; there may be none. Raises OSError for what cannot be deleted."""

    def unless_gone(_: object, __: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    shutil.rmtree(path, onerror=unless_gone)


def digest(*parts: str) -> str:
    """Return a short digest of a few words: safe in a path, and the same in every process."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def fingerprint(*values: object) -> str:
    """Return a digest of what was asked for; secrets are in it and cannot be read from it."""
    plain = [wire.unstructure_revealed(value) for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def check_name(name: str, kind: str) -> None:
    """Raise InvalidRequest(NAME) for what cannot be a name here."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be the name of {kind}",
            reason="NAME",
            hint="up to 63 of a-z, 0-9 and '-', a letter first, no '-' at the end",
        )


def tagged(tags: Mapping[str, str], owner: Owner) -> dict[str, str]:
    """Return the tags of a thing: the user's, without what looks like ours, then the owner's."""
    return {key: value for key, value in tags.items() if key not in RESERVED_TAGS} | owner.tags()


def same_cloud(owner: Owner, tags: dict[str, str]) -> bool:
    """Tell whether a record is of the owner's cloud, whatever cluster it is of."""
    return attrs.evolve(owner, cluster=None).owns(tags)


def already_exists(name: str, *, owner: Owner, tags: dict[str, str]) -> AlreadyExists:
    """Return the error for a name that another request took."""
    if same_cloud(owner, tags):
        return AlreadyExists(f"{name} exists, made by another request", reason="OWNED", resource=name, hint="list it")
    return AlreadyExists(
        f"{name} exists and belongs to another cloud", reason="FOREIGN", resource=name, hint="choose another name"
    )


def token_spent(name: str) -> Conflict:
    """Return the error for a token whose result is deleted."""
    return Conflict(
        f"what this token made, {name}, has been deleted",
        reason="TOKEN_SPENT",
        resource=name,
        hint="mint a new token to make it again",
    )
