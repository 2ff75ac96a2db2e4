"""Turns a folder into the zip that a job starts in. The same files give the same bytes, so it is uploaded once."""

import hashlib
import io
import os
import stat
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from anyscale_core.cli.failures import Usage

CAP = 100 << 20
"""Bytes of all files together. Ray hands the zip to each node, and refuses larger ones."""
SKIPPED = frozenset({"node_modules", "__pycache__"})
"""Folders that are left out where git cannot tell; hidden ones (.venv, .git) are, too."""
SHOWN = 5
DAWN = (1980, 1, 1, 0, 0, 0)
"""The first instant that a zip can hold."""


@attrs.frozen(kw_only=True)
class Packed:
    """A folder as a zip; ``key`` is its digest, ``size`` the bytes of its files."""

    key: str
    data: bytes
    files: int
    size: int


def pack(folder: Path, *, cap: int = CAP) -> Packed:
    """Zip a folder: what git knows of and does not ignore; outside git everything but hidden and generated files.

    Raises Usage when it is not a folder, or when its files are more than ``cap`` bytes: the message names the biggest.
    """
    if not folder.is_dir():
        raise Usage(f"{folder} is not a folder; give one with --working-dir")
    found = {path: (folder / path).stat() for path in sorted(set(_files(folder)))}
    size = sum(one.st_size for one in found.values())
    if size > cap:
        raise Usage(_too_big(folder, {path: one.st_size for path, one in found.items()}, size, cap))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path, one in found.items():
            entry = zipfile.ZipInfo(path, date_time=DAWN)
            entry.create_system = 3  # Unix, whose modes follow
            entry.external_attr = (0o755 if one.st_mode & stat.S_IXUSR else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (folder / path).read_bytes())
    data = buffer.getvalue()
    return Packed(key=f"{hashlib.sha256(data).hexdigest()}.zip", data=data, files=len(found), size=size)


def _files(folder: Path) -> Iterator[str]:
    """Yield the files to send, relative to the folder, with forward slashes."""
    known = _git_files(folder)
    if known is None:
        yield from _walk(folder, folder)
        return
    for path in known:
        if (folder / path).is_dir():  # a submodule, or a link to a folder
            yield from _walk(folder / path, folder)
        elif (folder / path).is_file():  # git also names what was deleted since
            yield path


def _git_files(folder: Path) -> Iterable[str] | None:
    """Return what git knows of below the folder, ignored files left out; None when it is in no repository."""
    command = ["git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode != 0:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(start: Path, folder: Path) -> Iterator[str]:
    for here, folders, files in os.walk(start):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        for name in files:
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():  # neither sockets nor links that lead nowhere
                yield path.relative_to(folder).as_posix()


def _too_big(folder: Path, sizes: dict[str, int], size: int, cap: int) -> str:
    biggest = sorted(sizes, key=lambda path: -sizes[path])[:SHOWN]
    named = "\n".join(f"  {sizes[path] / (1 << 20):8.1f} MiB  {path}" for path in biggest)
    return (
        f"{folder} is {size / (1 << 20):.1f} MiB in {len(sizes)} files, more than the {cap / (1 << 20):.0f} MiB that can be"
        f" sent along; its biggest files are\n{named}\n"
        "name a smaller folder with --working-dir, let .gitignore leave them out, or keep data in a bucket"
    )
