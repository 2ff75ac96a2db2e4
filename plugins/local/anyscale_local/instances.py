"""Instances on disk and how one is started: a record first, then a gate that opens when the record is complete."""

import errno
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import attrs

from anyscale_core.models import wire
from anyscale_core.models.ids import InstanceId, NodeId, Token
from anyscale_core.models.instance import Bootstrap, Instance, InstanceSpec, InstanceState
from anyscale_core.models.owner import TAG_NAME, TAG_NODE, Owner
from anyscale_local import processes
from anyscale_local.config import INSTANCE_VARIABLE, MARKER_VARIABLE, STATE_VARIABLE, Settings
from anyscale_local.offerings import ZONE
from anyscale_local.processes import Session
from anyscale_local.state import (
    Record,
    State,
    digest,
    private_folder,
    read_record,
    remove_tree,
    write_private,
    write_record,
)

GATE = (
    'umask 077; read -r go || exit 1; [ "$go" = go ] || exit 1; '
    ': > "$1" || exit 1; cd "$2" || exit 1; shift 2; exec "$@" </dev/null'
)
"""Waits for a word on its input and becomes the instance. Whoever spawned it and died leaves the end of input: it exits."""

HOME_MAX = 38
"""Ray puts ``/<temp>/session_<time>_<pid>/sockets/plasma_store`` below an instance's home; a socket path ends at 107."""

HOSTS = 256 * 253
"""Addresses of one state folder: all of 127.a.*.2-254, for an ``a`` of its own."""

KEPT_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGCHLD", "SIGPIPE", "SIGXFSZ")
)
"""What a parent may ignore and an instance must not."""


@attrs.frozen(kw_only=True)
class InstanceRecord(Record):
    """An instance as it is remembered. ``pid`` and what follows are 0 or empty until it is spawned.

    ``base``: the folder of its home and temporary files. ``let_go``: its gate was opened. ``deleting``: never comes back.
    """

    id: str
    node_id: str
    instance_type: str
    network: str
    volume: str = ""
    address: str
    base: str
    created_at: datetime
    pid: int = 0
    started: int = 0
    boot: str = ""
    let_go: bool = False
    deleting: bool = False


