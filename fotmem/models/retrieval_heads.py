"""The heads of memory layers that rank passages, as a model's config has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fotmem.errors import OptionError

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
                f"{NAME} of the config must have numbers from 0 to {heads - 1} for layer {layer}, "
                f"each once; got {numbers!r}"
            )
        if numbers:
            found[layer] = tuple(numbers)
    return found


def _fit(numbers: list[Any] | tuple[Any, ...], heads: int) -> bool:
    return len({*map(repr, numbers)}) == len(numbers) and all(
        type(number) is int and 0 <= number < heads for number in numbers
    )
