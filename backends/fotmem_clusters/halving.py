"""Halves sets of vectors: 2-means of many sets at once."""

import torch
from torch import Tensor

ITERATIONS = 4


def halved(vectors: Tensor, there: Tensor) -> Tensor:
    """Divide sets of vectors in two by 2-means, begun along a long axis of each set.

    Parameters
    ----------
    vectors : Tensor
        Shape ``[c, n, D]``, float32.
    there : Tensor
        Shape ``[c, n]``, bool: which of them belong to the set, at least two.

    Returns
    -------
    Tensor
        Shape ``[c, n]``, bool: which belong to the second half. Neither is empty.
    """
    weights = there.float()
    count = weights.sum(1, keepdim=True)
    offsets = vectors - torch.einsum("cn,cnd->cd", weights / count, vectors)[:, None]
    offsets *= weights[..., None]
    far = offsets.square().sum(-1).argmax(1)
    axis = offsets[torch.arange(len(offsets), device=far.device), far]
    for _ in range(2):  # towards the longest axis
        along = torch.einsum("cnd,cd->cn", offsets, axis)
        axis = torch.einsum("cn,cnd->cd", along, offsets)
        axis = axis / axis.norm(dim=1, keepdim=True).clamp(min=1e-30)
    second = torch.einsum("cnd,cd->cn", offsets, axis) > 0
    for _ in range(ITERATIONS):
        part = (second & there).float()
        size = part.sum(1, keepdim=True)
        total = torch.einsum("cn,cnd->cd", part, offsets)  # offsets sum to 0 over a set
        right, left = total / size.clamp(min=1), -total / (count - size).clamp(min=1)
        middle = (right.square() - left.square()).sum(1, keepdim=True) / 2
        second = torch.einsum("cnd,cd->cn", offsets, right - left) > middle
    second &= there
    size = second.sum(1, keepdim=True)
    alike = (size == 0) | (size == count)  # such as equal vectors
    return second.where(~alike, there & (there.cumsum(1) > count // 2))
