"""k-means: where clusters of vectors lie, and which is the nearest."""

import torch
from torch import Tensor

BLOCK = 2**20
"""Distances that are compared at a time: they stay in the processor's cache."""


def nearest_centres(vectors: Tensor, centres: Tensor) -> Tensor:
    """Find the nearest centre of each vector, by Euclidean distance.

    Parameters
    ----------
    vectors, centres : Tensor
        Shapes ``[H, n, D]`` and ``[H, L, D]``, float32 on the CPU, ``L >= 1``.

    Returns
    -------
    Tensor
        Shape ``[H, n]``, int64.

    Examples
    --------
    >>> import torch
    >>> nearest_centres(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[4.0], [0.0]]]))
    tensor([[1, 0]])
    """
    offsets, across = centres.square().sum(2)[:, None] / -2, centres.transpose(1, 2)
    length = max(1, BLOCK // centres.shape[:2].numel())
    parts = [
        torch.from_numpy(torch.baddbmm(offsets, some, across).numpy().argmax(2))
        for some in vectors.split(length, 1)  # NumPy does it several times faster than torch
    ]
    return torch.cat(parts, 1)


def moved_centres(vectors: Tensor, centres: Tensor) -> Tensor:
    """Move each centre to the mean of the vectors nearest to it: a step of k-means (Lloyd 1982).

    Parameters
    ----------
    vectors, centres : Tensor
        Shapes ``[n, D]`` and ``[L, D]``, float32 on the CPU.

    Returns
    -------
    Tensor
        Shape ``[L, D]``; a centre without vectors stays.
    """
    nearest = nearest_centres(vectors[None], centres[None])[0]
    sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
    counts = nearest.bincount(minlength=len(centres))[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), centres)
