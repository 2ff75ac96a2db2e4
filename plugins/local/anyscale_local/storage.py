"""StorageDriver: a bucket is a folder, an object a file. Rights are this user's: a grant opens a folder and fences none."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.storage import ObjectStore, StorageDriver
from anyscale_core.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unsupported
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec, Grant, StoreAccess, UrlMethod
from anyscale_local.config import read_settings, state_folder
from anyscale_local.errors import check_deadline, translated
from anyscale_local.grants import GrantRecord, Grants
from anyscale_local.state import Record, State, check_name, digest, fingerprint, private_folder, tagged


@attrs.frozen(kw_only=True)
class BucketRecord(Record):
    """A bucket as it is remembered: its folder, and whether it was there before."""

    path: str
    adopted: bool


class LocalStorage(StorageDriver):
    """Buckets on this machine's disk."""

    provider = "local"

    def __init__(self, config: DriverConfig) -> None:
        self._clock = config.clock
        self._state = State(state_folder(config, read_settings(config)), config.clock)
        self._shelf = self._state.shelf("bucket-records", BucketRecord)
        self._grants = Grants(self._state)

    def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "a bucket")
        _refuse_unsupported(spec)
        with translated(resource=spec.name), self._state.lock(deadline):
            path = self._state.path / "buckets" / spec.name if spec.adopt is None else self._adoptable(spec.adopt)
            record = self._state.settle(
                self.slot,
                self._shelf,
                spec.name,
                name=spec.name,
                owner=owner,
                token=token,
                fingerprint=fingerprint(spec),
            )
            if record is None:
                tags = tagged(spec.tags, owner)
                adopted = spec.adopt is not None
                record = BucketRecord(name=spec.name, tags=tags, token=token, path=str(path), adopted=adopted)
                self._shelf.write(spec.name, record)
            if not record.adopted:
                private_folder(Path(record.path))
            return _show(record)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Bucket:
        check_deadline(deadline, self._clock)
        with translated(resource=name):
            return _show(self._read(name, owner))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Bucket, ...]:
        check_deadline(deadline, self._clock)
        with translated():
            return tuple(_show(record) for record in self._shelf.all() if owner.owns(record.tags))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with translated(resource=name), self._state.lock(deadline):
            record = self._shelf.read(name)
            if record is None or not owner.owns(record.tags):
                return Deletion.ALREADY_ABSENT
            if not record.adopted:
                _remove_empty(Path(record.path), name)
            self._grants.drop(lambda grant: grant.bucket == name)
            self._state.spend(self.slot, record)
            self._shelf.remove(name)
            return Deletion.GONE

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        """Remember a grant and return how to reach its prefix. Its folder is made, so ``from_url(url)`` needs no option."""
        check_deadline(deadline, self._clock)
        name = f"{bucket}/{prefix}"
        with translated(resource=bucket), self._state.lock(deadline):
            path = self._open(bucket, prefix, owner)
            claim = self._state.claim("grant", token, owner=owner, fingerprint=digest(name, identity, access.value))
            self._state.remember("grant", token, claim, owner=owner)
            record = GrantRecord(
                name=name, tags=owner.tags(), token=token, bucket=bucket, identity=identity, access=access.value
            )
            self._grants.add(record)
        store = StoreAccess(url=_url(path))
        return Grant(bucket=bucket, prefix=prefix, identity=identity, access=access, store=store)

    def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with translated(resource=bucket), self._state.lock(deadline):
            dropped = self._grants.drop(
                lambda grant: (
                    (grant.name, grant.identity) == (f"{bucket}/{prefix}", identity) and owner.owns(grant.tags)
                )
            )
            return Deletion.GONE if dropped else Deletion.ALREADY_ABSENT

    def objects(self, bucket: str, prefix: str = "", *, owner: Owner) -> ObjectStore:
        from anyscale_local.objects import Folder

        with translated(resource=bucket):
            return Folder.of(self._open(bucket, prefix, owner), Path(self._read(bucket, owner).path))

    def signed_url(
        self, bucket: str, key: str, *, method: UrlMethod, expires_in: timedelta, owner: Owner, deadline: datetime
    ) -> Secret[str]:
        del key, method, expires_in, owner  # it refuses whatever it is asked for
        check_deadline(deadline, self._clock)
        raise Unsupported(
            "a bucket here is a folder and no server stands in front of it",
            reason="storage.signed_urls",
            resource=bucket,
            hint="read it through objects()",
        )

    def _read(self, name: str, owner: Owner) -> BucketRecord:
        record = self._shelf.read(name)
        if record is None or not owner.owns(record.tags):
            raise NotFound(f"there is no bucket {name}", reason="RESOURCE", resource=name)
        return record

    def _open(self, bucket: str, prefix: str, owner: Owner) -> Path:
        """Return the folder of a prefix, made for this user alone. Raises InvalidRequest for one that leads out."""
        root = Path(self._read(bucket, owner).path)
        path = root / _check_prefix(prefix)
        if not path.resolve().is_relative_to(root.resolve()):
            raise InvalidRequest(f"the prefix {prefix!r} leads out of {bucket}", reason="FIELD", hint="remove the link")
        return private_folder(path)

    def _adoptable(self, url: str) -> Path:
        """Return the folder that is to be adopted. It is looked at and not touched."""
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        if parts.scheme not in ("file", "") or parts.netloc or not path.is_absolute():
            raise InvalidRequest(
                f"{url!r} is not a folder of this machine", reason="FIELD", hint="adopt file:///an/absolute/path"
            )
        if not path.is_dir():
            raise NotFound(f"there is no folder {path}", reason="REFERENCE", resource=url)
        if path.resolve().is_relative_to(self._state.path.resolve()):
            raise InvalidRequest(f"{path} belongs to this provider", reason="FIELD", hint="adopt a folder of your own")
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionDenied(
                f"{path} cannot be read and written",
                reason="POLICY",
                resource=url,
                hint="let this user read and write it",
            )
        return path


