"""Where words go: data to stdout, people's text to stderr; one JSON document or JSON lines when a script reads."""

import codecs
import enum
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


class Exit(enum.IntEnum):
    """The exit status of every verb; ``run`` gives the job's own instead of OK and FAILED."""

    OK = 0
    FAILED = 1
    """The cluster, the job or the check failed."""
    USAGE = 2
    """The command line, the spec or a name is wrong; nothing was made."""
    UNREACHABLE = 3
    """The control plane does not answer, or does not accept us."""
    INTERRUPTED = 130
    """Ctrl-C, or somebody stopped the job."""


class Format(enum.Enum):
    """Who reads stdout."""

    TEXT = "text"
    JSON = "json"


class Output:
    """The two streams of a verb."""

    def __init__(self, format: Format, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.format = format
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def answer(self, document: Any, text: str) -> None:
        """Print what was asked for: ``document`` to a script, ``text`` to people."""
        if self.format is Format.JSON:
            self.line(document)
        elif text:
            print(text, file=self.stdout, flush=True)

    def line(self, document: Any) -> None:
        """Print one line of JSON."""
        print(json.dumps(document, separators=(",", ":")), file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Tell people something that is not the answer."""
        print(text, file=self.stderr, flush=True)

    def log(self, data: bytes, *, attempt: int) -> None:
        """Print a piece of a job's output: byte for byte to people, as ``{"type": "log", ...}`` to a script."""
        if self.format is Format.TEXT:
            self.raw(data)
            return
        decoder = self._decoders.get(attempt)
        if decoder is None:  # one per attempt: a character may come in two pieces
            decoder = self._decoders[attempt] = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = decoder.decode(data)
        if text:
            self.line({"type": "log", "attempt": attempt, "text": text})

    def raw(self, data: bytes) -> None:
        """Print bytes as they are."""
        self.stdout.flush()
        self.stdout.buffer.write(data)
        self.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows under headings, columns aligned; a column in which every row is empty is left out."""
    shown = [column for column in columns if any(row.get(column) for row in rows)]
    widths = {column: max(len(column), *(len(row.get(column, "")) for row in rows)) for column in shown}
    lines = [
        "  ".join(row.get(column, "").ljust(widths[column]) for column in shown).rstrip()
        for row in ({column: column for column in shown}, *rows)
    ]
    return "\n".join(lines)
