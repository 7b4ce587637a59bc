"""Centring: an index sees keys around their mean, at a common scale."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Centring(NamedTuple):
    """Turns keys into vectors ``(key - origin) / unit``, which rank alike by inner product.

    Distances between keys that lie far from 0, or are huge, would be lost in rounding.
    """

    origin: Tensor
    """Shape ``[H, 1, D]``: the mean key."""
    unit: Tensor
    """Shape ``[H, 1, 1]``: about the distance of the farthest key from the mean."""

    @classmethod
    def of(cls, keys: Tensor) -> "Centring":
        """Choose origin and unit for keys like these ``[H, n, D]``, float32."""
        keys = shortened(keys)
        origin = keys.mean(1, keepdim=True)
        tiny = torch.finfo(keys.dtype).tiny
        largest = (keys - origin).abs().amax((1, 2), keepdim=True).clamp(min=tiny)
        return cls(origin, largest * math.sqrt(keys.shape[2]))

    def vectors(self, keys: Tensor) -> Tensor:
        """Return the vectors of keys ``[H, n, D]``."""
        return (keys - self.origin) / self.unit


def lengths_of(keys: Tensor) -> Tensor:
    """Return the lengths ``[H, n]`` of keys ``[H, n, D]``, whose squares may overflow."""
    unit = keys.abs().amax().clamp(min=torch.finfo(keys.dtype).tiny) if keys.numel() else 1.0
    lengths: Tensor = (keys / unit).norm(dim=2) * unit
    return lengths


def usual_length(keys: Tensor) -> Tensor:
    """Return twice the length ``[H, 1]`` of all but the ``sqrt(n)`` longest of ``[H, n, D]``."""
    lengths = lengths_of(keys).sort(dim=1).values
    usual = 2 * lengths[:, -1 - math.isqrt(keys.shape[1]), None]
    return usual.where(usual > 0, lengths[:, -1:])


def shortened(keys: Tensor) -> Tensor:
    """Cut keys ``[H, n, D]`` to the usual length: one huge key would set mean and scale."""
    lengths = lengths_of(keys)[..., None].clamp(min=torch.finfo(keys.dtype).tiny)
    return keys * (usual_length(keys)[..., None] / lengths).clamp(max=1)
