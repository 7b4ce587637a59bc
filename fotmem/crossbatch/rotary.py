"""Rotary positions of windows that are not a model's own (RoPE, Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def positions(key: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Count the tokens of ``key [B, T, H, D]`` from 0, without padding: ``[B or 1, T]``."""
    if padding_mask is None:
        return torch.arange(key.shape[1], device=key.device)[None]
    return (padding_mask.cumsum(1) - 1).clamp(min=0)


def rotate(tensor: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Encode positions ``[B or 1, T]`` in ``[B, T, heads, D]``, in LLaMA's half-split layout."""
    half = tensor.shape[3] // 2
    wide = torch.promote_types(tensor.dtype, torch.float32)
    exponents = torch.arange(half, dtype=wide, device=tensor.device) / half
    angles = positions[..., None, None].to(wide) * theta**-exponents  # [B or 1, T, 1, D / 2]
    cos, sin = angles.cos(), angles.sin()
    first, second = tensor.to(wide).split(half, -1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return rotated.to(tensor.dtype)
