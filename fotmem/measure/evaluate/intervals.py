"""Confidence intervals of shares."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLED = 1000
"""Bootstrap samples of an interval."""


def wilson(right: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% confidence interval of a share (Wilson 1927).

    Examples
    --------
    >>> [round(end, 3) for end in wilson(20, 20)]
    [0.839, 1.0]
    """
    share, spread = right / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% interval of the ratio of two paired means (bootstrap, percentiles).

    None if the lower mean is 0.

    Examples
    --------
    >>> ratio_interval([1, 1, 0], [1, 1, 1])
    (0.0, 1.0)
    """
    if not sum(below):
        return None
    picked = np.random.default_rng(0).integers(len(below), size=(RESAMPLED, len(below)))
    tops, bottoms = (np.asarray(each)[picked].sum(1) for each in (above, below))
    low, high = np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], [2.5, 97.5])
    return float(low), float(high)
