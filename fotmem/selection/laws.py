"""How figures of a store grow with the number of tokens: laws that are fitted to what was measured.

Costs are foretold from work: how many keys a query is compared with grows smoothly, and can be
counted without noise; the time that a key takes is what is measured. Where a store cannot tell, its
work is taken to grow with the logarithm of the tokens, as that of a graph does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Law = Callable[[float], float]
"""Takes a number of tokens, returns the figure."""
Array = NDArray[np.float64]
LAST = 4
"""Sizes, the largest, by which is judged how a cost or an amount goes on."""


def logarithm(tokens: float) -> float:
    """Return the work of a search through a graph, in no unit."""
    return math.log(tokens)


def power(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit ``a * N ** c`` with `c` from 0 to 1, by least squares of logarithms."""
    x, y = np.log(_floats(sizes)), np.log(_floats(values))
    slope = float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0
    slope = min(1.0, max(0.0, slope))
    begin = float(np.mean(y - slope * x))
    return lambda tokens: float(np.exp(begin + slope * np.log(tokens)))


def cost(sizes: Sequence[int], values: Sequence[float], work: Law) -> Law:
    """Fit a cost of searching: up to the largest size as measured, beyond it ``a + b * work``.

    Parameters
    ----------
    sizes : sequence of int
        Ascending.
    values : sequence of float
        More than 0.
    work : Law
        What it grows with, besides what it takes in any case.
    """
    x, y = _floats(sizes), _floats(values)
    done = np.array([work(size) for size in sizes])
    begin, slope = _line(done[-LAST:], y[-LAST:], 1 / y[-LAST:])

    def law(tokens: float) -> float:
        if tokens <= x[-1]:
            return float(np.exp(np.interp(np.log(tokens), np.log(x), np.log(y))))
        return float(begin + slope * work(tokens))

    return law


def amount(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit ``a + b * N``, neither less than 0: what is taken in any case, and by every token."""
    x, y = _floats(sizes)[-LAST:], _floats(values)[-LAST:]
    begin, slope = _line(x, y, 1 / x)
    return lambda tokens: float(begin + slope * tokens)


def share(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit ``a + b * log N`` within 0 and 1, which only grows with N."""
    x, y = np.log(_floats(sizes)), _floats(values)
    slope = float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0
    slope = max(0.0, slope)
    begin = float(np.mean(y - slope * x))
    return lambda tokens: float(np.clip(begin + slope * np.log(tokens), 0.0, 1.0))


def _line(x: Array, y: Array, weights: Array) -> tuple[float, float]:
    """Fit ``a + b * x``, neither less than 0."""
    terms = np.stack([np.ones_like(x), x], 1) * weights[:, None]
    (begin, slope), _ = nnls(terms, y * weights)
    return float(begin), float(slope)


def _floats(values: Sequence[float]) -> Array:
    return np.asarray(values, dtype=np.float64)
