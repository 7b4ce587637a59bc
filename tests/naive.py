"""Naive float64 search and attention, independent of fotmem, and data to compare them on."""

import torch
from hypothesis import settings
from torch import Tensor

from fotmem import Hits, PartialAttention

quick = settings(derandomize=True, database=None, max_examples=40, deadline=None)
"""The same examples in every run, without a time limit that a busy machine would break."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of an attention output in units of its largest value: the rounding of results and weights."""

LAYOUTS = ("plain", "heads last", "transposed", "every second", "one token", "one number")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Give a tensor other strides; "one ..." repeats a row or a column without copying it."""
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
    scores = queries.double() @ keys.double().transpose(-1, -2)
    best = scores.topk(min(top_k, keys.shape[-2]), dim=-1).indices
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    return naive_attention(queries, keys, values, scale, mask)


def assert_attention(
    part: PartialAttention, expected: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    out, lse = expected
    assert part.out.dtype == dtype
    assert part.lse.dtype == torch.float32
    size = max(1.0, out.abs().max().item()) if out.numel() else 1.0
    torch.testing.assert_close(part.out.double().cpu(), out, rtol=0, atol=TOLERANCE[dtype] * size)
    torch.testing.assert_close(part.lse.double().cpu(), lse, rtol=1e-5, atol=1e-4)


def assert_exact_hits(
    hits: Hits, queries: Tensor, keys: Tensor, top_k: int, first_id: int = 0
) -> None:
    """Compare with brute force over the stored keys; the order of equal scores is free."""
    shape = (*queries.shape[:2], top_k)
    assert (hits.ids.shape, hits.ids.dtype) == (shape, torch.int64)
    assert (hits.scores.shape, hits.scores.dtype) == (shape, torch.float32)
    if not queries.shape[1]:
        return
    found = min(top_k, keys.shape[1])
    assert (hits.ids[..., found:] == -1).all()
    assert (hits.scores[..., found:] == -torch.inf).all()
    if not found:
        return
    ids, scores = hits.ids[..., :found].cpu() - first_id, hits.scores[..., :found].cpu().double()
    every = queries.double() @ keys.double().transpose(1, 2)  # [H, Q, N]
    rounding = queries.double().abs() @ keys.double().abs().transpose(1, 2)
    bound = 1e-5 * rounding.amax(-1, keepdim=True) + 1e-30
    assert ((scores - every.topk(found, dim=-1).values).abs() <= bound).all()
    assert ((scores - every.gather(-1, ids)).abs() <= bound).all()
    assert (scores.diff(dim=-1) <= 0).all()
    assert (ids.sort(-1).values.diff(dim=-1) > 0).all()  # no key twice
