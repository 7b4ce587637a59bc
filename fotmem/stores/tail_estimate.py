"""How good a store expects its estimates to be."""

from typing import NamedTuple

from torch import Tensor


class TailEstimate(NamedTuple):
    """How good attention to all keys is, by the store's own estimate."""

    error: Tensor
    """Shape ``[H, Q]``, float32: relative error of the output, ``|out - dense| / |dense|``."""
    share_read: Tensor
    """Shape ``[H, Q]``, float32, from 0 to 1: the share of the keys that the query reads."""
