"""Attention to hits and to all keys, against one softmax."""

import pytest
import torch
from torch import Tensor

from fotmem import attention
from fotmem.attention import no_attention
from fotmem.stores.attending import attend_to_all, attend_to_hits
from fotmem.stores.brute_force import exact_search
from fotmem.stores.hits import Hits
from fotmem.testing.store.naive import draw

HEADS, TOKENS, DIM, SCALE = 2, 50, 8, 0.3
KEYS, VALUES = draw(HEADS, TOKENS, DIM), draw(HEADS, TOKENS, DIM, seed=1)
QUERIES = draw(HEADS, 7, DIM, seed=2)


def softmax(bias: Tensor | float = 0.0, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
    scores = (QUERIES @ KEYS.transpose(1, 2) + bias) * SCALE
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ VALUES, scores.logsumexp(-1)


@pytest.mark.parametrize("workspace", [2**22, 100])
def test_hits(workspace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WORKSPACE", workspace)
    counts = []

    def search(some: Tensor) -> Hits:
        counts.append(some.shape[1])
        return exact_search(some, KEYS, 6)

    def values(ids: Tensor) -> Tensor:
        return VALUES[torch.arange(HEADS)[:, None, None], ids]

    found = attend_to_hits(search, values, QUERIES, top_k=6, scale=SCALE)
    assert counts == ([7] if workspace > 100 else [1] * 7)
    scores = QUERIES @ KEYS.transpose(1, 2)
    out, lse = softmax(hidden=scores < scores.topk(6).values[..., -1:])
    torch.testing.assert_close(found.out, out)
    torch.testing.assert_close(found.lse, lse)


@pytest.mark.parametrize("biased", [False, True])
def test_all_keys(biased: bool) -> None:
    blocks = zip(KEYS.split(13, 1), VALUES.split(13, 1), strict=True)
    bias = (lambda ids: -0.1 * (ids - 100)) if biased else None
    found = attend_to_all(blocks, QUERIES, scale=SCALE, bias=bias, first_id=100)
    out, lse = softmax(-0.1 * torch.arange(TOKENS) if biased else 0.0)
    torch.testing.assert_close(found.out, out)
    torch.testing.assert_close(found.lse, lse)


def test_no_keys() -> None:
    queries = QUERIES.bfloat16()
    for found in (no_attention(queries), attend_to_all([], queries, scale=SCALE)):
        assert (found.out == 0).all()
        assert (found.lse == -torch.inf).all()
        assert found.lse.dtype == torch.float32
    assert no_attention(queries).out.dtype == torch.bfloat16
