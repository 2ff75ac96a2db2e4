"""An operator as a process of its own: what it is given, and every socket of it written down."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.operator.process import Options
from tests.api.serving import Service

CLOUD = "far"
WATCH = """
import os, sys
def hook(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {args[1]}\\n")
sys.addaudithook(hook)
"""


def options_of(service: Service, folder: Path, provider: str = "fake") -> Options:
    """Register a cloud and return what its operator is given."""
    with service.client() as client:
        client.register_cloud({"name": CLOUD, "provider": provider, "mode": "operator"})
        token = client.operator_token(CLOUD)
    folder.mkdir()
    (folder / "token").write_text(token.token.reveal())
    (folder / "ca.pem").write_text(token.ca_pem)
    return Options(url=token.url, ca=folder / "ca.pem", cloud=CLOUD, home=folder / "home", token_file=folder / "token")


@attrs.define(eq=False)
class Process:
    """``anyscale-core operator run`` in a process of its own, every socket of it written down."""

    popen: "subprocess.Popen[bytes]"
    watched: Path
    log: Path
    port: int

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def start(options: Options, folder: Path, *words: str, within: Sequence[str] = ()) -> Process:
    """Run an operator with these further words, as the last words of the command ``within``."""
    site, watched, log, port = folder / "site", folder / "watched", folder / "log", free_port()
    site.mkdir()
    (site / "sitecustomize.py").write_text(WATCH)
    watched.touch()
    # Given by `env`, so that the words before it are not watched.
    command = [
        *within,
        "env",
        f"PYTHONPATH={site}",
        f"WATCHED={watched}",
        sys.executable,
        "-m",
        "anyscale_core.cli",
        "--home",
        str(options.home),
        "operator",
        "run",
    ]
    command += ["--url", options.url, "--ca", str(options.ca), "--cloud", options.cloud]
    command += ["--token-file", str(options.token_file), "--health-port", str(port), *words]
    with log.open("wb") as file:
        popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    return Process(popen, watched, log, port)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
