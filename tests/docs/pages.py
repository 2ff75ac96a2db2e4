"""The pages of the documentation, taken apart: fenced blocks, tables, links, headings."""

import re
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], key=lambda path: path.as_posix())
)
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@attrs.frozen(kw_only=True)
class Block:
    """A fenced block: ``info`` is the whole word string after the fence, ``line`` where its code begins."""

    page: str
    line: int
    info: str
    code: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def why(self) -> str:
        """Return what stands behind the language: for ``text`` the reason why it is not executed."""
        return self.info.partition(" ")[2]

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> tuple[Block, ...]:
    """Return the fenced blocks of a page, in order."""
    text = read(page)
    return tuple(
        Block(page=page, line=text.count("\n", 0, match.start()) + 2, info=match["info"].strip(), code=match["code"])
        for match in FENCE.finditer(text)
    )


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", read(page))


def links(page: str) -> tuple[str, ...]:
    return tuple(match["target"] for match in LINK.finditer(prose(page)))


def anchors(page: str) -> frozenset[str]:
    """Return the anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return frozenset(re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings)


def table(page: str, heading: str) -> list[dict[str, str]]:
    """Return the rows of the tables between a heading and the next that have the first one's columns, by column.

    Backticks are taken off whole cells.
    """
    _, found, below = prose(page).partition(f" {heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    section = re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]
    tables = [
        [_cells(line) for line in match.splitlines()] for match in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    ]
    assert tables, f"{page} has no table below {heading!r}"
    head = tables[0][0]
    return [dict(zip(head, row, strict=True)) for rows in tables if rows[0] == head for row in rows[2:]]


def words(cell: str) -> list[str]:
    """Return the words in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def _cells(line: str) -> list[str]:
    return [_bare(cell.strip()) for cell in line.strip()[1:-1].split("|")]


def _bare(cell: str) -> str:
    return cell[1:-1] if re.fullmatch(r"`[^`]+`", cell) else cell
