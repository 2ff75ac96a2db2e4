"""Machines of a simulated cloud that really run: each a session of processes with a loopback address of its own."""

import itertools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from anyscale_core.node.sessions import members, sweep


@attrs.frozen(kw_only=True)
class Machine:
    """One machine that was booted. ``folder`` holds its disk (``root``), its home, its temporary files and ``console.log``."""

    id: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] = attrs.field(repr=False)


class Machines:
    """Boots scripts and commands as local processes, one session a machine. Threads may share it; ``close`` ends all."""

    def __init__(self, *, python: str = sys.executable) -> None:
        self._python = Path(python)
        self._lock = threading.Lock()
        self._machines: dict[str, Machine] = {}
        self._addresses = _addresses()

    def address(self) -> str:
        """Return a loopback address that no other machine of this process has; what listens on it is the machine's own."""
        with self._lock:
            return next(self._addresses)

    def boot(
        self, id: str, command: Sequence[str] | str, *, address: str, environment: Mapping[str, str] | None = None
    ) -> Machine:
        """Start a machine: a script (as a string, run as a file) or the words of a command, in a clean environment.

        ``ANYSCALE_CORE_ROOT`` and ``ANYSCALE_CORE_ADDRESS`` are set as ``anyscale_core.drivers.startup`` reads them;
        ``environment`` adds to that (where the machine finds its metadata server). Raises OSError when it cannot start.
        """
        # Short, and below the temporary folder: Ray's sockets lie in the machine's root, and their paths end at 107.
        folder = Path(tempfile.mkdtemp(prefix="ac-"))
        for name in ("root", "home", "tmp"):
            (folder / name).mkdir(mode=0o700)
        if isinstance(command, str):
            script = folder / "script"
            script.write_text(command)
            script.chmod(0o700)
            command = [str(script)]
        with (folder / "console.log").open("wb") as console:
            process = subprocess.Popen(
                command, cwd=folder / "home", env=self._environment(folder, address) | dict(environment or {}),
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        machine = Machine(id=id, address=address, folder=folder, process=process)
        with self._lock:
            self._machines[id] = machine
        return machine

    def is_alive(self, id: str) -> bool:
        """Tell whether any process of a machine is left."""
        machine = self._machines.get(id)
        if machine is None:
            return False
        machine.process.poll()  # reaps it
        return bool(members(machine.process.pid))

    def process(self, id: str) -> subprocess.Popen[bytes] | None:
        """Return a machine's first process, None when there is no such machine."""
        machine = self._machines.get(id)
        return None if machine is None else machine.process

    def console(self, id: str) -> str:
        """Return what a machine has printed; empty when there is none."""
        machine = self._machines.get(id)
        return "" if machine is None else (machine.folder / "console.log").read_text(errors="replace")

    def stop(self, id: str) -> None:
        """Cut a machine's power: every process of its session is killed. Its disk stays."""
        machine = self._machines.get(id)
        if machine is not None:
            sweep(machine.process.pid)
            machine.process.poll()

    def remove(self, id: str) -> None:
        """Stop a machine and take its disk away. Nothing happens when there is none."""
        self.stop(id)
        with self._lock:
            machine = self._machines.pop(id, None)
        if machine is not None:
            machine.process.wait()
            shutil.rmtree(machine.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove every machine."""
        for id in tuple(self._machines):
            self.remove(id)

    def _environment(self, folder: Path, address: str) -> dict[str, str]:
        return {
            "PATH": os.pathsep.join((str(self._python.parent), "/usr/local/bin", "/usr/bin", "/bin")),
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "ANYSCALE_CORE_ROOT": str(folder / "root"),
            "ANYSCALE_CORE_ADDRESS": address,
        }


def _addresses() -> Iterator[str]:
    """Yield loopback addresses of a network drawn by chance, so that two simulators on one machine keep apart."""
    network, first = 1 + secrets.randbelow(254), secrets.randbelow(254)
    for third, fourth in itertools.cycle(itertools.product(range(first, first + 256), range(2, 255))):
        yield f"127.{network}.{third % 256}.{fourth}"
