"""Attaches a memory to a model, and detaches it without a trace.

Two forward functions of the model are replaced: the decoder's by `forward.decoder_forward`, and
that of every memory layer's attention module by `attend.attention_forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fotmem.arguments import checked_boolean, checked_top_k
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import AttachError, OptionError
from fotmem.interrupts import interrupts_deferred
from fotmem.memory.another import default_memory, fitting_adapters, shared_options
from fotmem.memory.attached import AttachedModel
from fotmem.memory.config import read_config
from fotmem.memory.contents import Contents, Makers
from fotmem.memory.memory import Memory
from fotmem.memory.options import MemoryOptions, check_decay_layers
from fotmem.memory.replaced_forwards import replace_forwards
from fotmem.memory.saving import (
    SAVED_OPTIONS,
    filled,
    require_equal_models,
    require_known_tokens,
    require_same_model,
    require_same_shapes,
)
from fotmem.memory.store_makers import store_makers
from fotmem.models.memory_layers import layer_adapters, memory_layers
from fotmem.models.model_parts import ModelParts, model_parts
from fotmem.models.unsupported import refuse_changing_rope


def attach(
    model: nn.Module,
    store: str | Mapping[int, str] | None = None,
    layers: Iterable[int] | None = None,
    *,
    memory: Memory | MemoryDirectory | Path | str | None = None,
    default: bool = True,
    writable: bool = False,
    trusted: bool = False,
    progress: bool = False,
    append_only: bool = False,
    config: str | Path | None = None,
    top_k: int | Literal["default"] | None = "default",
    window: int | None = None,
    last_context_length: int | None = None,
    distance: int | None = None,
    recent: int | None = None,
    decay: float | Mapping[int, float] | None = None,
    temperature: float | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Memory:
    """Give some attention layers of a model a memory.

    The model is then used as before (``model(...)``, ``model.generate(...)``, pipelines). Its
    memory layers also attend to what `Memory.read` has read. Inputs longer than `window` are
    split; what no longer fits goes to the overflow of that call's cache (Tworkowski et al. 2023,
    "Focused Transformer", arXiv:2307.03170).

    The first memory of a model is its default one. Others, which were read before or have
    ``default=False``, are looked at where `using` says so; top k, decay and temperature are their
    own, layers, window, distance and recent tokens are those of the default memory. Detaching the
    default memory detaches all.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A model that an adapter knows, see `available_adapters`.
    store : str or mapping of int to str, optional
        Name of the store for all memory layers, or one for each. Default: ``exact``.
    layers : iterable of int, optional
        Memory layers, from 0. Default: the keys of `store`, else the config's ``mem_layers``, else
        what ``fotmem layers`` proposed for this model.
    memory : Memory, MemoryDirectory or path, optional
        What was read before: a memory that was detached, or a directory that one was saved to,
        open or its path. Default: an empty memory.
    default : bool
        False: the model has a memory already, and gets another one that is empty.
    writable : bool
        Whether more will be read into the directory, see `open_memory`.
    trusted, progress : bool
        For a directory, see `open_memory`.
    append_only : bool
        Whether it will only be read into, and not asked.
    config : path, optional
        A file such as `select` writes, ``fotmem.toml``: it names the store and its options, and
        perhaps other arguments of this function. Arguments that are given here take precedence.
    top_k : int or None
        Hits per query and head; None: attention to everything remembered. Default: 32.
    window : int, optional
        Tokens of local context. Default: the config's ``max_position_embeddings``, at most 2048.
    last_context_length : int, optional
        Of an input longer than `window`, this many tokens stay local. Default: half the window.
    distance : int, optional
        How many positions before each token remembered tokens stand, all at the same one (as in
        InfLLM, Xiao et al. 2024, arXiv:2402.04617): wherever a token is in the window, it sees
        memory as it was trained to. Near ones distract a model that was not trained with memory.
        0: they stand where the window begins, as in the released code. Default: the config's
        ``mem_distance``, else 0.
    recent : int, optional
        How many of the last remembered tokens keep their positions instead, directly before the
        window, and are attended to as local context is: all of them, without `decay` and
        `temperature`. A text that goes on where the last reading ended is then continued better.
        There are no more than the model has positions beside the window. Default: the config's
        ``mem_recent``, else 0 as in the released code.
    decay : float or mapping of int to float, optional
        How fast older keys lose weight: a key of `n` windows ago has ``n ** -decay`` times the
        weight of a local key with the same score, and ``(n * n / 8) ** -decay`` times from 8
        windows on; of windows of more than 256 tokens, each 256 count as one. Long memories of
        plain text then distract less; `retrieve` and `reread` look for passages without it. One
        for all layers, or by layer (others have 0). Default: the config's ``mem_decay``, else 0 as
        in the released code.
    temperature : float, optional
        Divisor of the scores of remembered keys, but not of local ones. Below 1, the best of many
        keys get more weight, above 1 less. Default: the config's ``mem_temperature``, else 1 as in
        the released code.
    dtype : torch.dtype, optional
        Of the keys and values in the stores. Default: the config's ``mem_dtype``, else the
        model's.
    **options
        The stores' own; where layers have different stores, each gets those that it knows.

    Returns
    -------
    Memory
        Detach with `Memory.detach`, or use it as a context manager.

    Raises
    ------
    ModelError
        No adapter knows the model.
    AttachError
        It has a memory already, and this would be an empty one; or `memory` is attached; or another
        memory does not fit the default one.
    LayerError
        No memory layers are known, or a layer does not exist.
    UnknownStoreError, MissingPackageError, OptionError, DtypeError, UnsupportedError
        There is no such store or option, or the model cannot have a memory; the message says what
        is possible.
    InputError
        `config` cannot be read.
    StorageError
        The directory cannot be opened, or another model filled it.
    """
    named: dict[str, Any] = {
        "layers": layers,
        "window": window,
        "last_context_length": last_context_length,
        "distance": distance,
        "recent": recent,
        "decay": decay,
        "temperature": temperature,
        "dtype": dtype,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if not isinstance(top_k, str) or top_k != "default":
        given["top_k"] = checked_top_k(top_k)
    if config is not None:
        store, options, arguments = _read_config(config, store, options)
        given = arguments | given
    first = default_memory(model, default=checked_boolean("default", default), memory=memory)
    parts, chosen = model_parts(model) if first is None else first.parts, given.pop("layers", None)
    if memory is None:
        how = MemoryOptions.choose(parts, (shared_options(first) if first else {}) | given)
        name = "exact" if store is None else store
        return attach_to(parts, name, chosen, how, options, first, given=given)
    if chosen is not None or dtype is not None:
        raise OptionError("layers and dtype are those of the memory; leave them out")
    if isinstance(memory, Memory):
        return _attach_again(parts, memory, given, store, options, first)
    if isinstance(memory, MemoryDirectory):
        directory = memory
    else:
        directory = MemoryDirectory.open(memory, writable=writable or append_only, trusted=trusted)
    name = "exact" if store is None else store
    how_to_fill = {"progress": progress, "append_only": append_only}
    return _attach_saved(parts, directory, given, name, options, first, **how_to_fill)


def _read_config(
    config: str | Path, store: object, options: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read a file, unless a store or its options are given besides."""
    if store is not None or options:
        both = ", ".join(["store"] * (store is not None) + list(options))
        raise OptionError(
            f"config names the store and its options, got also {both}: give one or the other"
        )
    return read_config(config)


