"""Checks arguments: numbers, and those that say how a memory is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from numbers import Real
from operator import index
from typing import Annotated, Any, TypeGuard

from pydantic import AfterValidator

from fotmem.errors import OptionError, shown

PASSAGES, PASSAGE_TOKENS = 4, 96
"""How many passages of a memory are read again by default, and how long they are."""


def checked_integer(
    name: str, number: Any, kind: str = "", *, least: int | None = None, most: int | None = None
) -> int:
    """Return an integer as Python's own; numpy's integers are accepted, booleans are not.

    Raises
    ------
    OptionError
        It is not an integer, or out of range; `kind` says what was expected.
    """
    checked = number if type(number) is int else _as_integer(number)
    if checked is None or (least is not None and checked < least):
        kind = kind or ("an integer" if least is None else f"an integer of at least {least}")
        raise OptionError(f"{name} must be {kind}, got {shown(number)}")
    if most is not None and checked > most:
        raise OptionError(f"{name} must be at most {most:,}, got {checked}")
    return checked


def _as_integer(number: Any) -> int | None:
    if not _is_boolean(number):
        with suppress(TypeError, ValueError, RuntimeError):  # the latter two: arrays, tensors
            return index(number)
    return None


def checked_number(
    name: str,
    number: Any,
    *,
    kind: str,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Return a finite number as Python's own; booleans are not accepted.

    Raises
    ------
    OptionError
        It is not a finite number, or out of range; `kind` says what was expected.
    """
    if isinstance(number, Real) and not _is_boolean(number):
        with suppress(OverflowError):  # an integer of 400 digits
            checked = float(number)
            if math.isfinite(checked) and above < checked and least <= checked <= most:
                return checked
    raise OptionError(f"{name} must be {kind}, got {number!r}")


def checked_boolean(name: str, value: Any) -> bool:
    """Return a boolean; what is merely true to Python, such as ``"no"``, is not accepted.

    Raises
    ------
    OptionError
        It is not a boolean.
    """
    if not _is_boolean(value):
        raise OptionError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def checked_top_k(top_k: Any) -> int | None:
    """Check the number of hits per query; None means attention to all keys.

    Raises
    ------
    OptionError
        It is not an integer of at least 1.
    """
    if top_k is None:
        return None
    return checked_integer("top_k", top_k, "an integer of at least 1, or None for all", least=1)


def checked_window(window: Any, longest: int) -> int:
    """Check that a window has at least 2 tokens, and no more than the model has positions.

    Raises
    ------
    OptionError
        It has not, or it is not an integer.
    """
    tokens = checked_integer("window", window)
    if tokens < 2:
        raise OptionError(f"window must be at least 2 tokens, got {tokens}")
    if tokens > longest:
        raise OptionError(
            f"window must be at most the model's max_position_embeddings ({longest}), got {tokens}"
        )
    return tokens


def checked_last_context_length(length: Any, window: int) -> int:
    """Check that what stays local of a long input fits the window.

    Raises
    ------
    OptionError
        It does not, or it is not an integer of at least 1.
    """
    tokens = checked_integer("last_context_length", length)
    if not 1 <= tokens <= window:
        raise OptionError(
            f"last_context_length must be from 1 to the window ({window}), got {tokens}"
        )
    return tokens


def checked_distance(distance: Any, longest: int) -> int:
    """Check how many positions before each token remembered tokens stand.

    Raises
    ------
    OptionError
        It is not an integer of at least 0, or the model has too few positions for it.
    """
    positions = checked_integer("distance", distance)
    if not 0 <= positions < longest:
        raise OptionError(
            f"distance must be from 0 to {longest - 1}, got {positions}: the model's "
            f"max_position_embeddings are {longest}"
        )
    return positions


def checked_recent(recent: Any, longest: int, window: int = 1) -> int:
    """Check how many of the last remembered tokens keep their positions.

    Raises
    ------
    OptionError
        It is not an integer of at least 0, or the model has too few positions for it beside a
        window.
    """
    count = checked_integer("recent", recent, least=0)
    if count > longest - window:
        raise OptionError(
            f"recent must be from 0 to {longest - window}, got {count}: the model has {longest} "
            f"positions, and the window takes {window}"
        )
    return count


def checked_decay(decay: Any) -> float | dict[int, float]:
    """Check the power of age by which remembered keys lose weight, of all layers or by layer.

    Layers may be text, as in JSON.

    Raises
    ------
    OptionError
        A power is not a finite number of at least 0, or a layer not an integer of at least 0.
    """
    if not isinstance(decay, Mapping):
        kind = "a finite number, or one by layer, of at least 0"
        return checked_number("decay", decay, kind=kind, least=0)
    powers = {}
    for layer, power in decay.items():
        number = int(layer) if isinstance(layer, str) and layer.isdecimal() else layer
        place = checked_integer("a layer of decay", number, least=0)
        name, kind = f"decay of layer {place}", "a finite number of at least 0"
        powers[place] = checked_number(name, power, kind=kind, least=0)
    return powers


DecayField = Annotated[Any, AfterValidator(checked_decay)]
"""A decay in a file, checked."""


def checked_temperature(temperature: Any) -> float:
    """Check the divisor of the scores of remembered keys.

    Raises
    ------
    OptionError
        It is not a finite number above 0.
    """
    return checked_number("temperature", temperature, kind="a finite number above 0", above=0)


def differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Name the options in which another run differs from this one; empty if it does not."""
    return "; ".join(
        f"{name} {theirs.get(name)!r}, not {ours.get(name)!r}"
        for name in dict(ours) | dict(theirs)
        if theirs.get(name) != ours.get(name)
    )


def _is_boolean(number: Any) -> bool:
    """Recognize booleans, also those of numpy and torch, which pass for integers otherwise."""
    return isinstance(number, bool) or str(getattr(number, "dtype", "")).endswith("bool")


def is_text(value: object) -> TypeGuard[str]:
    """Return whether a value is a string that UTF-8 can hold, without half surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
