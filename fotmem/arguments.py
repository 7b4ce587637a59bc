"""The numbers that say how a memory is looked at, checked."""

from __future__ import annotations

import math
from contextlib import suppress
from numbers import Real
from operator import index
from typing import Any

from fotmem.errors import OptionError


def checked_integer(name: str, number: Any, kind: str = "an integer") -> int:
    """Return an integer as Python's own; numpy's are fine, booleans are not.

    Raises
    ------
    OptionError
        It is none; `kind` says what was expected.
    """
    if not _is_boolean(number):
        with suppress(TypeError, ValueError, RuntimeError):  # the latter two: arrays, tensors
            return index(number)
    raise OptionError(f"{name} must be {kind}, got {number!r}")


def checked_boolean(name: str, value: Any) -> bool:
    """Return a boolean; what is merely true to Python, such as ``"no"``, is none.

    Raises
    ------
    OptionError
        It is none.
    """
    if not _is_boolean(value):
        raise OptionError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def checked_top_k(top_k: Any) -> int | None:
    """Check hits per query; None: attention to all.

    Raises
    ------
    OptionError
        It is no integer of at least 1.
    """
    if top_k is None:
        return None
    kind = "an integer of at least 1, or None for all"
    checked = checked_integer("top_k", top_k, kind)
    if checked < 1:
        raise OptionError(f"top_k must be {kind}, got {top_k!r}")
    return checked


def checked_window(window: Any, longest: int) -> int:
    """Check that a window is no longer than the model's positions.

    Raises
    ------
    OptionError
        It is, or it is no integer of at least 2.
    """
    tokens = checked_integer("window", window)
    if tokens < 2:
        raise OptionError(f"window must be at least 2 tokens, got {tokens}")
    if tokens > longest:
        raise OptionError(
            f"window must be at most the model's max_position_embeddings ({longest}), got {tokens}"
        )
    return tokens


def checked_distance(distance: Any, window: int, longest: int) -> int:
    """Check how many positions before a window memory stands.

    Raises
    ------
    OptionError
        It is no integer of at least 0, or so far that the model has too few positions.
    """
    positions = checked_integer("distance", distance)
    if not 0 <= positions <= longest - window:
        raise OptionError(
            f"distance must be from 0 to {longest - window}, got {positions}: a window of {window} "
            f"behind it must fit the model's max_position_embeddings ({longest})"
        )
    return positions


def checked_decay(decay: Any) -> float:
    """Check how fast what was read longer ago counts for less.

    Raises
    ------
    OptionError
        It is no finite number of at least 0.
    """
    if not (is_finite(decay) and decay >= 0):
        raise OptionError(f"decay must be a finite number of at least 0, got {decay!r}")
    return float(decay)


def checked_temperature(temperature: Any) -> float:
    """Check what scores of remembered keys are divided by.

    Raises
    ------
    OptionError
        It is no finite number above 0.
    """
    if not (is_finite(temperature) and temperature > 0):
        raise OptionError(f"temperature must be a finite number above 0, got {temperature!r}")
    return float(temperature)


def is_finite(number: Any) -> bool:
    """Tell real and finite numbers from all else, booleans included."""
    if not isinstance(number, Real) or _is_boolean(number):
        return False
    with suppress(OverflowError):  # an integer of 400 digits
        return math.isfinite(number)
    return False


def _is_boolean(number: Any) -> bool:
    """Tell booleans, also those of numpy and torch, which count as integers otherwise."""
    return isinstance(number, bool) or str(getattr(number, "dtype", "")).endswith("bool")
