"""Stores with one fault each, and the test of the contract that must catch it."""

from tests.broken_stores import (  # noqa: F401 - each fills BROKEN
    among,
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
