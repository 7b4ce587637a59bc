"""A model with a memory: everything that its memory layers need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, Self

from torch import nn

from fotmem.adapter import Adapter
from fotmem.errors import LayerError, UnsupportedError
from fotmem.memory.contents import Contents
from fotmem.memory.options import MemoryOptions
from fotmem.memory.trace import Trace
from fotmem.models.model_parts import ModelParts, cache_argument
from fotmem.models.replace_forward import own_forward
from fotmem.stores.store import MemoryStore


@dataclass(eq=False)
class AttachedModel:
    """The parts of a model, what it remembers, and how it looks at it.

    The forward functions and the caches of an attached model hold it. `options` and `contents` are
    never changed in place but replaced as a whole: a call of the model that is under way goes on
    with the contents that it began with.
    """

    parts: ModelParts
    adapters: Mapping[int, Adapter]
    """Of every memory layer."""
    options: MemoryOptions
    contents: Contents
    is_attached: bool = True
    """False: the model has its own forward functions back."""
    last_trace: Trace | None = None
    """Of the last call that ended; None if there is nothing to explain."""
    unproven: set[int] = field(init=False)
    """Memory layers whose adapter has not been compared with the layer yet."""
    plain_forward: Callable[..., Any] = field(init=False)
    """The decoder's own forward."""
    cache_argument: str = field(init=False)
    """The name of the decoder's argument for its cache."""

    def __post_init__(self) -> None:
        self.unproven = set(self.adapters)
        self.plain_forward = partial(own_forward(self.decoder), self.decoder)
        self.cache_argument = cache_argument(type(self.decoder))

    @property
    def decoder(self) -> nn.Module:
        """The module that runs the layers."""
        decoder: nn.Module = self.parts.decoder
        return decoder

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
            "save the tokens, and read or run them again where they are loaded",
        )
