"""Temperatures that the heads of memory layers have learned, as a model's config has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, tensor

from fotmem.errors import OptionError

NAME = "mem_head_temperatures"
"""In the config: by layer, the temperature of each query head."""


def head_temperatures(config: Any, layers: Iterable[int]) -> dict[int, Tensor]:
    """Read the temperatures of the heads of memory layers; they divide scores of remembered keys.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    layers : iterable of int

    Returns
    -------
    dict of int to Tensor
        float32 ``[H * G, 1, 1]``, of the layers that have some.

    Raises
    ------
    OptionError
        The config has something else there.
    """
    given = getattr(config, NAME, None) or {}
    if not isinstance(given, Mapping):
        raise OptionError(f"{NAME} of the config must be numbers of heads by layer, got {given!r}")
    by_layer = {str(layer): numbers for layer, numbers in given.items()}
    heads = config.num_attention_heads
    found = {}
    for layer in layers:
        numbers = by_layer.get(str(layer))
        if numbers is None:
            continue
        if not isinstance(numbers, list | tuple) or not _fit(numbers, heads):
            raise OptionError(
                f"{NAME} of the config must have {heads} finite numbers above 0 for layer {layer}, "
                f"one for each query head; got {numbers!r}"
            )
        found[layer] = tensor(numbers).view(heads, 1, 1).float()
    return found


def _fit(numbers: list[Any] | tuple[Any, ...], heads: int) -> bool:
    return len(numbers) == heads and all(
        type(number) in (int, float) and 0 < number < math.inf for number in numbers
    )
