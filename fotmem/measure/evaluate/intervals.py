"""Confidence intervals of shares."""

import math


def wilson(right: float, trials: int, z: float = 1.96) -> tuple[float, float]:
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
