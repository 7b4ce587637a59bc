"""Attaches a memory to a model, and takes it off again without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fotmem.adapter import Adapter
from fotmem.arguments import checked_distance, checked_top_k, checked_window
from fotmem.errors import DtypeError, OptionError, UnknownStoreError
from fotmem.interrupts import interrupts_deferred
from fotmem.memory.config import read_config
from fotmem.memory.forward import attention_forward, decoder_forward
from fotmem.memory.memory import Memory, MemoryParts
from fotmem.memory.windows import Windowing
from fotmem.models.memory_layers import layer_adapters, memory_layers
from fotmem.models.model_parts import ModelParts, cache_argument, model_parts, plain_model
from fotmem.models.replace_forward import own_forward, refuse_methods, replace_forward
from fotmem.models.unsupported import refuse_changing_rope
from fotmem.plugin.registry import available_stores, create_store, find_store, shared_options
from fotmem.stores.checks import DTYPES
from fotmem.stores.store import MemoryStore

DEFAULT_WINDOW = 2048
DEFAULT_TOP_K = 32
DTYPE_NAMES = "float32, bfloat16 or float16"


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

    The model is then used as before (``model(...)``, ``model.generate(...)``, pipelines); its
    memory layers also attend to what `Memory.read` has read, and inputs longer than `window`
    are split, the part that no longer fits going to the overflow of that call's cache
    (Tworkowski et al. 2023, "Focused Transformer", arXiv:2307.03170).

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
        A file such as `select` writes, ``fotmem.toml``: it says which store, with which options,
        and perhaps other arguments of this function. Those that are given here go before it.
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
        How fast what was read longer ago counts for less: a key of `n` windows ago, from 1 to 64,
        counts for ``n ** -decay`` of a local one with the same score. Long memories of plain text
        distract less then; what is looked for scores so far higher that it loses little. Default:
        the config's ``mem_decay``, else 0 as in the released code.
    temperature : float, optional
        What scores of remembered keys are divided by, those of the local context not. Below 1, the
        best of many keys count for more, above 1 for less. Default: the config's
        ``mem_temperature``, else 1 as in the released code.
    dtype : torch.dtype, optional
        In which keys and values are remembered. Default: the config's ``mem_dtype``, else the
        model's.
    **options
        The stores' own; where layers have different stores, each gets those that it has.

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
        What was asked for is not to be had; the message says what is.
    InputError
        `config` cannot be read.
    """
    if not isinstance(top_k, str) or top_k != "default":
        top_k = checked_top_k(top_k)
    if config is not None:
        if store is not None or options:
            both = ", ".join(["store"] * (store is not None) + list(options))
            raise OptionError(
                f"config says which store, with which options; got also {both}: give "
                "one or the other"
            )
        read = read_config(config)
        given = {
            "layers": layers,
            "window": window,
            "last_context_length": last_context_length,
            "distance": distance,
            "decay": decay,
            "temperature": temperature,
            "dtype": dtype,
        }
        settings = {**read.settings, **{n: each for n, each in given.items() if each is not None}}
        if top_k != "default":
            settings["top_k"] = top_k
        return attach(model, read.store, **settings, **read.options)
    model_config = plain_model(model).config
    longest = int(model_config.max_position_embeddings)
    if window is None:
        window = min(longest - memory_distance(model_config, distance, 2), DEFAULT_WINDOW)
    else:
        window = checked_window(window, longest)
    if last_context_length is None:
        last_context_length = max(1, window // 2)
    windowing = Windowing(window, last_context_length, split_above=window)
    refuse_changing_rope(model_config, window + memory_distance(model_config, distance, window))
    return attach_with(
        model,
        "exact" if store is None else store,
        layers,
        top_k=DEFAULT_TOP_K if top_k == "default" else top_k,
        windowing=windowing,
        distance=distance,
        decay=decay,
        temperature=temperature,
        dtype=dtype,
        options=options,
    )


def memory_distance(config: Any, distance: int | None, window: int) -> int:
    """Check how far from a window memory stands; None: the config's ``mem_distance``, else 0."""
    if distance is None:
        distance = getattr(config, "mem_distance", 0)
    return checked_distance(distance, window, config.max_position_embeddings)


def attach_with(
    model: nn.Module,
    store: str | Mapping[int, str],
    layers: Iterable[int] | None,
    *,
    top_k: int | None,
    windowing: Windowing,
    distance: int | None,
    decay: float | None,
    temperature: float | None,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> Memory:
    """Attach a memory that splits long input as `windowing` says."""
    parts = model_parts(model)
    if layers is None and isinstance(store, Mapping):
        layers = store
    chosen = memory_layers(parts, layers)
    adapters = layer_adapters(parts, chosen)
    config: Any = parts.decoder.config
    dtype = dtype or _config_dtype(config) or parts.model.dtype
    if parts.model.dtype not in DTYPES:
        raise DtypeError("the model", expected=DTYPE_NAMES, actual=parts.model.dtype)
    if dtype not in DTYPES:
        cure = "pass one of these, such as torch.float32"
        raise DtypeError("dtype", expected=DTYPE_NAMES, actual=dtype, cure=cure)
    makers = functools.partial(_store_makers, parts, adapters, dtype)
    remembered = MemoryParts(
        adapters=adapters,
        decoder=parts.decoder,
        plain_forward=functools.partial(own_forward(parts.decoder), parts.decoder),
        cache_argument=cache_argument(type(parts.decoder)),
        attentions=parts.attentions,
        makers=makers,
        windowing=windowing,
        positionals=bool(getattr(config, "mem_positionals", True)),
        distance=memory_distance(config, distance, windowing.window),
        decay=getattr(config, "mem_decay", 0.0) if decay is None else decay,
        temperature=getattr(config, "mem_temperature", 1.0) if temperature is None else temperature,
    )
    undo = ExitStack()
    memory = Memory(remembered, makers(store, options), top_k, restore=undo.close)
    try:
        with interrupts_deferred():
            _patch(parts, memory, undo)
        return memory
    except BaseException:  # Ctrl-C, too: nobody would have the memory to detach it
        memory.detach()
        raise


def _patch(parts: ModelParts, memory: Memory, undo: ExitStack) -> None:
    """Put the memory's functions into the model."""
    for layer in memory.layers:
        attention = parts.attentions[layer]
        undo.callback(replace_forward(attention, memory, _attention_call(memory, layer)))
    undo.callback(replace_forward(parts.decoder, memory, _decoder_call(memory)))
    undo.callback(refuse_methods(parts.model))


def _store_makers(
    parts: ModelParts,
    adapters: dict[int, Adapter],
    dtype: torch.dtype,
    store: str | Mapping[int, str],
    options: dict[str, Any],
) -> dict[int, Callable[[], MemoryStore]]:
    """Check names and options; return what makes each layer's stores."""
    names = _store_names(store, list(adapters))
    shares = shared_options([find_store(name) for name in dict.fromkeys(names.values())], options)
    return {
        layer: functools.partial(
            _make_store, name, adapters[layer], parts.attentions[layer], dtype, shares[name]
        )
        for layer, name in names.items()
    }


def _store_names(store: str | Mapping[int, str], layers: list[int]) -> dict[int, str]:
    if isinstance(store, str):
        return dict.fromkeys(layers, store)
    if not isinstance(store, Mapping):
        raise OptionError(f"store must be a name, or a mapping of layers to names, got {store!r}")
    for name in store.values():
        if not isinstance(name, str):
            raise UnknownStoreError(name, available_stores())
    if set(store) != set(layers):
        raise OptionError(
            f"store names layers {list(store)}, but the memory layers are {layers}: "
            "name a store for each of these, and for no other"
        )
    return {layer: store[layer] for layer in layers}


def _config_dtype(config: Any) -> torch.dtype | None:
    name = getattr(config, "mem_dtype", None)
    if name is None:
        return None
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if dtype not in DTYPES:
        raise DtypeError(
            "mem_dtype of the config",
            expected=DTYPE_NAMES,
            actual=name,
            cure="set it to one of these, or pass dtype=torch.float32",
        )
    return dtype  # type: ignore[no-any-return]


def _make_store(
    name: str, adapter: Adapter, attention: nn.Module, dtype: torch.dtype, options: dict[str, Any]
) -> MemoryStore:
    num_heads, head_dim, _ = adapter.geometry(attention)
    device = _execution_device(attention)
    if device.type not in find_store(name).capabilities.devices:
        device = torch.device("cpu")
    return create_store(
        name, num_heads=num_heads, head_dim=head_dim, dtype=dtype, device=device, **options
    )


def _execution_device(module: nn.Module) -> torch.device:
    """Where a module computes; its weights may wait elsewhere (accelerate's offloading)."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)  # type: ignore[union-attr]
    for weight in module.parameters():
        return weight.device
    return torch.device("cpu")  # torch's dynamic quantisation keeps weights in no parameters


def _decoder_call(memory: Memory) -> Callable[..., Any]:
    plain_forward = own_forward(memory.decoder)

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(plain_forward, module)
        if not memory.attached:  # Ctrl-C, while it was attached or detached
            return plain(*args, **kwargs)
        return decoder_forward(memory, plain, *args, **kwargs)

    disabled: Callable[..., Any] = torch.compiler.disable(  # runs eagerly, not traced
        forward, reason="a fotmem memory is attached; call memory.detach() to trace the plain model"
    )
    return disabled


def _attention_call(memory: Memory, layer: int) -> Callable[..., Any]:
    plain_forward = own_forward(memory.attention(layer))

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not memory.attached:
            return plain_forward(module, *args, **kwargs)
        return attention_forward(memory, layer, plain_forward, module, *args, **kwargs)

    return forward
