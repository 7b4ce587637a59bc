"""Attaches a memory to a model, and detaches it without a trace.

Two forward functions of the model are replaced: the decoder's by `forward.decoder_forward`, and
that of every memory layer's attention module by `attend.attention_forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fotmem.arguments import checked_top_k
from fotmem.errors import OptionError
from fotmem.interrupts import interrupts_deferred
from fotmem.memory.attached import AttachedModel
from fotmem.memory.attend import attention_forward
from fotmem.memory.config import read_config
from fotmem.memory.contents import Contents
from fotmem.memory.forward import decoder_forward
from fotmem.memory.memory import Memory
from fotmem.memory.options import MemoryOptions
from fotmem.memory.store_makers import store_makers
from fotmem.models.memory_layers import layer_adapters, memory_layers
from fotmem.models.model_parts import ModelParts, model_parts
from fotmem.models.replace_forward import own_forward, refuse_methods, replace_forward
from fotmem.models.unsupported import refuse_changing_rope


def attach(
    model: nn.Module,
    store: str | Mapping[int, str] | None = None,
    layers: Iterable[int] | None = None,
    *,
    config: str | Path | None = None,
    top_k: int | Literal["default"] | None = "default",
    window: int | None = None,
    last_context_length: int | None = None,
    distance: int | None = None,
    decay: float | None = None,
    temperature: float | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Memory:
    """Give some attention layers of a model a memory.

    The model is then used as before (``model(...)``, ``model.generate(...)``, pipelines). Its
    memory layers also attend to what `Memory.read` has read. Inputs longer than `window` are
    split; what no longer fits goes to the overflow of that call's cache (Tworkowski et al. 2023,
    "Focused Transformer", arXiv:2307.03170).

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A model that an adapter knows, see `available_adapters`.
    store : str or mapping of int to str, optional
        Name of the store for all memory layers, or one for each. Default: ``exact``.
    layers : iterable of int, optional
        Memory layers, from 0. Default: the keys of `store`, else the config's ``mem_layers``, else
        what ``fotmem layers`` proposed for this model.
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
        How many positions before the local context remembered tokens stand, all at the same one
        (as in InfLLM, Xiao et al. 2024, arXiv:2402.04617). Near ones distract a model that was
        not trained with memory. Default: the config's ``mem_distance``, else 0 as in the released
        code.
    decay : float, optional
        How fast older keys lose weight: a key of `n` windows ago, from 1 to 64, has ``n ** -decay``
        times the weight of a local key with the same score. Long memories of plain text then
        distract less; the key of an answer scores so much higher that it loses little. Default:
        the config's ``mem_decay``, else 0 as in the released code.
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
        Empty. Detach with `Memory.detach`, or use it as a context manager.

    Raises
    ------
    ModelError
        No adapter knows the model.
    AttachError
        It has a memory already.
    LayerError
        No memory layers are known, or a layer does not exist.
    UnknownStoreError, MissingPackageError, OptionError, DtypeError, UnsupportedError
        There is no such store or option, or the model cannot have a memory; the message says what
        is possible.
    InputError
        `config` cannot be read.
    """
    named: dict[str, Any] = {
        "layers": layers,
        "window": window,
        "last_context_length": last_context_length,
        "distance": distance,
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
    parts = model_parts(model)
    chosen = given.pop("layers", None)
    how = MemoryOptions.choose(parts, given)
    return attach_to(parts, "exact" if store is None else store, chosen, how, options)


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
) -> Memory:
    """Attach a memory to a model that was taken apart; arguments as in `attach`."""
    refuse_changing_rope(parts.decoder.config, options.window + options.distance)
    if layers is None and isinstance(store, Mapping):
        layers = store
    adapters = layer_adapters(parts, memory_layers(parts, layers))
    find_makers = partial(store_makers, parts, adapters, options.dtype)
    contents = Contents.empty(find_makers(store, store_options))
    attached, undo = AttachedModel(parts, adapters, options, contents), ExitStack()
    memory = Memory(attached, find_makers, restore=undo.close)
    try:
        with interrupts_deferred():
            _replace_forwards(attached, undo)
        return memory
    except BaseException:  # Ctrl-C, too: nobody would have the memory to detach it
        memory.detach()
        raise


def _replace_forwards(attached: AttachedModel, undo: ExitStack) -> None:
    for layer in attached.layers:
        function = _attention_call(attached, layer)
        undo.callback(replace_forward(attached.attention(layer), attached, function))
    undo.callback(replace_forward(attached.decoder, attached, _decoder_call(attached)))
    undo.callback(refuse_methods(attached.parts.model))


def _decoder_call(attached: AttachedModel) -> Callable[..., Any]:
    plain_forward = own_forward(attached.decoder)

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = partial(plain_forward, module)
        if not attached.is_attached:  # Ctrl-C, while it was attached or detached
            return plain(*args, **kwargs)
        return decoder_forward(attached, plain, *args, **kwargs)

    disabled: Callable[..., Any] = torch.compiler.disable(  # runs eagerly, not traced
        forward, reason="a fotmem memory is attached; call memory.detach() to trace the plain model"
    )
    return disabled


def _attention_call(attached: AttachedModel, layer: int) -> Callable[..., Any]:
    plain_forward = own_forward(attached.attention(layer))

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not attached.is_attached:
            return plain_forward(module, *args, **kwargs)
        return attention_forward(attached, layer, plain_forward, module, *args, **kwargs)

    return forward
