"""How figures of a store grow with the number of tokens: laws that are fitted to what was measured.

Costs are foretold from work: how many keys a query is compared with grows smoothly, and can be
counted without noise; the time that a key takes is what is measured. A store that cannot tell is
taken for a graph.

What a search misses is foretold from searches of more effort and of less: a larger memory is like
one that is searched with less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Law = Callable[[float], float]
"""Takes a number of tokens, returns the figure."""
Array = NDArray[np.float64]
Shares = Callable[[float, float], float]
"""Takes the effort of a search and a number of tokens, returns the share."""
LAST = 4
"""Sizes, the largest, by which is judged how a cost or an amount goes on."""
ALL = 0.99
"""Share of the keys from which on a search reads all of them."""
NEAR = 128
"""Tokens among which a search through a graph takes hardly any time to come near its aim."""
SHIFTS = np.linspace(0, 1, 101)
"""Powers of the number of tokens with which effort may have to grow."""


def power(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit ``a * N ** c`` with `c` from 0 to 1, by least squares of logarithms."""
    x, y = np.log(_floats(sizes)), np.log(_floats(values))
    slope = float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0
    slope = min(1.0, max(0.0, slope))
    begin = float(np.mean(y - slope * x))
    return lambda tokens: float(np.exp(begin + slope * np.log(tokens)))


def reads(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit how many keys a query is compared with: a power of N, where it is not with all of them.

    If that is so at one size only, the root is taken, with which lists and clusters are many.
    """
    partial = [(n, read) for n, read in zip(sizes, values, strict=True) if read < ALL * n]
    if len(partial) == 1:
        [(size, read)] = partial
        return lambda tokens: read * (tokens / size) ** 0.5
    return power(*zip(*partial, strict=True)) if partial else power(sizes, values)


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
    y, done = _floats(values)[-LAST:], _floats([work(size) for size in sizes])[-LAST:]
    begin, slope = _line(done, y, 1 / y)
    return _beyond(sizes, values, lambda tokens: begin + slope * work(tokens))


def graph(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit a cost of searching a graph: up to the largest size as measured, beyond ``b * log N``.

    N counts from `NEAR` on. How steeply it grows is not fitted: times of a few sizes that are so
    close together do not tell. Of `b` the largest sizes tell most.
    """
    x, y = _floats(sizes), _floats(values)
    slope = np.average(y / np.log1p(x / NEAR), weights=x**2)
    return _beyond(sizes, values, lambda tokens: float(slope * np.log1p(tokens / NEAR)))


def _beyond(sizes: Sequence[int], values: Sequence[float], beyond: Law) -> Law:
    """Return what was measured, between sizes straight in logarithms, and another law beyond."""
    x, y = np.log(_floats(sizes)), np.log(_floats(values))

    def law(tokens: float) -> float:
        if tokens <= sizes[-1]:
            return float(np.exp(np.interp(np.log(tokens), x, y)))
        return beyond(tokens)

    return law


def amount(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit ``a + b * N``, neither less than 0: what is taken in any case, and by every token.

    The largest sizes count most: what is taken in steps evens out as it grows.
    """
    x, y = _floats(sizes)[-LAST:], _floats(values)[-LAST:]
    begin, slope = _line(x, y, x)
    return lambda tokens: float(begin + slope * tokens)


def shares(
    efforts: Sequence[float], sizes: Sequence[int], values: Sequence[Sequence[float]]
) -> Shares:
    """Fit what is missed with N tokens and effort x: ``f(x / (N / n) ** c) + b * log(N / n)``.

    `f` is what was measured at n, the largest size, straight between the logarithms of efforts.
    To find as much in a memory that is larger takes more effort, by a power `c` of how much larger
    it is, from 0 to 1; and `b`, at least 0, is missed whatever the effort.

    Parameters
    ----------
    efforts : sequence of float
        More than 0, ascending.
    sizes : sequence of int
        Ascending.
    values : sequence of sequence of float
        From 0 to 1: at each effort, for each size.
    """
    x, table = np.log(_floats(efforts)), _floats(values)
    largest = table[:, -1]
    smaller = np.log(sizes[-1] / _floats(sizes[:-1]))
    begins = max(0.0, (largest[0] - largest[1]) / (x[1] - x[0])) if len(x) > 1 else 0.0

    def at_largest(effort: Array) -> Array:
        below = np.maximum(0.0, x[0] - effort)
        return _floats(np.interp(effort, x, largest) + begins * below)

    def fitted(shift: float) -> tuple[float, float, float]:
        """Return how far off it is with a power, that power, and the best `b` for it."""
        over = at_largest(x[:, None] + shift * smaller) - table[:, :-1]
        rise = max(0.0, float((over * smaller).sum() / (len(x) * (smaller**2).sum() or 1.0)))
        return float(((over - rise * smaller) ** 2).sum()), shift, rise

    _, shift, rise = min(map(fitted, SHIFTS))

    def law(effort: float, tokens: float) -> float:
        larger = np.log(tokens / sizes[-1])
        missed = at_largest(np.log(effort) - shift * larger) + rise * larger
        return float(np.clip(missed, 0.0, 1.0))

    return law


def _line(x: Array, y: Array, weights: Array) -> tuple[float, float]:
    """Fit ``a + b * x``, neither less than 0."""
    terms = np.stack([np.ones_like(x), x], 1) * weights[:, None]
    (begin, slope), _ = nnls(terms, y * weights)
    return float(begin), float(slope)


def _floats(values: Sequence[float] | Sequence[Sequence[float]]) -> Array:
    return np.asarray(values, dtype=np.float64)