def attach_to(
    parts: ModelParts,
    store: str | Mapping[int, str],
    layers: Iterable[int] | None,
    options: MemoryOptions,
    store_options: dict[str, Any],
    first: AttachedModel | None = None,
    *,
    given: Collection[str] = (),
) -> Memory:
    """Attach an empty memory to a model that was taken apart; arguments as in `attach`.

    `first` is that of the model's default memory, if it has one. `given` has the names of the
    options that are not the config's.
    """
    refuse_changing_rope(parts.decoder.config, max(options.window, options.distance + 1))
    if layers is None and isinstance(store, Mapping):
        layers = store
    if first is None:
        adapters = layer_adapters(parts, memory_layers(parts, layers))
    else:
        adapters = fitting_adapters(first, layers, options)
    if "decay" in given:  # that of the config may name layers without memory
        check_decay_layers(options.decay, adapters)
    find_makers = partial(store_makers, parts, adapters, options.dtype)
    contents = Contents.empty(find_makers(store, store_options))
    attached = AttachedModel(parts, adapters, options, contents, first)
    return _connected(Memory(), attached, find_makers)


def _attach_saved(
    parts: ModelParts,
    directory: MemoryDirectory,
    given: dict[str, Any],
    store: str | Mapping[int, str],
    store_options: dict[str, Any],
    first: AttachedModel | None,
    *,
    progress: bool,
    append_only: bool,
) -> Memory:
    """Attach a memory, and fill it from its directory."""
    memory = None
    try:
        facts, layers = directory.manifest.facts, directory.manifest.layers
        saved = {name: getattr(facts, name) for name in SAVED_OPTIONS}
        options = MemoryOptions.choose(parts, {"dtype": layers[0].shape.dtype, **saved, **given})
        chosen = [each.layer for each in layers]
        memory = attach_to(parts, store, chosen, options, store_options, first, given=given)
        require_same_model(facts, memory.attached_model, directory.name)
        contents = memory.attached_model.contents
        require_same_shapes(directory, contents)
        contents.appends_only = append_only
        contents = filled(contents, directory, progress=progress)
        require_known_tokens(contents, parts.decoder.config.vocab_size, directory.name)
        contents.directory = directory
        memory.attached_model.contents = contents
        return memory
    except BaseException:
        if memory is not None:
            memory.detach()
        directory.close()
        raise


def _attach_again(
    parts: ModelParts,
    memory: Memory,
    given: dict[str, Any],
    store: str | Mapping[int, str] | None,
    store_options: dict[str, Any],
    first: AttachedModel | None,
) -> Memory:
    """Attach a memory that was detached, to its model or to an equal one."""
    if memory.attached:
        raise AttachError("this memory is attached to a model already; call its detach() first")
    before, options = memory.attached_model, replace(memory.options, **given)
    if "decay" in given:
        check_decay_layers(options.decay, memory.layers)
    if first is None:
        adapters = layer_adapters(parts, memory.layers)
    else:
        adapters = fitting_adapters(first, memory.layers, options)
    attached = AttachedModel(parts, adapters, options, before.contents, first)
    if parts.model is not before.parts.model:
        require_equal_models(before, attached)
    _connected(memory, attached, partial(store_makers, parts, adapters, options.dtype))
    if store is not None or store_options:
        memory.use("exact" if store is None else store, **store_options)
    return memory


def _connected(
    memory: Memory,
    attached: AttachedModel,
    find_makers: Callable[[str | Mapping[int, str], dict[str, Any]], Makers],
) -> Memory:
    """Let a memory and a model belong together; return the memory."""
    undo = ExitStack()
    memory.connect(attached, find_makers, restore=undo.close)
    try:
        with interrupts_deferred():
            if attached.default is attached:
                replace_forwards(attached, undo)
        return memory
    except BaseException:  # Ctrl-C, too: nobody would have the memory to detach it
        memory.detach()
        raise
