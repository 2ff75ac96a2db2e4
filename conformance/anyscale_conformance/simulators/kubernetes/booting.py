"""Runs the containers of Pods as processes of this machine, or only plays them.

A process has no mount namespace of its own here. So each volume is a short folder of its own, and every mention of a
``mountPath`` in the command, the arguments and the values of the environment is rewritten to that folder: a program that finds
its files by what it is told finds them; one that has a path built in does not. Images are not looked at: a container needs a
command. All containers of a Pod share its loopback address (``status.podIP``, also ``ANYSCALE_CORE_ADDRESS``).
"""

import itertools
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from anyscale_conformance.simulators.boot import Machines
from anyscale_conformance.simulators.kubernetes import mounts
from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.tokens import Tokens
from anyscale_conformance.simulators.kubernetes.world import World


class Played:
    """Containers that run because nobody ends them. Their logs are what a hand has put there."""

    def __init__(self) -> None:
        self._addresses = (
            f"10.{244 + a}.{b}.{c}" for a, b, c in itertools.product(range(12), range(256), range(1, 255))
        )
        self.logs: dict[str, str] = {}

    def address(self) -> str:
        """Return an address of the Pods' network; nothing is there."""
        return next(self._addresses)

    def start(self, pod: Entry, container: Mapping[str, Any]) -> None:
        """Nothing is to be done."""

    def stop(self, pod: Entry) -> bool:  # noqa: ARG002
        """Return that it has ended: nothing ran."""
        return True

    def remove(self, uid: str) -> None:
        """Forget a Pod's log."""
        self.logs.pop(uid, None)

    def log(self, pod: Entry) -> str:
        """Return the log that was put there."""
        return self.logs.get(pod.uid, "")

    def ended(self) -> list[tuple[str, str, int]]:
        """Return nothing: by itself none ends."""
        return []

    def close(self) -> None:
        """Nothing is to be done."""


@attrs.define(kw_only=True)
class _Running:
    """One container's process: its machine's id, and the name it goes by."""

    id: str
    container: str
    is_told: bool = False


class Booted:
    """Containers that are processes."""

    def __init__(self, world: World, tokens: Tokens) -> None:
        self._world, self._tokens = world, tokens
        self._machines = Machines()
        self._folders: dict[str, Path] = {}
        self._disks: dict[str, Path] = {}
        self._running: dict[str, list[_Running]] = {}
        self._ids = itertools.count()
        self._logs: dict[str, str] = {}

    def address(self) -> str:
        """Return a loopback address that no other Pod of this process has."""
        return self._machines.address()

    def start(self, pod: Entry, container: Mapping[str, Any]) -> None:
        """Start a container's process. Raises OSError for a container without a command, and when it cannot be run."""
        folders = self._mounted(pod, container)
        variables = {
            name: _rewritten(value, folders) for name, value in mounts.variables(self._world, pod, container).items()
        }
        words = [
            _rewritten(mounts.expand(word, variables), folders)
            for word in (*container.get("command", ()), *container.get("args", ()))
        ]
        if not container.get("command"):
            raise OSError(f"container {container['name']} has no command, and images are not looked at here")
        running = _Running(id=f"{pod.uid}/{next(self._ids)}", container=container["name"])
        address = pod.obj["status"]["podIP"]
        self._machines.boot(running.id, words, address=address, environment={"HOSTNAME": pod.name} | variables)
        self._running.setdefault(pod.uid, []).append(running)

    def stop(self, pod: Entry) -> bool:
        """Send SIGTERM to each container's first process, once; return whether all have ended."""
        left = False
        for running in self._running.get(pod.uid, ()):
            process = self._machines.process(running.id)
            if process is None or process.poll() is not None:
                continue
            left = True
            if not running.is_told:
                running.is_told = True
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
        return not left

    def remove(self, uid: str) -> None:
        """Kill what is left of a Pod and take its disk away."""
        for running in self._running.pop(uid, ()):
            self._machines.remove(running.id)
        self._logs.pop(uid, None)
        folder = self._folders.pop(uid, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def log(self, pod: Entry) -> str:
        """Return what a Pod's containers have printed since they were last started, or before they ended."""
        alive = "".join(self._machines.console(running.id) for running in self._running.get(pod.uid, ()))
        return alive or self._logs.get(pod.uid, "")

    def ended(self) -> list[tuple[str, str, int]]:
        """Return what has ended since the last look; whatever a container's first process leaves behind is killed with it."""
        found = []
        for uid, all in self._running.items():
            for running in tuple(all):
                process = self._machines.process(running.id)
                code = process.poll() if process is not None else None
                if code is not None:
                    self._logs[uid] = self._machines.console(running.id)
                    self._machines.remove(running.id)
                    all.remove(running)
                    found.append((uid, running.container, code if code >= 0 else 128 - code))
        return found

    def close(self) -> None:
        """End everything."""
        for uid in {*self._running, *self._folders}:
            self.remove(uid)
        self._machines.close()
        for disk in self._disks.values():
            shutil.rmtree(disk, ignore_errors=True)

    def _mounted(self, pod: Entry, container: Mapping[str, Any]) -> dict[str, Path]:
        """Return the folder of each mount of a container; the volumes are written when they are first needed."""
        root = self._folders.get(pod.uid)
        if root is None:
            # Short: Ray's sockets may lie in it, and their paths end at 107.
            root = self._folders[pod.uid] = Path(tempfile.mkdtemp(prefix="k-"))
            for index, volume in enumerate(pod.obj["spec"].get("volumes", ())):
                self._write(root / str(index), mounts.files(self._world, self._tokens, pod, volume))
        places = {
            volume["name"]: self._disk(pod, volume) or root / str(index)
            for index, volume in enumerate(pod.obj["spec"].get("volumes", ()))
        }
        return {
            mount["mountPath"].rstrip("/"): places[mount["name"]] / mount.get("subPath", "")
            for mount in container.get("volumeMounts", ())
        }

    def _disk(self, pod: Entry, volume: Mapping[str, Any]) -> Path | None:
        """Return the folder of a claim's disk, which outlives its Pods; None for what is no claim."""
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        claim = self._world.get("persistentvolumeclaims", pod.namespace, name) if name else None
        if claim is None:
            return None
        if claim.uid not in self._disks:
            self._disks[claim.uid] = Path(tempfile.mkdtemp(prefix="k-"))
        return self._disks[claim.uid]

    def _write(self, folder: Path, files: Mapping[str, bytes]) -> None:
        folder.mkdir(mode=0o700)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)


def _rewritten(text: str, folders: Mapping[str, Path]) -> str:
    """Return a text in which every mount is named by its folder; the longest path counts."""
    for mount in sorted(folders, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(mount)}(?![\w.-])", str(folders[mount]), text)
    return text
