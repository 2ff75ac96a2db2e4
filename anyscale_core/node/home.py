"""What an agent keeps on its disk, so that its next process continues: nonce, credential and configuration, Ray's record."""

import json
import os
import secrets
from pathlib import Path
from typing import Any, TypeVar

from anyscale_core.errors import SpecError
from anyscale_core.models import wire
from anyscale_core.models.secret import Secret

T = TypeVar("T")


class Home:
    """A node's own folder. Files are 0600 and replaced whole, so a crash leaves the old or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def ray_temp(self) -> Path:
        """The folder for Ray's sessions; short, since a socket's path below it may have 107 characters."""
        return self.path / "r"

    def nonce(self) -> Secret[str]:
        """Return this node's nonce, made at the first call and kept."""
        kept = self.load("nonce.json")
        if kept is None:
            kept = secrets.token_urlsafe(32)
            self.save("nonce.json", kept)
        return Secret(str(kept))

    def load(self, name: str) -> Any:
        """Return the JSON of a file, None when there is none or it cannot be read as JSON."""
        try:
            return json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def load_as(self, name: str, cls: type[T]) -> T | None:
        """Return a file as ``cls``; None when there is none, or it was written by a version with other fields."""
        kept = self.load(name)
        try:
            return None if kept is None else wire.structure(kept, cls)
        except SpecError:
            return None

    def save(self, name: str, value: object) -> None:
        """Write a value as JSON with its secrets in clear."""
        self.write(name, json.dumps(wire.unstructure_revealed(value)))

    def write(self, name: str, text: str) -> None:
        """Write a file that its owner alone can read."""
        path = self.path / name
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        fresh.replace(path)
