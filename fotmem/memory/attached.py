"""A model with a memory: everything that its memory layers need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from fotmem.adapter import Adapter
from fotmem.errors import LayerError, UnsupportedError
from fotmem.memory.contents import Contents
from fotmem.memory.options import MemoryOptions
from fotmem.memory.overflow import Overflow
from fotmem.memory.stats import SearchCounter
from fotmem.memory.trace import Trace, last_trace
from fotmem.models.head_temperatures import head_temperatures
from fotmem.models.model_parts import ModelParts, cache_argument
from fotmem.models.replace_forward import own_forward
from fotmem.models.retrieval_heads import retrieval_heads
from fotmem.stores.store import MemoryStore


class AttachedModel:
    """The parts of a model, what it remembers, and how it looks at it.

    Each memory of a model has one. That of the first memory, the default, is held by the forward
    functions and the caches of the model; the others refer to it. `options` and `contents` are
    never changed in place but replaced as a whole: a call of the model that is under way goes on
    with the contents that it began with.

    Parameters
    ----------
    parts : ModelParts
    adapters : mapping of int to Adapter
        Of every memory layer.
    options : MemoryOptions
    contents : Contents
    default : AttachedModel, optional
        Of the model's default memory; None: this is it.

    Attributes
    ----------
    unproven : set of int
        Memory layers whose adapter has not been compared with the layer yet.
    plain_forward : callable
        The decoder's own forward.
    cache_argument : str
        The name of the decoder's argument for its cache.
    counter : SearchCounter
        Of the searches in this memory.
    overflow : Overflow
        Of the caches of the model; none, where another memory is the default.
    retrieval_heads : dict of int to tuple of int
        By layer, the query heads that rank passages; empty: all.
    """

    def __init__(
        self,
        parts: ModelParts,
        adapters: Mapping[int, Adapter],
        options: MemoryOptions,
        contents: Contents,
        default: AttachedModel | None = None,
    ) -> None:
        self.parts, self.adapters = parts, adapters
        self._options, self.contents = options, contents
        self._other_default, self._is_attached = default, True
        if default is None:
            self.unproven = set(adapters)
            self.plain_forward: Callable[..., Any] = partial(
                own_forward(self.decoder), self.decoder
            )
        else:  # the decoder's forward is replaced already
            self.unproven, self.plain_forward = default.unproven, default.plain_forward
        self.cache_argument = cache_argument(type(self.decoder))
        self._temperatures = head_temperatures(parts.decoder.config, adapters)
        self.retrieval_heads = retrieval_heads(parts.decoder.config, adapters)
        self.counter, self.overflow = SearchCounter(), Overflow()

    @property
    def default(self) -> AttachedModel:
        """That of the model's default memory: itself, or another."""
        return self._other_default or self

    @property
    def options(self) -> MemoryOptions:
        """How memory is looked at; positions are those of the default memory."""
        mine, default = self._options, self.default._options
        if (mine.distance, mine.recent) != (default.distance, default.recent):
            self._options = replace(mine, distance=default.distance, recent=default.recent)
        return self._options

    @options.setter
    def options(self, options: MemoryOptions) -> None:
        self._options = options

    @property
    def is_attached(self) -> bool:
        """False: the memory was detached, or the model has its own forward functions back."""
        default = self._other_default
        return self._is_attached and (default is None or default.is_attached)

    @is_attached.setter
    def is_attached(self, is_attached: bool) -> None:
        self._is_attached = is_attached

    @property
    def last_trace(self) -> Trace | None:
        """Of the last call of the model in this thread or task; None if there is none."""
        return last_trace(self.default)

    @property
    def decoder(self) -> nn.Module:
        """The module that runs the layers."""
        decoder: nn.Module = self.parts.decoder
        return decoder

    @property
    def input_device(self) -> torch.device:
        """Where the decoder takes token ids: the device of its embeddings; CPU if offloaded."""
        device: torch.device = self.decoder.get_input_embeddings().weight.device  # type: ignore[operator]
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the memory layers, ascending."""
        return tuple(self.adapters)

    def attention(self, layer: int) -> nn.Module:
        """Return the attention module of a layer."""
        return self.parts.attentions[layer]

    def geometry(self, layer: int) -> tuple[int, int, float]:
        """Return a memory layer's key/value heads, head dimension and factor of the scores."""
        return self.adapters[layer].geometry(self.attention(layer))

    def sharpened(self, layer: int, query: Tensor) -> Tensor:
        """Divide queries ``[B, H * G, T, D]`` for memory by what their heads have learned."""
        temperatures = self._temperatures.get(layer)
        return query if temperatures is None else query / temperatures.to(query)

    def new_store(self, layer: int) -> MemoryStore:
        """Make an empty store of the kind that this memory layer has."""
        return self.contents.makers[layer]()

    def check_layer(self, layer: int) -> None:
        """Raise `LayerError` unless this is a memory layer."""
        if isinstance(layer, bool) or layer not in self.layers:
            raise LayerError(
                f"layer {layer!r} has no memory; memory layers are {list(self.layers)}: pass one "
                "of these, or attach a memory with other layers"
            )

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # a copied cache still belongs to this memory

    def __reduce__(self) -> NoReturn:
        raise UnsupportedError(
            "pickle (and torch.save) of a Memory, or of a cache that looks at it,",
            "save the memory to a directory by memory.save(), and open it where it is needed",
        )
