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


class SearchCosts(NamedTuple):
    """What was measured of searches with some effort, by size, ascending."""

    sizes: Sequence[int]
    seconds: Sequence[float]
    """More than 0."""
    read: Sequence[float] | None
    """Keys that a query is compared with; None where the store cannot tell."""


def costs(searches: Mapping[float, SearchCosts]) -> dict[float, Law]:
    """Fit the seconds of searches by effort: up to the largest size as measured, then by a law.

    With stores that tell what they read it is ``a + b * keys`` (see `keys_compared`), `a` and `b`
    the same for all efforts; the larger sizes count more. Others are taken for graphs: see
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
    """Fit with how many keys a query is compared for its effort: ``k * N ** c``, at most N.

    The power is the same for all efforts, by the sizes at which not all keys were read, or the root
    where there are not two of them. An effort that read all at every size reads as much more than
    the one next to it as it is greater. What is read whatever the effort, as keys that are in no
    list yet, is left out: a key among so many takes hardly any time.
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
    """Return the sizes at which a query is compared with some of the keys, and with how many."""
    assert searches.read is not None
    pairs = zip(searches.sizes, searches.read, strict=True)
    return [(size, read) for size, read in pairs if 0 < read < ALL * size]


def _through_graphs(searches: Mapping[float, SearchCosts]) -> dict[float, Law]:
    """Fit the seconds of searches through graphs, by effort: ``a + b * log N``.

    N counts from `NEAR` on. How steeply it grows is not fitted: times of a few sizes that are so
    close together do not tell. `a` is what no effort would take. The largest sizes tell most.
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
    """Go straight on, at every size, from the two least efforts to none.

    It is 0 where that is absurd, or there is one effort only.

    Parameters
    ----------
    values : mapping of float to sequence of (int, float)
        By effort: sizes, and what was measured at each.
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
    from scipy.optimize import nnls

    terms = np.stack([np.ones_like(x), x], 1) * weights[:, None]
    (begin, slope), _ = nnls(terms, y * weights)
    return float(begin), float(slope)


def _floats(values: Sequence[float] | Sequence[Sequence[float]]) -> Array:
    return np.asarray(values, dtype=np.float64)
