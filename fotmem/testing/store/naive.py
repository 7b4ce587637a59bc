"""Naive float64 attention, independent of fotmem, and data to compare on."""

import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor

quick = settings(
    derandomize=True,
    database=None,
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
"""The same examples in every run, without time limits that a busy machine would break."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

LAYOUTS = ("plain", "heads last", "transposed", "every second", "one token", "one number")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw normally distributed numbers, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return a tensor with other strides; "one ..." repeats a row or a column without a copy."""
    if layout == "heads last":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "every second":
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "one token":
        return tensor[..., :1, :].expand_as(tensor)
    if layout == "one number":
        return tensor[..., :1].expand_as(tensor)
    return tensor


def naive_attention(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``out [..., Q, D]`` and ``lse [..., Q]`` in float64."""
    scores = queries.double() @ keys.double().transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ values.double(), scores.logsumexp(-1)


def naive_topk_attention(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """Return what `naive_attention` does, over the `top_k` best keys of each query."""
    scores = queries.double() @ keys.double().transpose(-1, -2)
    best = scores.topk(min(top_k, keys.shape[-2]), dim=-1).indices
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    return naive_attention(queries, keys, values, scale, mask)
