"""Temperatures that the heads of memory layers have learned, as a model's config has them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, tensor

from fotmem.models.head_numbers import head_numbers

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
    heads = config.num_attention_heads
    found = head_numbers(
        config,
        NAME,
        layers,
        fit=lambda numbers: len(numbers) == heads and all(map(_is_temperature, numbers)),
        expected=f"{heads} finite numbers above 0 for layer {{layer}}, one for each query head",
    )
    return {layer: tensor(numbers).view(heads, 1, 1).float() for layer, numbers in found.items()}


def _is_temperature(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number < math.inf
