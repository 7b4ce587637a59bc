"""Opens a memory that was saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fotmem.memory.attachment import attach
from fotmem.memory.memory import Memory


def open_memory(
    directory: Path | str,
    model: nn.Module,
    store: str | Mapping[int, str] | None = None,
    *,
    writable: bool = False,
    trusted: bool = False,
    progress: bool = False,
    append_only: bool = False,
    **options: Any,
) -> Memory:
    """Open a memory that was saved, and attach it to the model that filled it.

    Nothing is read again. Any store can be taken: its index is built from the saved keys, and kept
    beside them for the next opening, where the folder can be written to and the store can save it.
    Where the model has a memory already, that one remains the default, and this one is for `using`.

    Parameters
    ----------
    directory : path
        Where `Memory.save` or ``fotmem read`` wrote it.
    model : transformers.PreTrainedModel or peft.PeftModel
        The model that filled it; floating dtype and device may differ.
    store : str or mapping of int to str, optional
        As in `attach`. Default: ``exact``.
    writable : bool
        Whether more will be read into it. Then no other process can write; any number can read.
    trusted : bool
        Whether to load indexes that fotmem did not write for this user on this machine. Libraries
        parse them by code that expects no attacker; by default they are built anew.
    progress : bool
        Show a progress bar on stderr, from 8,192 tokens on.
    append_only : bool
        Whether it will only be read into, and not asked: what it holds already is not loaded.
    **options
        As in `attach`. Window, top k, distance, recent tokens, decay and temperature default to
        those of the memory when it was saved.

    Returns
    -------
    Memory
        As of the last commit; `Memory.refresh` takes over later ones.

    Raises
    ------
    StorageError
        There is no memory; another model filled it; it is damaged, of another version, or cannot be
        read; with `writable`, another process writes to it.
    ModelError, AttachError, LayerError, UnknownStoreError, MissingPackageError, OptionError
        As `attach`.

    Examples
    --------
    ::

        memory.save("handbook")
        ...
        memory = fotmem.open_memory("handbook", model, store="faiss-ivf")
    """
    opening: Any = {"memory": directory, "writable": writable, "append_only": append_only}
    return attach(model, store, trusted=trusted, progress=progress, **opening, **options)
