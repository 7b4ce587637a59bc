"""``fotmem read``."""

import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fotmem.cli.loading import load_quietly
from fotmem.cli.memories import OVERLAP
from fotmem.cli.options import (
    Decay,
    Distance,
    Dtype,
    Layers,
    Model,
    Temperature,
    TopK,
    Window,
)
from fotmem.cli.parsing import parse_layers, parse_top_k

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


def read(
    model: Model,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Texts, Markdown, HTML, PDF, JSONL files, folders, or hub:NAME for a dataset.",
        ),
    ],
    into: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the memory; made if it is missing.")
    ],
    layers: Layers = None,
    window: Window = 512,
    distance: Distance = None,
    decay: Decay = None,
    temperature: Temperature = None,
    top_k: TopK = "32",
    dtype: Dtype = None,
) -> None:
    """Read documents into a memory that is kept in a directory.

    Commits every 8,192 tokens. If it is stopped, call it again: it goes on after the last commit.
    Documents that have not changed are skipped; those that have are read again. A bar on stderr
    shows the progress; without a terminal, a line every 10 seconds does.

    Example: fotmem read smollm2-fot handbook.pdf notes/ --into memory
    """
    from fotmem.directory.memory_directory import is_memory
    from fotmem.documents import load_documents, tokenized
    from fotmem.memory.attachment import attach

    chosen, hits = parse_layers(layers), parse_top_k(top_k)
    documents = (document for source in files for document in load_documents(source))
    first = next(documents)  # before a model is loaded, or a directory begun
    llama, tokenizer = load_quietly(model, dtype)
    if is_memory(into):
        memory = _opened(llama, tokenizer, into)
    else:
        options: Any = {"distance": distance, "decay": decay, "temperature": temperature}
        memory = attach(llama, layers=chosen, top_k=hits, window=window, **options)
        memory.save(into, model=_lasting_name(model), tokenizer=tokenizer)
    overlap = min(OVERLAP, memory.options.window // 2)
    console = Console(file=sys.stderr, highlight=False)
    try:
        for document in chain([first], documents):
            before = len(memory.tokens)
            memory.read(tokenized(document, tokenizer), overlap=overlap, progress=True)
            read = len(memory.tokens) - before
            said = f"{read:,} tokens" if read else "not changed"
            console.print(f"{escape(document.name)}: {said}")
        kept = f"{len(memory):,} tokens of {len(memory.documents):,} documents"
    finally:
        memory.close()
    Console(highlight=False).print(f"{escape(str(into))} holds {kept}")


def _opened(llama: Any, tokenizer: Any, into: Path) -> "Memory":
    from fotmem.memory.opening import open_memory
    from fotmem.memory.saving import require_same_tokenizer

    memory = open_memory(into, llama, append_only=True)
    try:
        require_same_tokenizer(memory.facts, tokenizer, str(into))
    except BaseException:
        memory.close()
        raise
    return memory


def _lasting_name(model: str) -> str:
    """Return a model's name as it holds in any folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model
