"""The conformance kit of this provider. Its oracle reads the state folder and /proc by itself, past the drivers.

Nothing of the plugin imports this module; ``anyscale-conformance run --provider local`` finds it by its entry point.
"""

import errno
import json
import os
import pwd
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from anyscale_conformance.kit import Item, Kit, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError
from anyscale_core.models.identity import IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_local.config import MARKER_VARIABLE, STATE_VARIABLE
from anyscale_local.errors import TRANSLATE, translated
from anyscale_local.grants import GrantRecord, Grants
from anyscale_local.identity import LocalIdentity
from anyscale_local.state import State

SHELVES = {
    "bucket-records": "bucket",
    "endpoints": "endpoint",
    "grants": "grant",
    "identities": "identity",
    "networks": "network",
}
"""Folders of records in the state folder, and what lies in them."""

EXEC_S = 1.0
"""The longest that a process is without an environment because it is becoming another program, on a busy machine."""


class FolderOracle:
    """Looks at files and processes, not at what the drivers say."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._homes: dict[str, Mapping[str, str]] = {}

    def inventory(self) -> Iterator[Item]:
        """Yield every record, folder and process of the state folder, whoever owns it."""
        records = {path.parent.name: _json(path) for path in self._state.glob("instances/*/record.json")}
        alive = self._settled(records)
        for id, record in records.items():
            tags = record.get("tags", {})
            self._homes[record["base"]] = tags
            lives = "running" if id in alive else "stopped" if record.get("let_go") else "pending"
            state = "deleting" if record.get("deleting") else lives
            detail = {"type": record["instance_type"], "address": record["address"]}
            yield Item(kind="instance", id=id, name=record["name"], tags=tags, state=state, detail=detail)
        for id in sorted(alive):
            yield Item(kind="process", id=id, tags=records.get(id, {}).get("tags", {}))
        for home, tags in self._homes.items():
            if Path(home).exists():
                yield Item(kind="home", id=home, tags=tags)
        for path in sorted(self._state.glob("volumes/*")):
            yield Item(kind="volume", id=path.name)
        for shelf, kind in SHELVES.items():
            for path in sorted(self._state.glob(f"{shelf}/*.json")):
                record = _json(path)
                detail = {key: str(value) for key, value in record.items() if key not in ("name", "tags", "token")}
                id, state = record.get("identity", path.stem), record.get("access", "")
                if kind == "bucket":
                    detail["public"] = "yes" if Path(record["path"]).stat().st_mode & 0o007 else "no"
                if kind == "endpoint":
                    state = _answers(record["address"], record["port"])
                yield Item(kind=kind, id=id, name=record["name"], tags=record["tags"], state=state, detail=detail)
        if (theirs := self._state.parent / "theirs").exists():
            yield Item(kind="foreign folder", id=str(theirs))
        for path in sorted(self._state.glob("buckets/*")):
            files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
            yield Item(kind="bucket folder", id=path.name, detail={"files": " ".join(files)}, tags=self._tags_of(path))

    def stop(self, name: str) -> None:
        """Kill every process of the instance of that name."""
        ids = {item.id for item in self.inventory() if item.kind == "instance" and item.name == name}
        while pids := [pid for id, pids in self._alive().items() if id in ids for pid in pids]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def double(self, name: str) -> None:
        """Let a second instance of that name and those tags exist, as a lost token leaves behind; it does not run."""
        path, record = next(
            (path, record)
            for path in self._state.glob("instances/*/record.json")
            if (record := _json(path)).get("name") == name
        )
        twin = path.parent.with_name(f"{path.parent.name[:-4]}twin")
        (twin / "home").mkdir(parents=True, mode=0o700)
        changed = {"id": twin.name, "base": str(twin), "token": f"{record['token']}x", "pid": 0, "started": 0}
        (twin / "record.json").write_text(json.dumps(record | changed))

    def _settled(self, records: Mapping[str, dict[str, Any]]) -> Mapping[str, list[int]]:
        """Return the processes that live, once none of those recorded is in the middle of an exec, when it has no marks."""
        end = time.monotonic() + EXEC_S
        while True:
            alive = self._alive()
            unmarked = [id for id, record in records.items() if id not in alive and _lives(record.get("pid", 0))]
            if not unmarked or time.monotonic() > end:
                return alive
            time.sleep(0.002)

    def _alive(self) -> Mapping[str, list[int]]:
        """Return the processes that live by instance id, as the marks in their environments tell."""
        found: dict[str, list[int]] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                zombie = "\nState:\tZ" in (entry / "status").read_text()
            except OSError:
                continue
            variables = dict(word.partition("=")[::2] for word in environment)
            if variables.get(STATE_VARIABLE) == str(self._state) and not zombie:
                found.setdefault(Path(variables.get(MARKER_VARIABLE, "")).name, []).append(int(entry.name))
        return found

    def _tags_of(self, folder: Path) -> Mapping[str, str]:
        records = (_json(path) for path in self._state.glob("bucket-records/*.json"))
        return next((record["tags"] for record in records if record.get("path") == str(folder)), {})


class LocalKit(Kit):
    """This machine, in a state folder of the run's own; an instance is a process that sleeps."""

    name = "local"
    patience = timedelta(seconds=10)
    many = 3
    reads_environment = frozenset({"LANG", "PATH", "TMPDIR", STATE_VARIABLE})

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        self.state = scope.home / "local"
        self._oracle = FolderOracle(self.state)
        self._head = socket.create_server(("127.0.0.1", 0))
        """What an endpoint leads to: somebody listens, nobody answers."""
        self._limit = 100

    def config(self) -> DriverConfig:
        return attrs.evolve(super().config(), settings={"command": ["sleep", "300"], "max_instances": self._limit})

    def samples(self) -> Samples:
        owner = self.scope.owner
        bootstrap = Bootstrap(
            url="https://127.0.0.1:1", ca_pem="", node_id=NodeId("sample"), join_token=Secret("sample"),
            identity_provider="local",
        )  # fmt: skip
        instance = InstanceSpec(
            name="sample", node_id=NodeId("sample"), owner=owner, kind=NodeKind.WORKER, group="workers",
            instance_type="local.1cpu", bootstrap=bootstrap,
        )  # fmt: skip
        address, port = self._head.getsockname()
        endpoint = EndpointSpec(name="sample", owner=owner, network="", target_address=address, target_port=port)
        return Samples(
            instance=instance, identity=IdentitySpec(name="sample", owner=owner), bucket=BucketSpec(name="sample"),
            network=NetworkSpec(name="sample"), endpoint=endpoint,
        )  # fmt: skip

    def oracle(self) -> FolderOracle:
        return self._oracle

    def wire_codes(self) -> Iterator[WireCode]:
        for number, meaning in TRANSLATE.items():
            yield WireCode(
                code=errno.errorcode[number],
                category=meaning.error,
                reason=meaning.reason,
                translate=partial(_told, number),
            )

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        return {
            Hand.OFFER: self._offer,
            Hand.STOP: self._oracle.stop,
            Hand.SHARE: self._share,
            Hand.FOREIGN_PROOF: self._foreign_proof,
            Hand.LIMIT: self._let_there_be,
            Hand.ADD_DUPLICATE: self._oracle.double,
        }

    def close(self) -> None:
        self._head.close()

    def _share(self, bucket: str, prefix: str) -> None:
        """Remember a grant of somebody else's, as another control plane of this user would."""
        record = GrantRecord(
            name=f"{bucket}/{prefix}", tags=self.scope.stranger.tags(), token="theirs", bucket=bucket,
            identity="somebody-else", access="read",
        )  # fmt: skip
        Grants(State(self.state, self.clock)).add(record)

    def _foreign_proof(self, audience: str, subject: str) -> Proof:
        """Prove by the key of another machine: the one of another state folder."""
        config = attrs.evolve(self.config(), home=self.scope.home / "elsewhere")
        deadline = self.clock.now() + timedelta(minutes=1)
        return LocalIdentity(config).prove(audience, subject=subject, deadline=deadline)

    def _let_there_be(self, instances: int) -> None:
        self._limit = instances

    def _offer(self, kind: str) -> str:
        """Return what can be adopted: loopback, a folder made for it, or the user that this runs as."""
        folder = self.state.parent / "theirs"
        if kind == "bucket":
            folder.mkdir(exist_ok=True)
        user = pwd.getpwuid(os.getuid()).pw_name
        return {
            "network": "lo",
            "identity": user,
            "bucket": folder.as_uri(),
            "no bucket": f"{folder.as_uri()}-not",
        }.get(kind, "conformance-no-such")


def _lives(pid: int) -> bool:
    try:
        return bool(pid) and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _answers(address: str, port: int) -> str:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return "pending"
    return "ready"


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return found


def _told(number: int) -> CloudError:
    try:
        with translated():
            raise OSError(number, os.strerror(number))
    except CloudError as error:
        return error
