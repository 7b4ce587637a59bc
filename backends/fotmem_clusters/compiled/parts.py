"""Several threads for parts of some work."""

from collections.abc import Callable
from typing import TypeVar

import torch

from fotmem.stores import over_heads

Result = TypeVar("Result")

ENOUGH = 32
"""Sets of rows that are worth a thread."""


def in_parts(
    function: Callable[[slice], Result], count: int, parts: int | None = None
) -> list[Result]:
    """Call a function for parts of `count` rows or sets, in torch's number of threads.

    Returns its results. Default of `parts`: as many as there are threads, for sets of rows.
    """
    if parts is None:
        parts = min(torch.get_num_threads(), count // ENOUGH)
    parts = max(1, min(parts, count))
    ends = [count * part // parts for part in range(parts + 1)]
    return over_heads(lambda part: function(slice(*ends[part : part + 2])), parts)
