"""Loads models and texts for commands."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from fotmem.files import python_reference, read_text


def read_texts(paths: list[Path]) -> str:
    """Read text files, joined by an empty line; Python's language reference if there are none."""
    return "\n\n".join(map(read_text, paths)) if paths else python_reference()


@contextmanager
def quietly() -> Iterator[None]:
    """Hide progress bars of other libraries."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


def load_quietly(name: str, dtype: str | None = None) -> tuple[Any, Any]:
    """Load a model and its tokenizer, with a spinner on stderr."""
    console = Console(file=sys.stderr)
    with console.status(f"loading {escape(name)}"), quietly():
        import torch
        import transformers

        from fotmem.models.load import load_model

        transformers.logging.set_verbosity_error()
        return load_model(name, dtype=None if dtype is None else getattr(torch, dtype))
