"""How a memory is looked at: one set of options, complete and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from fotmem.arguments import (
    checked_decay,
    checked_distance,
    checked_last_context_length,
    checked_recent,
    checked_temperature,
    checked_top_k,
    checked_window,
)
from fotmem.errors import DtypeError, LayerError, OptionError, shown
from fotmem.models.model_parts import ModelParts
from fotmem.stores.checks import DTYPES

DEFAULT_WINDOW = 2048
DEFAULT_TOP_K = 32
DTYPE_NAMES = "float32, bfloat16 or float16"


@dataclass(frozen=True)
class MemoryOptions:
    """How the memory layers of one model look at memory.

    `choose` reads them from arguments and from the model's config. `dataclasses.replace` changes
    some of them; what does not fit together is refused.

    Raises
    ------
    OptionError, DtypeError
        An option is out of range, or does not fit another one or the model.
    """

    longest: int
    """Positions that the model has (``max_position_embeddings``)."""
    window: int
    """Tokens of local context, at most."""
    last_context_length: int
    """Tokens of a longer input that stay local."""
    split_above: int
    """Longer inputs are split into windows."""
    dtype: torch.dtype
    """Of the keys and values in the stores."""
    top_k: int | None = DEFAULT_TOP_K
    """Hits per query and head; None: attention to all remembered keys."""
    distance: int = 0
    """How many positions before each token remembered keys stand; 0: at the window's first one."""
    recent: int = 0
    """How many of the last remembered tokens keep their positions, directly before the window."""
    decay: float | Mapping[int, float] = 0.0
    """Power of age by which remembered keys lose weight."""
    temperature: float = 1.0
    """Divisor of the scores of remembered keys."""
    positionals: bool = True
    """False: memory layers use no positions (``mem_positionals`` of the released code)."""

    def __post_init__(self) -> None:
        if self.recent and not self.positionals:
            raise OptionError(
                f"recent must be 0, got {shown(self.recent)}: memory layers of this model have no "
                "positions (mem_positionals of its config)"
            )
        window = checked_window(self.window, self.longest)
        checked = {
            "window": window,
            "last_context_length": checked_last_context_length(self.last_context_length, window),
            "top_k": checked_top_k(self.top_k),
            "distance": checked_distance(self.distance, self.longest),
            "recent": checked_recent(self.recent, self.longest, window),
            "decay": checked_decay(self.decay),
            "temperature": checked_temperature(self.temperature),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.dtype not in DTYPES:
            cure = "pass one of these, such as torch.float32"
            raise DtypeError("dtype", expected=DTYPE_NAMES, actual=self.dtype, cure=cure)

    @classmethod
    def choose(cls, parts: ModelParts, given: Mapping[str, Any]) -> Self:
        """Take the options that are `given`, and all others from the model's config.

        Parameters
        ----------
        parts : ModelParts
        given : mapping of str to object
            Options by name.
        """
        if parts.model.dtype not in DTYPES:
            raise DtypeError("the model", expected=DTYPE_NAMES, actual=parts.model.dtype)
        config = parts.decoder.config
        options: dict[str, Any] = {
            "longest": int(config.max_position_embeddings),
            "distance": getattr(config, "mem_distance", 0),
            "decay": getattr(config, "mem_decay", 0.0),
            "temperature": getattr(config, "mem_temperature", 1.0),
            "dtype": _config_dtype(config) or parts.model.dtype,
            "positionals": bool(getattr(config, "mem_positionals", True)),
            **given,
        }
        if "window" not in options:
            options["window"] = min(options["longest"], DEFAULT_WINDOW)
        window = checked_window(options["window"], options["longest"])
        options.setdefault("last_context_length", max(1, window // 2))
        options.setdefault("split_above", window)
        options.setdefault("recent", _config_recent(config, options, window))
        return cls(**options)


def check_decay_layers(decay: float | Mapping[int, float], layers: Collection[int]) -> None:
    """Raise `LayerError` if a decay by layer names one without memory."""
    for layer in decay if isinstance(decay, Mapping) else ():
        if layer not in layers:
            raise LayerError(
                f"decay names layer {layer}, which has no memory; memory layers are "
                f"{sorted(layers)}: name these only"
            )


def _config_recent(config: Any, options: Mapping[str, Any], window: int) -> int:
    """Return how many recent tokens a model was trained with, or as many as have room."""
    longest = options["longest"]
    recent = checked_recent(getattr(config, "mem_recent", 0), longest)
    return min(recent, longest - window) if options["positionals"] else 0


def _config_dtype(config: Any) -> torch.dtype | None:
    name = getattr(config, "mem_dtype", None)
    if name is None:
        return None
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if dtype not in DTYPES:
        cure = "set it to one of these, or pass dtype=torch.float32"
        raise DtypeError("mem_dtype of the config", expected=DTYPE_NAMES, actual=name, cure=cure)
    return dtype  # type: ignore[no-any-return]
