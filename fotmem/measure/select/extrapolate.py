"""Laws of growth: they are fitted to measurements, and predict a store with more tokens.

Latency is predicted from work. The number of keys that a query is compared with grows smoothly and
is counted without noise; the time per key is fitted to all searches of a store together. A store
that cannot count the keys is treated as a graph.

Quality is predicted from searches with more and with less effort: searching a larger memory is like
searching with less effort. `docs/select.md` compares this law with simpler ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Law = Callable[[float], float]
"""Takes a number of tokens, returns a figure."""
Array = NDArray[np.float64]
Shares = Callable[[float, float], float]
"""Takes the effort of a search and a number of tokens, returns a share."""
LAST = 4
"""Number of sizes, the largest ones, to which a cost or an amount is fitted."""
ALL = 0.99
"""Share of the keys from which on a search counts as reading all of them."""
ROOT = 0.5
"""Exponent of the number of lists or clusters, by number of tokens."""
NEAR = 128
"""Size of a graph that a search crosses in almost no time."""
SHIFTS = np.linspace(0, 1, 101)
"""Exponents that are tried for the growth of the needed effort."""


class SearchCosts(NamedTuple):
    """Measurements of searches with one effort, by ascending size."""

    sizes: Sequence[int]
    seconds: Sequence[float]
    """Latencies, more than 0."""
    read: Sequence[float] | None
    """Keys that a query is compared with; None where the store cannot count them."""


def costs(searches: Mapping[float, SearchCosts]) -> dict[float, Law]:
    """Fit the latency of searches by effort: interpolated up to the largest size, then a law.

    The law is ``a + b * keys`` (see `keys_compared`) with the same `a` and `b` for all efforts;
    larger sizes count more. A store that cannot count keys is treated as a graph: see
    `_through_graphs`.
    """
    if any(each.read is None for each in searches.values()):
        beyond = _through_graphs(searches)
    else:
        keys = keys_compared(searches)
        points = [
            (tokens, keys[effort](tokens), seconds)
            for effort, each in searches.items()
            for tokens, seconds in list(zip(each.sizes, each.seconds, strict=True))[-LAST:]
        ]
        sizes, work, y = _floats(points).T
        line = _line(work, y, np.sqrt(sizes) / y)
        beyond = {effort: _on(line, law) for effort, law in keys.items()}
    return {
        effort: _beyond(each.sizes, each.seconds, beyond[effort])
        for effort, each in searches.items()
    }


def keys_compared(searches: Mapping[float, SearchCosts]) -> dict[float, Law]:
    """Fit the number of keys that a query is compared with, by effort: ``k * N ** c``, at most N.

    The exponent is the same for all efforts. It is fitted to the sizes at which not all keys were
    read, or 0.5 where there are fewer than two of them. An effort that read all keys at every size
    is scaled from the nearest one that did not. Keys that are read with any effort, such as those
    that are in no list yet, are left out: each of them takes little time.
    """
    idle = _at_no_effort({effort: _partial(each) for effort, each in searches.items()})
    logs = {
        effort: np.log(_floats(some)).T
        for effort, each in searches.items()
        if (some := [(size, max(1.0, read - idle[size])) for size, read in _partial(each)])
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


def _partial(searches: SearchCosts) -> list[tuple[int, float]]:
    """Return the sizes at which not all keys were read, and how many were."""
    assert searches.read is not None
    pairs = zip(searches.sizes, searches.read, strict=True)
    return [(size, read) for size, read in pairs if 0 < read < ALL * size]


def _through_graphs(searches: Mapping[float, SearchCosts]) -> dict[float, Law]:
    """Fit the latency of searches in graphs, by effort: ``a + b * log(1 + N / NEAR)``.

    The growth is not fitted, because a few sizes so close together do not determine it. `a` is the
    latency of no effort. The largest sizes count most.
    """
    idle = _at_no_effort(
        {
            effort: list(zip(each.sizes, each.seconds, strict=True))
            for effort, each in searches.items()
        }
    )
    begin = float(np.average(list(idle.values()), weights=_floats(list(idle)) ** 2))

    def law(effort: float) -> Law:
        sizes, y = _floats(searches[effort].sizes), _floats(searches[effort].seconds)
        work = np.maximum(0, y - begin) / np.log1p(sizes / NEAR)
        slope = float(np.average(work, weights=sizes**2))
        return _on((begin, slope), lambda tokens: float(np.log1p(tokens / NEAR)))

    return {effort: law(effort) for effort in searches}


def _at_no_effort(values: Mapping[float, Sequence[tuple[int, float]]]) -> dict[int, float]:
    """Extrapolate, at every size, from the two lowest efforts to no effort.

    The result is 0 where it would be negative or too large, and where there is only one effort.

    Parameters
    ----------
    values : mapping of float to sequence of (int, float)
        By effort: sizes, and the value at each.
    """
    by_size: dict[int, list[tuple[float, float]]] = {}
    for effort in sorted(values):
        for size, value in values[effort]:
            by_size.setdefault(size, []).append((effort, value))
    found = dict.fromkeys(by_size, 0.0)
    for size, points in by_size.items():
        if len(points) > 1:
            (less, low), (more, high), *_ = points
            none = low - less * (high - low) / (more - less)
            if 0 < none < low:
                found[size] = none
    return found


def _on(line: tuple[float, float], law: Law) -> Law:
    """Return ``a + b * law``."""
    return lambda tokens: line[0] + line[1] * law(tokens)


def _beyond(sizes: Sequence[int], values: Sequence[float], beyond: Law) -> Law:
    """Return the interpolation of values in logarithms, and the law `beyond` the largest size."""
    x, y = np.log(_floats(sizes)), np.log(_floats(values))

    def law(tokens: float) -> float:
        if tokens <= sizes[-1]:
            return float(np.exp(np.interp(np.log(tokens), x, y)))
        return beyond(tokens)

    return law


def amount(sizes: Sequence[int], values: Sequence[float]) -> Law:
    """Fit ``a + b * N``, both at least 0: a fixed part, and a part for each token.

    The largest sizes count most: steps matter less as the amount grows.
    """
    x, y = _floats(sizes)[-LAST:], _floats(values)[-LAST:]
    begin, slope = _line(x, y, x)
    return lambda tokens: float(begin + slope * tokens)


def shares(
    efforts: Sequence[float], sizes: Sequence[int], values: Sequence[Sequence[float]]
) -> Shares:
    """Fit the missed share by tokens N and effort x: ``f(x / (N / n) ** c) + b * log(N / n)``.

    `f` interpolates the shares at n, the largest size, between the logarithms of efforts. A larger
    memory needs more effort for the same share: by the power `c` (0 to 1) of the ratio of sizes.
    `b`, at least 0, is the growth of the share that no effort finds.

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
        """Return the squared error with an exponent, the exponent, and the best `b` for it."""
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
    """Fit ``a + b * x``, both at least 0."""
    from scipy.optimize import nnls

    terms = np.stack([np.ones_like(x), x], 1) * weights[:, None]
    (begin, slope), _ = nnls(terms, y * weights)
    return float(begin), float(slope)


def _floats(values: Sequence[float] | Sequence[Sequence[float]]) -> Array:
    return np.asarray(values, dtype=np.float64)
