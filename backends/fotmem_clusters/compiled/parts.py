"""Several threads for parts of some work."""

from collections.abc import Callable

import torch

from fotmem.stores import over_heads

ENOUGH = 32
"""Sets of rows that are worth a thread."""


def in_parts(function: Callable[[slice], None], count: int) -> None:
    """Call a function for parts of `count` sets of rows, in torch's number of threads."""
    parts = max(1, min(torch.get_num_threads(), count // ENOUGH))
    ends = [count * part // parts for part in range(parts + 1)]
    over_heads(lambda part: function(slice(*ends[part : part + 2])), parts)
