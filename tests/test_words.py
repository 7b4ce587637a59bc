"""Plain words, terms that are explained, and public names: on every page and in every source."""

import doctest
import re
from itertools import chain
from pathlib import Path

import pytest

from fotmem import crossbatch
from fotmem.measure import capture
from fotmem.measure.evaluate import ruler
from tests.pages import DOCS, ROOT, blocks
from tests.public_names import PUBLIC, names_used

PAGES = [
    *DOCS,
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "fotmem").rglob("*.md"),
]
FOLDERS = ["adapters", "backends", "benchmarks", "examples", "fotmem", "recipes", "tests"]
SOURCES = [
    file
    for folder in FOLDERS
    for kind in ("*.py", "*.html")
    for file in sorted((ROOT / folder).rglob(kind))
    if file != Path(__file__)
]
INSTEAD = {
    r"fore(see|sees|saw|seen|tell|tells|told)": "predict",
    r"falls? out": "is rejected",
    r"fell out": "was rejected",
    r"is to be had": "is available",
    r"what is had": "what there is",
    r"(is|are) told": "gets, knows",
    r"knows? nothing of": "does not use",
    r"(a page|something) to point at": "an interactive report",
    r"what (it|a model|the model) makes of": "how it uses",
    r"whole answers?( that are)? right": "exact match",
    r"what raised": "a call that raised",
    r"; there are:": "; the stores are:",
}
"""Expressions (regular, in any case) and what to write in their place."""
BANNED = re.compile(rf"(?<!\w)({'|'.join(INSTEAD)})(?!\w)", re.IGNORECASE)


def identify(file: Path) -> str:
    return str(file.relative_to(ROOT))


def words(text: str) -> str:
    """Join lines, those of comments too."""
    return " ".join(text.replace("#", " ").split())


def test_the_list_is_read_as_it_is_meant() -> None:
    for text in ("It is Foretold.", "others\n# fall out", "what a model makes of it"):
        assert BANNED.search(words(text)), text
    assert not BANNED.search("predicted; tellers; the office; falls outside")


def test_plain_words() -> None:
    """In pages, docstrings, comments, messages and names."""
    found = {}
    for file in [*PAGES, *SOURCES]:
        if banned := {match[0] for match in BANNED.finditer(words(file.read_text("utf-8")))}:
            found[identify(file)] = banned
    assert not found, INSTEAD


def test_every_page_leads_to_the_glossary() -> None:
    pages = [page for page in DOCS if page.parent.name not in ("api", "stores")]
    missing = [page.name for page in pages if "glossary.md" not in page.read_text("utf-8")]
    assert missing == ["glossary.md"]


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_pages_import_public_names_only(page: Path) -> None:
    code = [block.code for block in blocks(page) if block.language == "python"]
    sessions = [block.code for block in blocks(page) if block.language == "pycon"]
    examples = chain.from_iterable(map(doctest.DocTestParser().get_examples, sessions))
    code += [example.source for example in examples]
    parts = {f"crossbatch.{name}" for name in crossbatch.__all__}
    parts |= {f"measure.capture.{name}" for name in capture.__all__}
    parts |= {f"measure.evaluate.ruler.{name}" for name in ruler.__all__}
    assert not {name for source in code for name in names_used(source)} - PUBLIC - parts
