"""Reads what a model's config says about query heads: numbers, by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fotmem.errors import OptionError


def head_numbers(
    config: Any,
    name: str,
    layers: Iterable[int],
    *,
    fit: Callable[[list[Any] | tuple[Any, ...]], bool],
    expected: str,
) -> dict[int, list[Any] | tuple[Any, ...]]:
    """Read the numbers of layers that have some.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    name : str
        Of the entry.
    layers : iterable of int
    fit : callable
        Whether the numbers of a layer are right.
    expected : str
        What they must be, with a place for the ``layer``.

    Raises
    ------
    OptionError
        The config has something else there.
    """
    given = getattr(config, name, None) or {}
    if not isinstance(given, Mapping):
        raise OptionError(f"{name} of the config must be numbers of heads by layer, got {given!r}")
    by_layer, found = {str(layer): numbers for layer, numbers in given.items()}, {}
    for layer in layers:
        numbers = by_layer.get(str(layer))
        if numbers is None:
            continue
        if not isinstance(numbers, list | tuple) or not fit(numbers):
            must = expected.format(layer=layer)
            raise OptionError(f"{name} of the config must have {must}; got {numbers!r}")
        found[layer] = numbers
    return found
