"""The pages of the documentation, and the blocks in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
NAMES = [page.stem for page in PAGES]
LEFT_OUT = re.compile(r"<!-- not executed: \S.* -->")
FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*) *(?:title=\"(?P<title>[^\"]+)\")?")


class Block(NamedTuple):
    page: Path
    line: int
    """Of its first line of code, from 1."""
    language: str
    title: str
    code: str
    left_out: bool


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    opening = None
    for number, line in enumerate(lines, 1):
        if opening is None:
            if line.lstrip().startswith("```"):
                opening, first = FENCE.fullmatch(line.rstrip()), number + 1
                assert opening, f"{page.name}, line {number}: what is {line!r}?"
        elif line.strip() == "```":
            code = textwrap.dedent("\n".join(lines[first - 1 : number - 1])) + "\n"
            left_out = first > 2 and LEFT_OUT.fullmatch(lines[first - 3].strip()) is not None
            title = opening["title"] or ""
            yield Block(page, first, opening["language"], title, code, left_out)
            opening = None
    assert opening is None, f"{page.name}: the last block has no end"


def prose(page: Path) -> str:
    """The text of a page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def change(folder: Path, block: Block) -> None:
    """Apply a diff, which must fit in one place."""
    lines = block.code.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    file = folder / block.title
    text = file.read_text("utf-8")
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, after), "utf-8")
