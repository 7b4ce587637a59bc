"""Crossbatch: training attention to look into other windows (Tworkowski et al. 2023)."""

from fotmem.crossbatch.forms import longllama, paper

__all__ = ["longllama", "paper"]
