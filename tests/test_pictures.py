"""Pictures of the documentation: readable at the width of a page."""

import struct
from pathlib import Path

import pytest

from fotmem.measure.bench.plot import PAGE_WIDTH

DOCS = Path(__file__).parents[1] / "docs"


def inches(file: Path) -> float:
    """Return the width of a PNG, from its header and its resolution."""
    content = file.read_bytes()
    [pixels] = struct.unpack(">I", content[16:20])
    begin = content.index(b"pHYs") + 4
    [per_metre] = struct.unpack(">I", content[begin : begin + 4])
    return float(pixels / per_metre / 0.0254)


@pytest.mark.parametrize("file", sorted(DOCS.glob("*.png")), ids=lambda file: file.stem)
def test_letters_are_as_large_as_those_of_the_text(file: Path) -> None:
    """Matplotlib's letters have 8 points and more: scaled to a page they must not get smaller."""
    assert inches(file) <= PAGE_WIDTH + 0.01
