"""The memory that a command asks: opened from a directory, or filled with texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fotmem.cli.loading import load_quietly
from fotmem.errors import InputError

if TYPE_CHECKING:
    from fotmem.directory.facts import ReadingFacts
    from fotmem.memory.memory import Memory

OVERLAP = 16
"""Tokens by which the windows of a reading overlap, at most half a window."""


def refuse_texts(text: list[Path], given: dict[str, Any]) -> None:
    """Refuse what a memory's directory has already."""
    if text:
        raise typer.BadParameter(
            "a memory's directory has its texts; fotmem read adds more", param_hint="'--text'"
        )
    if given["layers"] is not None:
        raise typer.BadParameter(
            "a memory's directory has its layers", param_hint="'--layers' (or '--config')"
        )


def load_model_of(
    facts: "ReadingFacts", directory: str, model: str, dtype: str | None
) -> tuple[Any, Any]:
    """Load a model and its tokenizer, which must be the one that the texts of a memory had."""
    from fotmem.memory.saving import require_same_tokenizer

    llama, tokenizer = load_quietly(model, dtype)
    require_same_tokenizer(facts, tokenizer, directory)
    return llama, tokenizer


def opened_memory(
    directory: str,
    dtype: str | None,
    store: str | None,
    options: dict[str, Any],
    given: dict[str, Any],
    *,
    trusted: bool,
) -> tuple[Any, Any, "Memory"]:
    """Open the memory in a directory, for the model that the directory names."""
    from fotmem.directory.memory_directory import MemoryDirectory
    from fotmem.memory.attachment import attach

    chosen = {key: value for key, value in given.items() if value is not None}
    if "top_k" in chosen:
        [chosen["top_k"]] = chosen["top_k"]
    kept = MemoryDirectory.open(directory, trusted=trusted)
    try:
        facts = kept.manifest.facts
        if not facts.model:
            raise InputError(
                f"the memory in {directory} does not name its model: it was saved without; open it "
                "in Python by fotmem.open_memory"
            )
        llama, tokenizer = load_model_of(facts, directory, facts.model, dtype)
        memory = attach(llama, store, memory=kept, progress=True, **chosen, **options)
        return llama, tokenizer, memory
    except BaseException:
        kept.close()
        raise


def read_memory(
    model: str,
    dtype: str | None,
    text: list[Path],
    store: str | None,
    options: dict[str, Any],
    given: dict[str, Any],
) -> tuple[Any, Any, "Memory"]:
    """Load a model, and read texts into its memory."""
    from fotmem.documents import load_documents, tokenized
    from fotmem.memory.attachment import attach

    if not text:
        raise typer.BadParameter(
            "expected texts for a model, or the directory of a memory in place of the model",
            param_hint="'--text'",
        )
    documents = [document for path in text for document in load_documents(path)]
    llama, tokenizer = load_quietly(model, dtype)
    chosen = {key: value for key, value in given.items() if value is not None}
    [chosen["top_k"]] = chosen.get("top_k", (32,))
    window = chosen.setdefault("window", 512)
    memory = attach(llama, store, **chosen, **options)
    try:
        for document in documents:
            tokens = tokenized(document, tokenizer)
            memory.read(tokens, overlap=min(OVERLAP, window // 2), progress=True)
    except BaseException:
        memory.detach()
        raise
    return llama, tokenizer, memory
