"""Writes the texts that models are trained, chosen and tested on.

Run by ``make texts``, or ``python -m recipes.texts [FOLDER]``: FOLDER/SPLIT/KIND.txt, and
FOLDER/texts.json with the versions of the packages and the SHA-256 of each text. A text that exists
is not made again.
"""

import itertools
import sys
from pathlib import Path

from fotmem.errors import InputError
from recipes.stopping import run_recipe
from recipes.texts.making import make
from recipes.texts.table import KINDS, SPLITS

FOLDER = Path("build/texts")


def main(folder: Path = FOLDER) -> None:
    """Make the texts that are missing."""
    for kind, split in itertools.product(KINDS, SPLITS):
        try:
            made = make(kind, split, folder)
        except InputError as error:
            sys.exit(f"{split}/{kind}: {error}")
        print(f"{folder / split / kind}.txt: {made.characters:,} characters", flush=True)


if __name__ == "__main__":
    run_recipe(lambda: main(*map(Path, sys.argv[1:])))
