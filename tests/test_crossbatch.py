"""Crossbatch attention against the released code's outputs, a naive oracle and inference."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fotmem import crossbatch
from fotmem.crossbatch.attention import crossbatch_attention
from fotmem.crossbatch.pattern import AttentionPattern
from fotmem.errors import OptionError, ShapeError
from tests.tiny import one_thread  # noqa: F401 - a fixture

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "crossbatch"


def rotated(vector: Tensor, position: int, theta: float) -> Tensor:
    half = len(vector) // 2
    out = torch.empty_like(vector)
    for i in range(half):
        angle = torch.tensor(position * theta ** (-i / half), dtype=vector.dtype)
        a, b = vector[i], vector[i + half]
        out[i] = a * angle.cos() - b * angle.sin()
        out[i + half] = b * angle.cos() + a * angle.sin()
    return out


def naive(
    current: tuple[Tensor, Tensor, Tensor],
    context: tuple[Tensor, Tensor],
    contexts: Sequence[Sequence[int]],
    *,
    theta: float | None = 10000.0,
    mask: Tensor | None = None,
    context_mask: Tensor | None = None,
    bank: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """One query at a time, one softmax over a list of keys."""
    query, key, value = current
    rows, tokens, query_heads, head_dim = query.shape
    groups = query_heads // key.shape[2]
    result = []
    for row, head in itertools.product(range(rows), range(query_heads)):
        kept = [t for t in range(tokens) if mask is None or mask[row, t]]
        for token in range(tokens):
            if token not in kept:
                result.append(query.new_zeros(head_dim))
                continue
            turn = kept.index(token)
            own = query[row, token, head]
            keys, values = [], []
            for place, other in enumerate(kept[: turn + 1]):
                local = key[row, other, head // groups]
                keys.append(local if theta is None else rotated(local, place, theta))
                values.append(value[row, other, head // groups])
            own = own if theta is None else rotated(own, turn, theta)
            for window, place in itertools.product(contexts[row], range(context[0].shape[1])):
                if context_mask is None or context_mask[window, place]:
                    keys.append(context[0][window, place, head // groups])
                    values.append(context[1][window, place, head // groups])
            if bank is not None:
                keys += list(bank[0][:, head // groups])
                values += list(bank[1][:, head // groups])
            weights = (torch.stack(keys) @ own / head_dim**0.5).softmax(0)
            result.append(weights @ torch.stack(values))
    stacked = torch.stack(result).view(rows, query_heads, tokens, head_dim)
    return stacked.transpose(1, 2)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def contexts_of(rows: int, context_range: int, packing: int, *, stepping: bool) -> list[list[int]]:
    """Write the rule of the released code down once more, entry by entry."""
    result = []
    for row in range(rows):
        seen = context_range + 1
        if stepping and packing > 1:
            step = -(-(context_range + 1) // (packing - 1))
            seen = min((row % packing) * step + 1, context_range + 1)
        result.append([other for other in range(row - 1, -1, -1) if row - other < seen])
    return result


def assert_same_gradients(actual: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    weights = torch.randn_like(expected)
    ours, theirs = (
        torch.autograd.grad((output * weights).sum(), inputs, materialize_grads=True)
        for output in (actual, expected)
    )
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.skipif(not FIXTURES.exists(), reason="../shared is not beside this checkout")
def test_equals_the_released_code() -> None:
    tensors = load_file(FIXTURES / "longllama.safetensors")
    outputs = {name: tensor for name, tensor in tensors.items() if name.startswith("output.")}
    assert outputs
    for name, expected in outputs.items():
        settings = dict(part.rsplit("_", 1) for part in name.split(".")[1:])
        actual = crossbatch.longllama(
            tensors["query"],
            tensors["key"],
            tensors["value"],
            context_range=int(settings["range"]),
            packing=int(settings["packing"]),
            stepping=settings["stepping"] == "True",
        )
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(data=st.data())
def test_longllama_equals_naive(data: st.DataObject) -> None:
    packing = data.draw(st.integers(1, 4))
    rows = packing * data.draw(st.integers(1, 3))
    tokens, heads, groups = (data.draw(st.integers(1, 3)) for _ in range(3))
    context_range, stepping = data.draw(st.integers(1, 7)), data.draw(st.booleans())
    theta = data.draw(st.sampled_from([None, 1e4, 1e6]))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    query = random(rows, tokens, heads * groups, 4)
    key, value = (random(rows, tokens, heads, 4) for _ in range(2))
    actual = crossbatch.longllama(
        query,
        key,
        value,
        context_range=context_range,
        packing=packing,
        stepping=stepping,
        rope_theta=theta,
    )
    contexts = contexts_of(rows, context_range, packing, stepping=stepping)
    expected = naive((query, key, value), (key, value), contexts, theta=theta)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    assert_same_gradients(actual, expected, [query, key, value])


@settings(max_examples=25)
@given(data=st.data())
def test_paper_equals_naive(data: st.DataObject) -> None:
    rows, tokens, previous = (data.draw(st.integers(1, 4)) for _ in range(3))
    heads, groups, d = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3)), 0
    d = data.draw(st.integers(0, rows))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    query = random(rows, tokens, heads * groups, 6)
    key, value = (random(rows, tokens, heads, 6) for _ in range(2))
    context = (random(rows, previous, heads, 6), random(rows, previous, heads, 6))
    masks = [
        torch.rand(rows, length) < 0.7 if data.draw(st.booleans()) else None
        for length in (tokens, previous)
    ]
    negatives = data.draw(st.integers(0, 5))
    bank = None
    if negatives:
        bank = (random(negatives, heads, 6), random(negatives, heads, 6))
    actual = crossbatch.paper(
        query,
        key,
        value,
        *context,
        d=d,
        padding_mask=masks[0],
        previous_padding_mask=masks[1],
        bank=bank,
    )
    contexts = [[(row + step) % rows for step in range(d)] for row in range(rows)]
    expected = naive(
        (query, key, value), context, contexts, mask=masks[0], context_mask=masks[1], bank=bank
    )
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    if expected.requires_grad:
        assert_same_gradients(actual, expected, [query, key, value, *context, *(bank or ())])


def own_and_bank() -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two rows with two context windows, as `crossbatch_attention` takes them, and a bank."""
    torch.manual_seed(0)
    query, key, value = random(2, 4, 5, 6), random(2, 2, 5, 6), random(2, 2, 5, 6)
    own = query, key, value, random(2, 2, 3, 6), random(2, 2, 3, 6)
    return own, (random(2, 7, 6), random(2, 7, 6))


