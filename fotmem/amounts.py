"""Reads amounts with units, such as 1M tokens, 4GiB or 20ms."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from fotmem.arguments import checked_integer, checked_number
from fotmem.errors import OptionError

LARGEST = 2**50
"""Tokens or bytes: a limit that no machine reaches."""
SEEDS = 2**32
"""Seeds that NumPy takes are below it."""


def count(name: str, given: Any, *, least: int = 1) -> int:
    """Read a number of tokens, or of anything: ``1000``, or ``"4k"`` (4,096), or ``"1M"``.

    Raises
    ------
    OptionError
        The value is not a number, is less than `least`, or exceeds `LARGEST`.
    """
    if isinstance(given, str):
        size = re.fullmatch(r"\s*([0-9]{1,16})\s*([kM]?)\s*", given)
        if size is None:
            raise OptionError(f"{name} must be a number such as 4096, 16k or 1M, got {given!r}")
        number = int(size[1]) * {"": 1, "k": 2**10, "M": 2**20}[size[2]]
    else:
        number = checked_integer(name, given)
    if number < least:
        raise OptionError(f"{name} must be at least {least}, got {given!r}")
    if number > LARGEST:
        raise OptionError(f"{name} must be at most 2**50, got {given!r}")
    return number


def size_in_bytes(name: str, given: Any) -> int:
    """Read a number of bytes: ``2**30``, or ``"4GiB"``.

    Raises
    ------
    OptionError
        The value is not a number of bytes, is less than 1, or exceeds `LARGEST`.
    """
    try:
        number = given
        if isinstance(given, str):
            number = int(TypeAdapter(ByteSize).validate_python(given if given.isascii() else ""))
        number = checked_integer(name, number)
    except (ValidationError, OptionError, ArithmeticError):
        raise OptionError(
            f"{name} must be a number of bytes, such as 4GiB, got {given!r}"
        ) from None
    if not 1 <= number <= LARGEST:
        raise OptionError(f"{name} must be more than 0, and at most 2**50 bytes, got {given!r}")
    return number


def seconds(name: str, given: Any) -> float:
    """Read a time: ``0.02`` seconds, or ``"20ms"``, or ``"0.02s"``.

    Raises
    ------
    OptionError
        The value is not a time, or not above 0.
    """
    number = given
    if isinstance(given, str):
        time = re.fullmatch(r"\s*([0-9]{1,16}(?:\.[0-9]{1,16})?)\s*(ms|s)\s*", given)
        if time is None:
            raise OptionError(f"{name}: expected a time such as 20ms, got {given!r}")
        number = float(time[1]) / {"s": 1, "ms": 1000}[time[2]]
    return checked_number(name, number, kind="more than 0, in seconds or such as 20ms", above=0)


def seed(given: Any) -> int:
    """Check a seed of whatever is random.

    Raises
    ------
    OptionError
        It is not an integer from 0 to before 2**32.
    """
    number = checked_integer("seed", given)
    if not 0 <= number < SEEDS:
        raise OptionError(f"seed must be from 0 to {SEEDS - 1}, got {given!r}")
    return number
