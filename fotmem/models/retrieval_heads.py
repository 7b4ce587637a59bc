"""The heads of memory layers that rank passages, as a model's config has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fotmem.models.head_numbers import head_numbers

NAME = "mem_retrieval_heads"
"""In the config: by layer, the numbers of query heads."""


def retrieval_heads(config: Any, layers: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Read which query heads of memory layers rank passages.

    Few heads of a model retrieve (Wu et al. 2024, arXiv:2404.15574), and they rank passages better
    than all together (Zhang et al. 2025, arXiv:2506.09944).

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    layers : iterable of int

    Returns
    -------
    dict of int to tuple of int
        Query heads by layer, of the layers that have some; empty: all heads do.

    Raises
    ------
    OptionError
        The config has something else there.
    """
    heads = config.num_attention_heads

    def fit(numbers: list[Any] | tuple[Any, ...]) -> bool:
        are_heads = all(type(number) is int and 0 <= number < heads for number in numbers)
        return are_heads and len({*numbers}) == len(numbers)

    expected = f"numbers from 0 to {heads - 1} for layer {{layer}}, each once"
    found = head_numbers(config, NAME, layers, fit=fit, expected=expected)
    return {layer: tuple(numbers) for layer, numbers in found.items() if numbers}
