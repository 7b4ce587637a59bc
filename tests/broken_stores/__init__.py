"""Stores that are wrong on purpose, each with the test of the contract that must catch it."""

from tests.broken_stores import (  # noqa: F401 - each fills BROKEN
    attending,
    disk,
    ids,
    independence,
    inputs,
    large,
    larger,
    limits,
    memory,
    naming,
    searching,
    sharing,
    surroundings,
    threads,
)
from tests.broken_stores.registry import BROKEN, Broken

__all__ = ["BROKEN", "Broken"]
