"""Crossbatch: training in which attention sees other windows (Tworkowski et al. 2023)."""

from fotmem.crossbatch.bank import Bank
from fotmem.crossbatch.model import Crossbatch
from fotmem.crossbatch.published import longllama, paper

__all__ = ["Bank", "Crossbatch", "longllama", "paper"]
