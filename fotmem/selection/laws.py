"""How figures of a store grow with the number of tokens: laws that are fitted to what was measured.

Costs are foretold from work: how many keys a query is compared with grows smoothly, and can be
counted without noise; the time that a key takes is what is measured, by all searches of a store
together. A store that cannot tell is taken for a graph.

What a search misses is foretold from searches of more effort and of less: a larger memory is like
one that is searched with less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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
ROOT = 0.5
"""Power of the number of tokens with which lists and clusters are many."""
NEAR = 128
"""Tokens among which a search through a graph takes hardly any time to come near its aim."""
SHIFTS = np.linspace(0, 1, 101)
"""Powers of the number of tokens with which effort may have to grow."""


class Searches(NamedTuple):
    """What was measured of searches with some effort, by size, ascending."""

    sizes: Sequence[int]
    seconds: Sequence[float]
    """More than 0."""
    read: Sequence[float]
    """Keys that a query is compared with."""


def costs(searches: Mapping[float, Searches]) -> dict[float, Law]:
    """Fit the seconds of searches by effort: as measured, beyond the largest size ``a + b * keys``.

    `a` and `b` are the same for all efforts; the larger sizes count more. See `keys_compared`.
    """
    keys = keys_compared(searches)
    points = [
        (tokens, keys[effort](tokens), seconds)
        for effort, each in searches.items()
        for tokens, seconds in list(zip(each.sizes, each.seconds, strict=True))[-LAST:]
    ]
    sizes, work, y = _floats(points).T
    begin, slope = _line(work, y, np.sqrt(sizes) / y)

    def cost(effort: float) -> Law:
        sizes, seconds, _ = searches[effort]
        return _beyond(sizes, seconds, lambda tokens: begin + slope * keys[effort](tokens))

    return {effort: cost(effort) for effort in searches}


def keys_compared(searches: Mapping[float, Searches]) -> dict[float, Law]:
    """Fit with how many keys a query is compared for its effort: ``k * N ** c``, at most N.

    The power is the same for all efforts, by the sizes at which not all keys were read, or the root
    where there are not two of them. An effort that read all at every size reads as much more than
    the one next to it as it is greater. What is read whatever the effort, as keys that are in no
    list yet, is left out: a key among so many takes hardly any time.
    """
    idle = _whatever_the_effort(searches)
    logs = {
        effort: np.log(_floats(some)).T
        for effort, each in searches.items()
        if (some := [(n, max(1.0, read - idle.get(n, 0.0))) for n, read in _partial(each)])
    }
    if not logs:
        return dict.fromkeys(searches, float)
    x = np.concatenate([sizes - sizes.mean() for sizes, _ in logs.values()])
    y = np.concatenate([keys for _, keys in logs.values()])
    power = float(np.clip((x * y).sum() / (x * x).sum(), 0, 1)) if x.any() else ROOT

    def law(effort: float) -> Law:
        nearest = min(logs, key=lambda each: abs(each - effort))
        sizes, keys = logs[nearest]
        begin = float(np.mean(keys - power * sizes)) + np.log(effort / nearest)
        return lambda tokens: float(min(tokens, np.exp(begin + power * np.log(tokens))))

    return {effort: law(effort) for effort in searches}


def _whatever_the_effort(searches: Mapping[float, Searches]) -> dict[int, float]:
    """Tell by size how many keys no effort would read, straight on from the two least efforts."""
    by_size: dict[int, list[tuple[float, float]]] = {}
    for effort in sorted(searches):
        for size, read in _partial(searches[effort]):
            by_size.setdefault(size, []).append((effort, read))
    idle = {}
    for size, [(less, fewer), *rest] in by_size.items():
        for more, many in rest[:1]:
            none = fewer - less * (many - fewer) / (more - less)
            if 0 < none < fewer:
                idle[size] = none
    return idle


def _partial(searches: Searches) -> list[tuple[int, float]]:
    """Return the sizes at which a query is compared with some of the keys, and with how many."""
    pairs = zip(searches.sizes, searches.read, strict=True)
    return [(size, read) for size, read in pairs if 0 < read < ALL * size]


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