def test_a_bank_weight_equals_repeated_keys() -> None:
    own, bank = own_and_bank()
    thrice = bank[0].repeat(1, 3, 1), bank[1].repeat(1, 3, 1)
    actual = crossbatch_attention(*own, AttentionPattern([[0, 1], [1]], 0.3, bank_weight=3.0), bank)
    expected = crossbatch_attention(*own, AttentionPattern([[0, 1], [1]], 0.3), thrice)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    assert_same_gradients(actual, expected, [*own, *bank])


def test_other_windows_and_the_bank_are_asked_by_a_query_of_their_own() -> None:
    own, bank = own_and_bank()
    query, key, value, context_keys, context_values = own
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    pattern = AttentionPattern([[0, 1], [1]], 0.3)
    actual = crossbatch_attention(*own, pattern, bank, memory_query=query * factor)
    softer = (query, key, value, context_keys * factor, context_values)
    expected = crossbatch_attention(*softer, pattern, (bank[0] * factor, bank[1]))
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    assert_same_gradients(actual, expected, [*own, *bank, factor])


def test_a_window_weight_equals_a_repeated_window() -> None:
    own, _ = own_and_bank()
    contexts = [[0, 1], [1, 0]]
    weights = torch.tensor([[3.0, 1.0], [1.0, 2.0]])  # of windows, for each row
    actual = crossbatch_attention(*own, AttentionPattern(contexts, 0.3, context_weights=weights))
    repeated = AttentionPattern([[0, 1, 0, 0], [1, 0, 1]], 0.3)
    expected = crossbatch_attention(*own, repeated)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)
    assert_same_gradients(actual, expected, own)


