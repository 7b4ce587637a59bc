"""``fotmem read``."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape

from fotmem.cli.known_documents import KnownDocuments
from fotmem.cli.loading import load_quietly
from fotmem.cli.memories import OVERLAP, load_model_of
from fotmem.cli.options import (
    Decay,
    Distance,
    Dtype,
    Layers,
    Model,
    OptionalTopK,
    OptionalWindow,
    Recent,
    Temperature,
)
from fotmem.cli.parsing import parse_layers, parse_top_k
from fotmem.cli.printable import printable, printable_name
from fotmem.errors import FotmemError, InputError, StorageError

if TYPE_CHECKING:
    from fotmem.directory.manifest import MemoryManifest
    from fotmem.documents import Document
    from fotmem.memory.memory import Memory


WINDOW, TOP_K = 512, 32
"""Options of a new directory that are not given."""


class HowToRead(NamedTuple):
    """Which model reads into which directory, with which options of a new directory."""

    model: str
    into: str
    dtype: str | None
    options: dict[str, Any]
    before: "MemoryManifest | None"
    """What is in the directory already."""


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
        str, typer.Option(metavar="DIR", help="Directory of the memory; made if it is missing.")
    ],
    layers: Layers = None,
    window: OptionalWindow = None,
    distance: Distance = None,
    recent: Recent = None,
    decay: Decay = None,
    temperature: Temperature = None,
    top_k: OptionalTopK = None,
    dtype: Dtype = None,
    quantization: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option(help="Keep keys and values in 8 or 4 bits, with a loss; for a new directory."),
    ] = None,
) -> None:
    """Read documents into a memory that is kept in a directory.

    Commits every 8,192 tokens. If it is stopped, call it again: it goes on after the last commit.
    Documents that have not changed are skipped; those that have are read again. A bar on stderr
    shows the progress; without a terminal, a line every 10 seconds does.

    Example: fotmem read smollm2-fot handbook.pdf notes/ --into memory
    """
    from fotmem.directory.committed import find_manifest, read_manifest
    from fotmem.documents import load_documents
    from fotmem.memory.saving import require_same_options
    from fotmem.models.packaged import lasting_name

    named = {
        **{"layers": parse_layers(layers), "window": window, "quantization": quantization},
        **{"distance": distance, "recent": recent, "decay": decay, "temperature": temperature},
    }
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if top_k is not None:
        given["top_k"] = parse_top_k(top_k)
    before = find_manifest(into)
    if before is not None:
        require_same_options(given, before, into)
    how = HowToRead(model, into, dtype, given, before)
    known = KnownDocuments(before.documents if before else ())
    loaded = (document for source in files for document in load_documents(source))
    documents = map(known.named, loaded)
    found = chain([next(documents)], documents)  # before a model is loaded, or a directory begun
    console = Console(file=sys.stderr, highlight=False)
    same_model = before is not None and before.facts.model == lasting_name(model)
    unread = _after_unchanged(found, known, console) if same_model else found
    first_unread = next(unread, None)
    if first_unread is not None:
        _read(chain([first_unread], unread), how, known, console)
    else:
        _tidy(into)
    manifest = read_manifest(into)
    kept = [document for document in manifest.documents if not document.is_removed]
    tokens = sum(map(len, kept))
    Console(highlight=False).print(
        f"{escape(printable(into))} holds {tokens:,} tokens of {len(kept):,} documents",
        soft_wrap=True,
    )


def _after_unchanged(
    documents: Iterator["Document"], known: KnownDocuments, console: Console
) -> Iterator["Document"]:
    """Skip the documents, up to the first other one, that the model has read into the directory."""
    for document in documents:
        if not known.has(document):
            yield from chain([document], documents)
        else:
            _tell(console, document, 0)


def _tidy(into: str) -> None:
    """Remove what a killed reading left; where another process writes, it has done so."""
    from fotmem.directory.memory_directory import MemoryDirectory
    from fotmem.disk import is_remote

    if not is_remote(into):
        with suppress(StorageError):
            MemoryDirectory.open(into, writable=True).close()


def _read(
    documents: Iterator["Document"], how: HowToRead, known: KnownDocuments, console: Console
) -> None:
    """Load a model, and read documents into a directory."""
    from fotmem.documents import tokenized

    memory, tokenizer = _opened(how)
    overlap = min(OVERLAP, memory.options.window // 2)
    try:
        for document in _saying_what_is_kept(documents):
            before = len(memory.tokens)
            memory.read(tokenized(document, tokenizer), overlap=overlap, progress=True)
            _tell(console, document, len(memory.tokens) - before, known.add(document))
    finally:
        memory.close()


def _saying_what_is_kept(documents: Iterator["Document"]) -> Iterator["Document"]:
    """Yield documents; where one cannot be loaded, the error says that those before it are kept."""
    yield next(documents)
    try:
        yield from documents
    except FotmemError as error:
        raise InputError(
            f"{error}; what was read before it is kept: call again to go on"
        ) from error


def _tell(console: Console, document: "Document", tokens: int, same: str | None = None) -> None:
    said = f"{tokens:,} tokens" if tokens else "not changed"
    if tokens and same is not None:
        said += f", the same text as {escape(printable_name(same))}"
    console.print(f"{escape(printable_name(document.name))}: {said}", soft_wrap=True)


def _opened(how: HowToRead) -> "tuple[Memory, Any]":
    """Load a model and its tokenizer; open a memory, or begin one."""
    from fotmem.memory.attachment import attach
    from fotmem.memory.opening import open_memory
    from fotmem.models.packaged import lasting_name

    model, into, dtype, options, before = how
    if before is not None:
        llama, tokenizer = load_model_of(before.facts, into, model, dtype)
        return open_memory(into, llama, append_only=True), tokenizer
    llama, tokenizer = load_quietly(model, dtype)
    options = {"window": WINDOW, "top_k": TOP_K} | options
    quantization = options.pop("quantization", None)
    memory, name = attach(llama, **options), lasting_name(model)
    memory.save(into, model=name, tokenizer=tokenizer, quantization=quantization)
    return memory, tokenizer
