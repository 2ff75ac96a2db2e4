"""What of a folder is sent along with a job."""

import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from anyscale_core.cli.failures import Usage
from anyscale_core.cli.packaging import pack


def names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def fill(folder: Path, *paths: str) -> None:
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def test_the_same_files_give_the_same_bytes_whatever_their_times(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill(tmp_path / name, "main.py", "lib/a.py", "lib/b.py")
    os.utime(tmp_path / "two" / "main.py", (1_000_000_000, 1_000_000_000))
    assert pack(tmp_path / "one") == pack(tmp_path / "two")


def test_a_changed_byte_gives_another_key(tmp_path: Path) -> None:
    fill(tmp_path, "main.py")
    before = pack(tmp_path).key
    (tmp_path / "main.py").write_text("other")
    assert pack(tmp_path).key != before


def test_outside_git_hidden_and_generated_files_stay_behind(tmp_path: Path) -> None:
    fill(tmp_path, "main.py", ".secret", ".venv/x.py", "node_modules/x.js", "pkg/__pycache__/x.pyc", "pkg/data.bin")
    assert names(pack(tmp_path).data) == ["main.py", "pkg/data.bin"]


def test_in_git_the_ignored_stay_behind_and_the_untracked_go_along(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    fill(tmp_path, "known.py", "new.py", ".hidden.toml", "build/out.bin", "gone.py")
    (tmp_path / ".gitignore").write_text("build/\n")
    git(tmp_path, "add", "known.py", "gone.py")
    (tmp_path / "gone.py").unlink()
    assert names(pack(tmp_path).data) == [".gitignore", ".hidden.toml", "known.py", "new.py"]


def test_a_folder_inside_a_repository_is_sent_without_its_surroundings(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    fill(tmp_path, "outside.py", "app/main.py")
    assert names(pack(tmp_path / "app").data) == ["main.py"]


def test_a_program_stays_executable(tmp_path: Path) -> None:
    fill(tmp_path, "run.sh", "main.py")
    (tmp_path / "run.sh").chmod(0o700)
    entries = zipfile.ZipFile(io.BytesIO(pack(tmp_path).data)).infolist()
    assert {entry.filename: oct(entry.external_attr >> 16) for entry in entries} == {
        "main.py": "0o644",
        "run.sh": "0o755",
    }


def test_links_that_lead_nowhere_and_pipes_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "main.py")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert names(pack(tmp_path).data) == ["main.py"]


def test_too_large_a_folder_is_refused_and_its_biggest_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_bytes(b"x")
    (tmp_path / "weights.bin").write_bytes(bytes(3 << 20))
    (tmp_path / "more.bin").write_bytes(bytes(2 << 20))
    with pytest.raises(Usage) as caught:
        pack(tmp_path, cap=4 << 20)
    lines = str(caught.value).splitlines()
    assert "5.0 MiB in 3 files, more than the 4 MiB" in lines[0]
    assert [line.split()[-1] for line in lines[1:4]] == ["weights.bin", "more.bin", "small.py"]
    assert "--working-dir" in lines[-1]


def test_a_folder_of_exactly_the_cap_is_taken(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(1000))
    assert pack(tmp_path, cap=1000).size == 1000


def test_what_is_no_folder_is_refused_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="--working-dir"):
        pack(tmp_path / "nothing")
