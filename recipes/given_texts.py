"""The texts that a recipe is given: files, or all of a folder."""

import sys
from pathlib import Path


def texts_given() -> list[str]:
    """Return the files named on the command line."""
    if not sys.argv[1:]:
        sys.exit("which text? It must not be trained on: give make TEXT=book.txt")
    for text in sys.argv[1:]:
        if not Path(text).is_file():
            sys.exit(f"there is no file {text}: give make TEXT=book.txt, with the name of one")
    return sys.argv[1:]


def texts_of(folder: Path) -> list[Path]:
    """Return the texts of a folder, by name."""
    texts = sorted(file for file in folder.glob("*.txt") if file.is_file())
    if not texts:
        sys.exit(f"there is no .txt file in {folder}: run make texts, or put one there")
    return texts
