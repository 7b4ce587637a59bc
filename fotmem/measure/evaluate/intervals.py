"""Confidence intervals of shares."""

import math
from collections.abc import Sequence
from statistics import stdev


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


def ratio_interval(above: float, below: float, apart: float) -> tuple[float, float] | None:
    """Return the 95% interval of the ratio of two paired shares (Bonett and Price 2006).

    doi:10.1002/sim.2440; a score between 0 and 1 counts as a part of a right answer.

    Parameters
    ----------
    above, below : float
        The number of right answers of each.
    apart : float
        How many questions only one of both answers right.

    Returns
    -------
    tuple of float, or None
        None if `below` is 0.

    Examples
    --------
    >>> [round(end, 2) for end in ratio_interval(2, 3, 1)]
    [0.25, 1.78]
    """
    if not below:
        return None
    either = (above + below + apart) / 2
    spread = math.sqrt((apart + 2) / ((above + 1) * (below + 1)))
    halves = (math.sqrt((1 - (n + 1) / (either + 2)) / (n + 1)) for n in (above, below))
    z = 1.96 * spread / sum(halves)
    (low, high), (least, most) = (wilson(n, either, z) for n in (above, below))
    return low / most, high / least


def half_interval(values: Sequence[float]) -> float:
    """Return half the length of the 95% interval of a mean (Student 1908); nan for a single value.

    Examples
    --------
    >>> round(half_interval([1, 2, 3, 4]), 2)
    2.05
    """
    if len(values) < 2:
        return math.nan
    from scipy.stats import t  # an extra; reading reports needs no scipy

    quantile = float(t.ppf(0.975, len(values) - 1))
    return quantile * stdev(values) / math.sqrt(len(values))