class InstanceStore:
    """The instances of one state folder. Whoever calls ``add``, ``boot`` or ``remove`` holds the state's lock."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._settings = settings
        self._folder = state.path / "instances"
        self._gone = state.path / "gone"

    def read(self, id: str) -> InstanceRecord | None:
        """Return the record of an instance, or None."""
        if not id.startswith("i-") or not id[2:].isalnum():
            return None
        return read_record(self._record_path(id), InstanceRecord)

    def all(self) -> tuple[InstanceRecord, ...]:
        """Return every instance of the state folder, whoever owns it, by name."""
        if not self._folder.exists():
            return ()
        found = (self.read(entry) for entry in os.listdir(self._folder))
        return tuple(sorted((record for record in found if record is not None), key=lambda record: record.name))

    def add(self, spec: InstanceSpec, *, id: InstanceId, token: Token, now: datetime) -> InstanceRecord:
        """Record an instance that is about to be made."""
        tags = {**spec.tags, **spec.owner.tags(), TAG_NODE: spec.node_id, TAG_NAME: spec.name}
        address = self._free_address() if spec.volume is None else self._attach(spec.volume, spec.owner)
        record = InstanceRecord(
            name=spec.name,
            tags=tags,
            token=token,
            id=id,
            node_id=spec.node_id,
            instance_type=spec.instance_type,
            network=spec.network or "",
            volume=spec.volume or "",
            address=address,
            base=str(self._base(id)),
            created_at=now,
        )
        self.write(record)
        return record

    def boot(self, record: InstanceRecord, spec: InstanceSpec) -> InstanceRecord:
        """Start the one session of an instance, which is recorded before the session may do anything."""
        self._prepare(record, spec.bootstrap)
        read_end, write_end = os.pipe()
        try:
            pid = self._spawn(record, read_end)
            record = attrs.evolve(record, pid=pid, started=processes.started(pid), boot=processes.boot_id())
            self.write(record)
            os.write(write_end, b"go\n")
        finally:
            os.close(read_end)
            os.close(write_end)
        record = attrs.evolve(record, let_go=True)
        self.write(record)
        return record

    def booted(self, record: InstanceRecord) -> bool:
        """Tell whether an instance has begun its life: its gate was opened, seen from either side of it."""
        return record.let_go or self._booted_path(record).exists()

    def write(self, record: InstanceRecord) -> None:
        """Put the record of an instance in its place."""
        write_record(self._record_path(record.id), record)

    def remove(self, record: InstanceRecord) -> None:
        """Take away everything that an instance left on disk, its record at once and as a whole."""
        if record.base != str(self._path(record.id)):
            remove_tree(Path(record.base))
        private_folder(self._gone)
        os.rename(self._path(record.id), self._gone / f"{record.id}-{secrets.token_hex(4)}")
        self.sweep()

    def sweep(self) -> None:
        """Delete what processes left that died over it: folders of the deleted, and folders that have no record yet."""
        remove_tree(self._gone)
        for path in self._folder.iterdir() if self._folder.exists() else ():
            if not self._record_path(path.name).exists():
                remove_tree(path)

    def holder(self, volume: str, owner: Owner) -> InstanceRecord | None:
        """Return the instance that has a volume."""
        path = self._volume_path(owner, volume)
        held = (record for record in self.all() if record.volume)
        return next((record for record in held if self._volume_path(record.owner(), record.volume) == path), None)

    def remove_volume(self, volume: str, owner: Owner) -> bool:
        """Take a volume away; return whether there was one."""
        path = self._volume_path(owner, volume)
        if not path.exists():
            return False
        private_folder(self._gone)
        os.rename(path, self._gone / f"{path.name}-{secrets.token_hex(4)}")
        self.sweep()
        return True

    def session(self, record: InstanceRecord) -> Session:
        """Return how the processes of an instance are known."""
        marker = f"{MARKER_VARIABLE}={self._path(record.id)}"
        return Session(pid=record.pid, started=record.started, boot=record.boot, marker=marker)

    def show(self, record: InstanceRecord, sessions: dict[int, list[int]]) -> Instance:
        """Return an instance as it stands in this survey of the machine's sessions."""
        state = self._state_of(record, sessions)
        reason = (
            f"none of its processes is left; see {self._log_path(record)}" if state is InstanceState.STOPPED else ""
        )
        return Instance(
            id=InstanceId(record.id),
            name=record.name,
            node_id=NodeId(record.node_id),
            owner=record.owner(),
            instance_type=record.instance_type,
            state=state,
            zone=ZONE,
            address=record.address,
            created_at=record.created_at,
            reason=reason,
            tags=record.tags,
        )

    def _state_of(self, record: InstanceRecord, sessions: dict[int, list[int]]) -> InstanceState:
        if record.deleting:
            return InstanceState.DELETING
        if processes.living(self.session(record), sessions):
            return InstanceState.RUNNING
        return InstanceState.STOPPED if self.booted(record) else InstanceState.PENDING

    def _prepare(self, record: InstanceRecord, bootstrap: Bootstrap | None) -> None:
        base = Path(record.base)
        private_folder(base)
        if base.is_symlink() or base.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "the folder of the instance was made by somebody else", record.base)
        private_folder(base / "home")
        private_folder(base / "tmp")
        body = json.dumps(wire.unstructure_revealed(bootstrap))
        write_private(self._path(record.id) / "bootstrap.json", body.encode())

    def _spawn(self, record: InstanceRecord, read_end: int) -> int:
        blanks = {
            "{bootstrap}": str(self._path(record.id) / "bootstrap.json"),
            "{home}": str(Path(record.base) / "home"),
            "{name}": record.name,
            "{address}": record.address,
            "{volume}": str(self._volume_path(record.owner(), record.volume)) if record.volume else "",
        }
        words = [_fill(word, blanks) for word in self._settings.boot_command()]
        gate = ["sh", "-c", GATE, "sh", str(self._booted_path(record)), blanks["{home}"]]
        log, flags = str(self._log_path(record)), os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            "/bin/sh",
            [*gate, *words],
            self._environment(record),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_end, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=KEPT_SIGNALS,
        )

    def _environment(self, record: InstanceRecord) -> dict[str, str]:
        """Return a clean environment: a machine that has just booted knows nothing of the shell it was ordered from."""
        python = Path(shutil.which(self._settings.python or sys.executable) or sys.executable).absolute()
        environment = {
            "PATH": os.pathsep.join((str(python.parent), "/usr/local/bin", "/usr/bin", "/bin")),
            "HOME": str(Path(record.base) / "home"),
            "TMPDIR": str(Path(record.base) / "tmp"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            INSTANCE_VARIABLE: record.name,
            MARKER_VARIABLE: str(self._path(record.id)),
            STATE_VARIABLE: str(self._state.path),
        }
        if (python.parent.parent / "pyvenv.cfg").exists():
            environment["VIRTUAL_ENV"] = str(python.parent.parent)
        return environment

    def _base(self, id: str) -> Path:
        path = self._path(id)
        if len(str(path / "home")) <= HOME_MAX:
            return path
        return Path(tempfile.gettempdir()) / f"ac-{secrets.token_hex(5)}"

    def _attach(self, volume: str, owner: Owner) -> str:
        """Have a volume; return the address that goes with it: the one it had, if nobody has that now."""
        path = self._volume_path(owner, volume)
        private_folder(path.parent)
        private_folder(path)
        kept = read_record(path / "volume.json", VolumeRecord)
        if kept is not None and kept.address not in {record.address for record in self.all()}:
            return kept.address
        address = self._free_address()
        write_record(path / "volume.json", VolumeRecord(address=address))
        return address

    def _volume_path(self, owner: Owner, volume: str) -> Path:
        return self._state.path / "volumes" / digest(owner.plane, owner.cloud, volume)[:16]

    def _free_address(self) -> str:
        """Return a loopback address that no instance has, going round so that one is not used again soon."""
        path = self._state.path / "addresses.json"
        taken = {record.address for record in self.all()} | self._kept_addresses()
        counter = read_record(path, Counter) or Counter(next=0)
        network = 1 + int(digest(str(self._state.path)), 16) % 254
        for step in range(HOSTS):
            host = (counter.next + step) % HOSTS
            address = f"127.{network}.{host // 253}.{2 + host % 253}"
            if address not in taken:
                write_record(path, Counter(next=host + 1))
                return address
        raise OSError(errno.EADDRNOTAVAIL, "every loopback address of this state folder is taken")

    def _kept_addresses(self) -> set[str]:
        """Return the addresses of volumes: their next instance is to have them."""
        found = (read_record(path, VolumeRecord) for path in (self._state.path / "volumes").glob("*/volume.json"))
        return {record.address for record in found if record is not None}

    def _path(self, id: str) -> Path:
        return self._folder / id

    def _record_path(self, id: str) -> Path:
        return self._path(id) / "record.json"

    def _booted_path(self, record: InstanceRecord) -> Path:
        return self._path(record.id) / "booted"

    def _log_path(self, record: InstanceRecord) -> Path:
        return self._path(record.id) / "agent.log"


@attrs.frozen(kw_only=True)
class VolumeRecord:
    """What is remembered of a volume: the address of the instances that have it."""

    address: str


@attrs.frozen(kw_only=True)
class Counter:
    """Where the search for a free address goes on."""

    next: int


def mint_id(owner: Owner, token: Token, name: str) -> InstanceId:
    """Return the id of what this token makes under this name: the same in every process, never used for another."""
    return InstanceId(f"i-{digest(owner.plane, owner.cloud, token, name)[:16]}")


def _fill(word: str, blanks: dict[str, str]) -> str:
    for blank, value in blanks.items():
        word = word.replace(blank, value)
    return word
