"""Contracts: what a plugin must keep, as pytest classes to inherit."""

from fotmem.testing.adapter import AdapterContract

__all__ = ["AdapterContract"]