def assert_unsuitable(error: type[Exception], message: str, **overrides: object) -> None:
    tensors = {"query": torch.randn(4, 3, 4, 6)}
    tensors |= {name: torch.randn(4, 3, 2, 6) for name in ("key", "value")}
    options = {"context_range": 2, "packing": 2, "stepping": True}
    with pytest.raises(error, match=message):
        crossbatch.longllama(**tensors | options | overrides)  # type: ignore[arg-type]


def test_what_longllama_refuses() -> None:
    refuse = assert_unsuitable
    refuse(OptionError, "context_range must be at least 1, got 0", context_range=0)
    refuse(OptionError, "packing must divide the batch of 4, got 3", packing=3)
    refuse(OptionError, "packing must divide the batch of 4, got 0", packing=0)
    refuse(ShapeError, r"query must have shape .* got \[4, 3, 3, 6\]", query=zeros(3))
    refuse(ShapeError, r"value must have shape .* got \[4, 3, 1, 6\]", value=zeros(1))
    refuse(ShapeError, r"padding_mask must have shape \[4, 3\]", padding_mask=zeros(1))
    refuse(ShapeError, "the bank's keys must have shape", bank=(zeros(2), zeros(2)))


def zeros(heads: int) -> Tensor:
    return torch.zeros(4, 3, heads, 6)


def test_d_is_at_most_the_batch() -> None:
    tensors = [torch.randn(2, 3, 1, 4) for _ in range(5)]
    with pytest.raises(
        OptionError, match="d must be from 0 to the 2 documents of the batch, got 3"
    ):
        crossbatch.paper(*tensors, d=3)


def test_gradient_checkpointing_changes_nothing() -> None:
    inputs = [random(3, 4, 2, 6) for _ in range(5)]

    def attend(*tensors: Tensor) -> Tensor:
        return crossbatch.paper(*tensors, d=2)

    plain = attend(*inputs)
    assert_same_gradients(checkpoint(attend, *inputs, use_reentrant=False), plain, inputs)


def test_autocast_computes_in_the_querys_dtype() -> None:
    inputs = [random(3, 4, 2, 6, dtype=torch.float32) for _ in range(5)]
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, half = (crossbatch.paper(*tensors, d=2) for tensors in (inputs, halves))
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(whole, crossbatch.paper(*inputs, d=2))
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0)
    half.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in halves)


def test_under_autocast_only_rotated_tensors_are_float32() -> None:
    """Rotary embeddings are; queries of other windows and their keys are not rotated."""
    wide = [random(2, 4, 5, 6, dtype=torch.float32) for _ in range(4)]
    query, key, value, memory_query = wide
    contexts = [random(2, 4, 3, 6, dtype=torch.float32) for _ in range(2)]

    def attend(asked: Tensor, values: Tensor, *others: Tensor) -> Tensor:
        pattern, (keys_before, values_before) = AttentionPattern([[0, 1], [1]], 0.3), others
        return crossbatch_attention(
            query, key, values, keys_before, values_before, pattern, memory_query=asked
        )

    whole = attend(memory_query, value, *contexts)
    half = attend(*(tensor.bfloat16() for tensor in (memory_query, value, *contexts)))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, atol=0.05, rtol=0)
    inputs = [query, key, memory_query, value, *contexts]
    found, expected = (torch.autograd.grad(each.sum(), inputs) for each in (half, whole))
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_saved_memory_does_not_grow_with_d() -> None:
    inputs = [random(8, 16, 2, 6) for _ in range(5)]

    def kept(d: int) -> int:
        sizes = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            crossbatch.paper(*inputs, d=d)
        return sum(sizes)

    assert kept(1) == kept(8)
