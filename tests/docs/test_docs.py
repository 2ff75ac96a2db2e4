"""Every fenced block of the documentation is executed or checked; a block that nobody knows how to check fails."""

import contextlib
import functools
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from anyscale_core.models import wire
from anyscale_core.models.cloud import SLOTS, CloudSpec
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.registry import Registry
from tests.docs.pages import PAGES, ROOT, Block, anchors, blocks, links, read

LANGUAGES = frozenset({"python", "output", "yaml", "json", "console", "text"})
OURS = {"anyscale-core": "anyscale_core.cli", "anyscale-conformance": "anyscale_conformance"}
"""Our own commands, and the modules that are run for them."""
PROGRAMS = frozenset({*OURS, "python3", ".tools/bin/uv", "export"})
"""What a console block may start; only our own are checked."""


def of(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def where(block: Block) -> str:
    return block.where


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))])
def test_the_python_of_a_page_runs_from_top_to_bottom_and_prints_what_the_page_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": f"docs:{page}"}
    printed = ""
    for block in blocks(page):
        if block.language == "output":
            assert printed == block.code, f"{block.where}: this is not what the block above it prints"
        if block.language == "python":
            stdout = io.StringIO()
            # Blank lines before it, so that a traceback names the page's own line.
            code = compile("\n" * (block.line - 1) + block.code, str(ROOT / page), "exec")
            with contextlib.redirect_stdout(stdout):
                exec(code, namespace)
            printed = stdout.getvalue()


@pytest.mark.parametrize("block", of("yaml"), ids=where)
def test_a_spec_on_a_page_is_a_good_spec(block: Block) -> None:
    raw = yaml.safe_load(block.code)
    if "provider" not in raw:
        wire.structure(raw, ClusterSpec if "head_node" in raw else QuotaSpec, subject=block.where)
        return
    cloud = wire.structure(raw, CloudSpec, subject=block.where)
    for slot in SLOTS:
        provider = Registry.load().provider(cloud.provider_of(slot))
        assert set(cloud.settings.get(provider.name, {})) <= set(provider.settings)


def test_the_quickstart_shows_the_example_that_it_runs() -> None:
    shown = next(block for block in of("yaml") if block.page == "docs/quickstart.md")
    assert yaml.safe_load(shown.code) == yaml.safe_load(read("examples/quickstart.yaml"))


@pytest.mark.parametrize("block", of("json"), ids=where)
def test_json_on_a_page_is_json(block: Block) -> None:
    json.loads(block.code)


@pytest.mark.parametrize("block", of("console"), ids=where)
def test_a_command_on_a_page_is_one_that_the_command_line_knows(block: Block) -> None:
    lines = _commands(block)
    assert lines, f"{block.where}: a console block needs a line that starts with '$ '"
    for line in lines:
        for command in _simple(line):
            assert command[0] in PROGRAMS, f"{block.where}: {command[0]} is no program that these pages use"
            if command[0] in OURS:
                _check_command(command[0], command[1:], block.where)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_how_it_is_checked_or_why_it_is_not(page: str) -> None:
    text = read(page)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(page)), f"{page}: a fence is not closed"
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r} is none of {sorted(LANGUAGES)}"
        assert block.language != "text" or block.why, f"{block.where}: say after 'text' why it is not executed"


def test_the_readme_shows_one_command_for_the_main_job_and_one_for_the_tests() -> None:
    lines = [line for block in blocks("README.md") if block.language == "console" for line in _commands(block)]
    assert len(lines) == 2, "each of the two stands alone, once"
    assert lines[1].endswith("uv run pytest"), ".ci/run takes the command from here"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        file = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert file.exists(), f"{page}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), f"{page}: no heading for {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_can_be_reached_from_the_index(page: str) -> None:
    reached = {"docs/index.md"}
    for target in links("docs/index.md"):
        reached.add((ROOT / "docs" / target.partition("#")[0]).resolve().relative_to(ROOT).as_posix())
    assert page in reached


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_plain_ascii_and_tells_no_path_of_a_machine(page: str) -> None:
    text = read(page)
    assert text.isascii(), f"{page}: {[char for char in text if not char.isascii()][:5]}"
    assert not re.search(r"(?<![\w.])/(work|root|home|Users)/", text)


def _commands(block: Block) -> list[str]:
    joined = block.code.replace("\\\n", " ")
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def _simple(line: str) -> Iterator[list[str]]:
    """Yield the simple commands of a line, a leading ``uv run`` taken off."""
    for part in re.split(r"&&|\|", line):
        command = shlex.split(part, comments=True)
        yield command[2:] if command[1:2] == ["run"] and command[0].endswith("/uv") and _is_ours(command) else command


def _is_ours(command: list[str]) -> bool:
    return bool(OURS.keys() & set(command[2:3]))


def _check_command(program: str, words: list[str], where: str) -> None:
    own = words[: words.index("--")] if "--" in words else words
    verb = next((word for word in own if not word.startswith("-")), "")
    if verb in ("cloud", "operator", "quota"):
        verb = " ".join(own[:2])
    known = _options(program, verb)
    for word in own:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{where}: {program} {verb} has no option {word}"
        elif word.startswith("examples/"):
            assert (ROOT / word).exists(), f"{where}: there is no {word}"


@functools.cache
def _options(program: str, verb: str) -> frozenset[str]:
    """Return the options of a verb as its help shows them; fails for a verb that there is not."""
    command = [sys.executable, "-m", OURS[program], *verb.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert done.returncode == 0, f"{program} {verb} --help: {done.stderr}"
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.stdout))
