"""Times several sides in turn, by the processor's time.

On one thread, that is what they take on an idle machine. Waiting for a processor that others use
does not count: a machine with other work gives the same ratios.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

OTHERS = 2**24
"""Numbers that pass through the caches before each call, as a model's weights do: 64 MiB."""
Times = dict[str, list[float]]


def in_turn(
    sides: Mapping[str, Callable[[int], object]], rounds: int, *, warm: bool = False
) -> Times:
    """Time each side once in each round, with the number of the round; return its seconds.

    Caches hold other data before, or what the same call left there (`warm`).
    """
    taken: Times = {name: [] for name in sides}
    for number in range(-1, rounds):  # a first round that does not count
        for name, side in sides.items():
            side(max(0, number)) if warm else other_data().sum()
            begin = time.process_time()
            side(max(0, number))
            if number >= 0:
                taken[name].append(time.process_time() - begin)
    return taken


@cache
def other_data() -> Tensor:
    """Return what passes through the caches."""
    return torch.ones(OTHERS)


def ratio(times: Sequence[float], unit: Sequence[float]) -> tuple[float, float, float]:
    """Return the median ratio of two sides over rounds, and its middle half."""
    ratios = [one / other for one, other in zip(times, unit, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return median, low, high
