"""Beside remembered keys, local attention sees what the decoder's mask shows: no more, no less."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fotmem
from fotmem.memory.attend import local_attention
from tests import families, tiny
from tests.tiny import WINDOW, difference, one_thread  # noqa: F401 - a fixture

ROWS, HEADS, GROUPS, HEAD_DIM, SCALE = 2, 2, 3, 4, 0.7


def naive(query: Tensor, key: Tensor, value: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Attend query by query, in float64; ``added [B, H * G, T, n]`` goes to the scores."""
    out, lse = torch.zeros_like(query).double(), torch.zeros(query.shape[:-1]).double()
    for row, head, token in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        keys, values = key[row, head // GROUPS].double(), value[row, head // GROUPS].double()
        scores = keys @ query[row, head, token].double() * SCALE + added[row, head, token]
        lse[row, head, token] = scores.exp().sum().log()
        out[row, head, token] = scores.softmax(0) @ values
    return out, lse


@settings(max_examples=40)
@given(
    tokens=st.integers(1, 6),
    past=st.integers(0, 5),
    kind=st.sampled_from(["none", "bool", "added", "bias of each head"]),
    seed=st.integers(0, 99),
)
def test_local_attention_with_masks_of_all_kinds(
    tokens: int, past: int, kind: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    length = tokens + past
    query = torch.randn(ROWS, HEADS * GROUPS, tokens, HEAD_DIM, generator=random)
    key, value = torch.randn(2, ROWS, HEADS, length, HEAD_DIM, generator=random)
    shown = torch.ones(ROWS, 1, tokens, length, dtype=torch.bool).tril(past)
    if kind != "none":
        hidden = torch.rand(shown.shape, generator=random) < 0.5
        shown &= ~hidden | torch.eye(length, dtype=torch.bool)[past:]  # each sees itself
    added = torch.zeros(shown.shape).masked_fill(~shown, torch.finfo(torch.float32).min)
    if kind.startswith("bias"):
        added = added + torch.randn(1, HEADS * GROUPS, tokens, length, generator=random)
    mask = {"none": None, "bool": shown}.get(kind, added)
    out, lse = local_attention(query, key, value, mask, SCALE)
    whole = added.expand(ROWS, HEADS * GROUPS, tokens, length).double()
    for actual, expected in zip((out, lse), naive(query, key, value, whole), strict=True):
        assert difference(actual, expected) <= 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_sliding_window_hides_far_local_tokens(attention: str) -> None:
    model: Any = families.tiny("qwen2", num_hidden_layers=1, layer_types=["sliding_attention"])
    model.set_attn_implementation(attention)
    torch.nn.init.normal_(model.lm_head.weight)
    question = tiny.ids(WINDOW) % families.SIZES["vocab_size"]
    changed = question.clone()
    changed[0, 3] += 1
    with fotmem.attach(model, layers=[0], window=WINDOW, top_k=None) as memory:
        memory.read(question)
        one, other = model(question).logits[0], model(changed).logits[0]
    moved = (one - other).abs().amax(-1) > 1e-6
    width = families.SLIDING["sliding_window"]
    assert moved.nonzero()[:, 0].tolist() == list(range(3, 3 + width))
