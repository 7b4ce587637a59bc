"""Attention by its definition, slow and simple."""

import torch
from torch import Tensor


def naive_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Attend in float64, head by head.

    Query head ``h`` of ``[B, H * G, T, D]`` shares key/value head ``h // G`` of ``[B, H, T, D]``;
    the mask is what the decoder made. Returns ``[B, T, H * G * D]``.
    """
    groups, length = query.shape[1] // key.shape[1], key.shape[2]
    outputs = []
    for head in range(query.shape[1]):
        queries, keys = query[:, head].double(), key[:, head // groups].double()
        scores = queries @ keys.transpose(1, 2) * scale  # [B, T, n]
        hidden = additive(mask, query.shape[2], length)
        scores = scores + hidden[:, head if hidden.shape[1] > 1 else 0]
        outputs.append(scores.softmax(-1) @ value[:, head // groups].double())
    return torch.stack(outputs, 2).flatten(2)


def additive(mask: Tensor | None, tokens: int, length: int) -> Tensor:
    """Convert a mask ``[B, 1 or H * G, T, n]`` to one that is added to scores; None: causal."""
    if mask is None:
        mask = torch.ones(1, 1, tokens, length, dtype=torch.bool).tril(length - tokens)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    return mask.double()
