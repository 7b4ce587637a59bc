"""The extras of the package, and what is said of them."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.pages import DOCS, ROOT

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]
NAMES = r"[a-z0-9-]+(?:,[a-z0-9-]+)*"
MENTIONED = re.compile(rf"(?:fotmem|install '\.)\[({NAMES})\]|`({NAMES})` extra")


def texts() -> Iterator[Path]:
    yield from [ROOT / "README.md", *DOCS]
    for folder in ("adapters", "backends", "fotmem"):
        yield from (ROOT / folder).rglob("*.py")


def test_all_has_every_other_extra() -> None:
    [everything] = EXTRAS["all"]
    names = everything.removeprefix("fotmem[").removesuffix("]").split(",")
    assert names == sorted(EXTRAS.keys() - {"all", "faiss-gpu"})  # which takes the place of faiss


def test_the_extras_that_are_mentioned_exist() -> None:
    found = {
        name
        for file in texts()
        for groups in MENTIONED.findall(file.read_text("utf-8"))
        for name in "".join(groups).split(",")
    }
    assert {"smollm2", "testing"} <= found
    assert found <= set(EXTRAS)


def test_the_extra_of_the_shipped_model_compiles_nothing() -> None:
    """Its weights come with a package that would compile an inference engine."""
    assert not [need for need in EXTRAS["smollm2"] if re.match(r"llm|llama", need)]
