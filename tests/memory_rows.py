"""Rows of a memory's directory that depend on their numbers only, and what the directory holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.directory import memory_directory
from fotmem.directory.facts import DocumentEntry, Fingerprint, ReadingFacts
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import LayerShape
from tests import pages

SHAPES = {3: LayerShape(2, 4, torch.float32), 7: LayerShape(1, 6, torch.bfloat16)}
FACTS = ReadingFacts(
    model="tiny",
    tokenizer="",
    fingerprint=Fingerprint(architecture="a", weights="w", adapter="c", rope="r"),
    window=16,
    last_context_length=8,
    top_k=None,
    distance=0,
    decay=0.0,
    temperature=1.0,
)
Pairs = dict[int, tuple[Tensor, Tensor]]
Rows = tuple[Tensor, Tensor, Tensor, Pairs]


def draw(start: int, stop: int, shapes: Mapping[int, LayerShape] = SHAPES) -> Rows:
    """Rows that depend on their numbers only."""
    ids = torch.arange(start, stop)

    def vectors(shape: LayerShape, offset: float) -> Tensor:
        heads = torch.arange(shape.heads)[:, None, None] + offset
        wide = torch.arange(shape.head_dim) / 8
        return (heads + ids[:, None] % 251 + wide).to(shape.dtype)

    layers = {n: (vectors(shape, 0), vectors(shape, 0.5)) for n, shape in shapes.items()}
    return ids % 97, 2 * ids, 2 * ids + 1, layers


def document(first: int, stop: int, name: str = "a", *, is_complete: bool = True) -> DocumentEntry:
    """Describe a document of these rows."""
    return DocumentEntry(
        name=name,
        first=first,
        stop=stop,
        sha256="0" * 64,
        characters=None,
        read_at="2026-01-02T03:04:05Z",
        is_complete=is_complete,
        is_removed=False,
    )


BLOCK, ROWS = 64, 64 * 2 + 45
"""Of the memory that `written` writes."""


def written(path: Path, length: int) -> Path:
    """Write a memory in two commits, of documents that have this length, named ``0.txt`` ..."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", BLOCK)
        writer = MemoryDirectory.create(path, SHAPES, FACTS)
        for stop in (BLOCK * 2 + 40, ROWS):
            writer.append(*draw(len(writer), stop))
            firsts = range(0, stop, length)
            writer.commit([document(n, min(n + length, stop), f"{n}.txt") for n in firsts])
        writer.close()
    return path


def assert_equal_rows(directory: MemoryDirectory, expected: Rows) -> None:
    """Expect a directory to hold these rows, bit for bit."""
    *columns, layers = expected
    rows = len(directory)
    for found, right in zip(directory.tokens(0, rows), columns, strict=True):
        assert torch.equal(found, right)
    for layer, pair in layers.items():
        blocks = list(directory.blocks(layer, 0, rows))
        parts = [keys for _, keys, _ in blocks], [values for _, _, values in blocks]
        for some, whole in zip(parts, pair, strict=True):
            assert torch.equal(torch.cat([whole[:, :0], *some], 1), whole)


def assert_holds(
    directory: MemoryDirectory, rows: int, shapes: Mapping[int, LayerShape] = SHAPES
) -> None:
    """Expect a directory to hold the first rows, bit for bit."""
    assert len(directory) == rows
    assert_equal_rows(directory, draw(0, rows, shapes))


def read_as_the_page_says() -> dict[str, Any]:
    """Run the code of the page on the format on the folder ``memory``; return its names."""
    blocks = pages.blocks(pages.ROOT / "docs/memory-format.md")
    [code] = [block.code for block in blocks if block.language == "python"]
    found: dict[str, Any] = {}
    exec(code, found)
    return found


def names(path: Path) -> set[str]:
    """Return the names of all files below a folder."""
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
