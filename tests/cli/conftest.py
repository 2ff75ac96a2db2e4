"""Fixtures of the command's tests."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from anyscale_core.cli.main import main
from anyscale_core.controlplane.keys import KeyRing
from tests.cli.world import SPEC, Gateway, Town


@attrs.frozen(kw_only=True)
class Done:
    """What a command printed, and its exit status."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def document(self) -> Any:
        """Its one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run the command in this process."""
    monkeypatch.setenv("ANYSCALE_CORE_HOME", str(tmp_path / "home"))

    def run(*words: str) -> Done:
        data, err = io.BytesIO(), io.StringIO()
        out = io.TextIOWrapper(data, encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                code = main(words)
            except SystemExit as exit:
                code = int(exit.code or 0)
            out.flush()
        return Done(code=code, out=data.getvalue(), err=err.getvalue())

    return run


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A control plane on the home that ``cli`` uses."""
    town = Town(tmp_path)
    yield town
    town.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(KeyRing(tmp_path / "keys", now=datetime.now(UTC)))
    yield gateway
    gateway.close()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """A spec in a file: a head and two to four workers."""
    path = tmp_path / "demo.yaml"
    path.write_text(SPEC)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file, outside git."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "main.py").write_text("print('hello')\n")
    return folder