def _show(record: BucketRecord) -> Bucket:
    path = Path(record.path)
    return Bucket(name=record.name, owner=record.owner(), url=_url(path), adopted=record.adopted, public=False)


def _url(path: Path) -> str:
    return f"file://{quote(str(path))}/"


def _check_prefix(prefix: str) -> str:
    """Return a prefix that stays inside its bucket. Raises InvalidRequest(FIELD)."""
    parts = prefix.split("/")
    plain = all(part not in ("", ".", "..") and "\0" not in part and "\\" not in part for part in parts[:-1])
    if parts[-1] or not plain:
        raise InvalidRequest(
            f"{prefix!r} is not a prefix",
            reason="FIELD",
            hint="names joined by '/' and a '/' at the end, none of them empty, '.' or '..'; or nothing at all",
        )
    return prefix


def _refuse_unsupported(spec: BucketSpec) -> None:
    if spec.expire_days:
        raise InvalidRequest(
            "files here do not expire", reason="UNSUPPORTED_VALUE", hint="set expire_days to 0 and delete them yourself"
        )
    if spec.cors_origins:
        raise InvalidRequest(
            "no server stands in front of a folder", reason="UNSUPPORTED_VALUE", hint="leave cors_origins out"
        )


def _remove_empty(path: Path, name: str) -> None:
    """Remove a bucket's folders. Raises Conflict(NOT_EMPTY), with nothing changed, when there is an object in it."""
    if any(files or _has_link(folder, folders) for folder, folders, files in os.walk(path)):
        raise Conflict(f"{name} is not empty", reason="NOT_EMPTY", resource=name, hint="delete its objects first")
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)  # an object that came meanwhile makes this fail, and stays


def _has_link(folder: str, folders: list[str]) -> bool:
    return any(os.path.islink(os.path.join(folder, name)) for name in folders)
