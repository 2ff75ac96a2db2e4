"""Finds the control plane of a home, or starts one behind the scenes and waits until it is ready."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from anyscale_core.api.client import Client, Unreachable, read_connection
from anyscale_core.cli.failures import NotThere

READY = 30.0
"""Seconds that a control plane may take until it listens."""
STOPPED = 20.0
"""Seconds that it may take until it has ended."""
POLL = 0.05
WORDS = 5
"""Lines of its log that are shown when it did not get ready."""
LOG = "serve.log"
LOCK = "serve.lock"
"""Held by the control plane of a home for as long as it lives (``api.server``)."""


@attrs.frozen(kw_only=True)
class Plane:
    """A control plane that answers. ``process``: it was started here; None: it was running already."""

    home: Path
    client: Client
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def started(self) -> bool:
        """Whether it was started by this command."""
        return self.process is not None


def find(home: Path) -> Client | None:
    """Return a client of the control plane that runs on a home; None when none does."""
    connection = read_connection(home)
    if connection is None or not _alive(connection.pid):
        return None
    client = Client(connection.url, connection.token, connection.ca_pem)
    try:
        client.health()
    except Unreachable:
        return None
    return client


def connect(home: Path, *, say: Callable[[str], None]) -> Plane:
    """Return the control plane of a home; start one when none runs there.

    Raises NotThere when it ends, or is not ready in 30 s; the message ends with its log.
    """
    client = find(home)
    if client is not None:
        return Plane(home=home, client=client)
    say("starting the control plane")
    since = _log_size(home)
    process = _spawn(home)
    try:
        return _ready(home, process, since)
    except BaseException:
        process.terminate()  # not ready, or Ctrl-C: nobody would know of it
        raise


def stop(plane: Plane) -> None:
    """Stop a control plane and wait until it has ended. Raises Unreachable; NotThere when it has not ended in 20 s."""
    pid = _pid(plane.home)
    plane.client.stop()
    plane.client.close()  # the server waits for its clients to hang up
    deadline = time.monotonic() + STOPPED
    while time.monotonic() < deadline:
        if plane.process is not None:
            plane.process.poll()  # so that our own child does not stay behind as a zombie
        if not _alive(pid):
            return
        time.sleep(POLL)
    raise NotThere(f"the control plane (pid {pid}) has not ended in {STOPPED:.0f} s; its log: {plane.home / LOG}")


def _spawn(home: Path) -> "subprocess.Popen[bytes]":
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with (home / LOG).open("ab") as log:
        (home / LOG).chmod(0o600)
        return subprocess.Popen(
            # -P: a module of the folder that we happen to be in must not stand in for one of ours.
            [sys.executable, "-P", "-m", "anyscale_core.cli", "--home", str(home), "serve"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=home, start_new_session=True,
        )  # fmt: skip


def _ready(home: Path, process: "subprocess.Popen[bytes]", since: int) -> Plane:
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        client = find(home)
        if client is not None:
            mine = _pid(home) == process.pid
            return Plane(home=home, client=client, process=process if mine else None)
        # When another command starts one at the same moment, ours gives way to it: then the lock is held.
        if process.poll() is not None and not _locked(home):
            raise NotThere(f"the control plane ended with status {process.returncode}:\n{_last_words(home, since)}")
        time.sleep(POLL)
    raise NotThere(f"the control plane was not ready in {READY:.0f} s:\n{_last_words(home, since)}")


def _pid(home: Path) -> int:
    connection = read_connection(home)
    return connection.pid if connection is not None else 0


def _log_size(home: Path) -> int:
    path = home / LOG
    return path.stat().st_size if path.exists() else 0


def _last_words(home: Path, since: int) -> str:
    """Return the last lines of the log, from a byte on, and where it is."""
    path = home / LOG
    lines = path.read_bytes()[since:].decode(errors="replace").strip().splitlines()[-WORDS:] if path.exists() else []
    return "\n".join([*(f"  {line}" for line in lines), f"its log: {path}"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no /proc on this system, or gone since
        return Path(f"/proc/{os.getpid()}").exists() is False
    return state != "Z"


def _locked(home: Path) -> bool:
    """Tell whether a control plane holds the lock of a home. Only for when none of ours is about to take it."""
    try:
        lock = os.open(home / LOCK, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
