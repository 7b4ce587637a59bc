"""Adapters with one mistake each, and the test of the contract that must fail for it."""

from tests.broken_adapters import attached, layers, parts, positions
from tests.broken_adapters.caught import BROKEN

__all__ = ["BROKEN", "attached", "layers", "parts", "positions"]
