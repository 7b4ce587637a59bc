"""An attached model against the plain one and against the oracle, within and beyond the window."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

import fotmem
from fotmem import Memory
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    VARIANTS,
    WINDOW,
    contents,
    difference,
    one_thread,
)

attentions = pytest.mark.parametrize("attention", ["sdpa", "eager"])
variants = pytest.mark.parametrize("variant", VARIANTS)


def attached(model: LlamaForCausalLM, top_k: int | None = None, **options: Any) -> Memory:
    return fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=top_k, **options)


@contextmanager
def attention_outputs(model: LlamaForCausalLM) -> Iterator[list[Tensor]]:
    """Collect the output of every attention layer, ``[n, hidden]`` of one row, over all windows."""
    pieces: list[list[Tensor]] = [[] for _ in model.model.layers]
    handles = [
        layer.self_attn.register_forward_hook(
            lambda module, args, output: pieces[module.layer_idx].append(output[0][0])
        )
        for layer in model.model.layers
    ]
    joined: list[Tensor] = []
    try:
        yield joined
        joined += [torch.cat(piece) for piece in pieces]
    finally:
        for handle in handles:
            handle.remove()


def answers(model: LlamaForCausalLM) -> list[Tensor]:
    """Logits of calls that stay inside the window."""
    ids, mask = tiny.ids(WINDOW), torch.ones(1, WINDOW, dtype=torch.long)
    begun = model(ids[:, :9])
    results = [
        model(ids).logits,
        model(ids, attention_mask=mask).logits,
        model(ids, use_cache=False).logits,
        model(inputs_embeds=model.get_input_embeddings()(ids)).logits,
        model(torch.cat([ids, ids.flip(1)])).logits,
        begun.logits,
        model(ids[:, 9:], **tiny.cached(begun.past_key_values)).logits,
    ]
    cache = None
    for token in ids[:, :6].split(1, dim=1):
        out = model(token, **tiny.cached(cache))
        cache = out.past_key_values
        results.append(out.logits)
    return results


@attentions
@variants
def test_empty_memory_changes_nothing(variant: str, attention: str) -> None:
    model = tiny.llama(variant, attention=attention)
    plain = answers(model)
    with attached(model):
        for actual, expected in zip(answers(model), plain, strict=True):
            assert difference(actual, expected) == 0


@attentions
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_empty_memory_changes_nothing_in_half_precision(dtype: torch.dtype, attention: str) -> None:
    model = tiny.llama(attention=attention, dtype=dtype)
    plain = answers(model)
    with attached(model):
        for actual, expected in zip(answers(model), plain, strict=True):
            assert actual.dtype == dtype
            assert torch.equal(actual, expected)


@attentions
@pytest.mark.parametrize("side", ["left", "right"])
def test_empty_memory_with_padding(side: str, attention: str) -> None:
    model = tiny.llama(attention=attention)
    ids, mask = tiny.padded(tiny.rows(5, WINDOW, 9), side)
    plain = model(ids, attention_mask=mask).logits
    with attached(model):
        for given_mask in (mask, mask.bool(), mask.float()):
            actual = model(ids, attention_mask=given_mask).logits
            assert difference(actual[mask.bool()], plain[mask.bool()]) <= 1e-5


@variants
@pytest.mark.parametrize("top_k", [None, 5])
def test_memory_equals_one_softmax_layer_by_layer(variant: str, top_k: int | None) -> None:
    model, text, question = tiny.llama(variant), tiny.ids(40), tiny.ids(14, seed=1)
    oracle = Oracle(model, LAYERS, window=WINDOW, top_k=top_k)
    oracle.read(text)
    plain = model(question).logits[0]
    with attached(model, top_k) as memory:
        memory.read(text)
        with attention_outputs(model) as outputs:
            logits = model(question).logits[0]
        expected = oracle.forward(question)
        assert difference(logits, expected) <= 1e-4
        assert difference(logits, plain) > 0.1  # the memory does matter
        for output, wanted in zip(outputs, oracle.attention_outputs, strict=True):
            assert difference(output, wanted) <= 1e-4
        for layer in LAYERS:
            for actual, kept in zip(
                contents(memory.store(layer)), oracle.memory[layer], strict=True
            ):
                assert difference(actual, kept) <= 1e-4


@variants
@pytest.mark.parametrize("top_k", [None, 5])
def test_long_input_equals_oracle_layer_by_layer(variant: str, top_k: int | None) -> None:
    model, question = tiny.llama(variant), tiny.ids(61, seed=1)
    oracle = Oracle(model, LAYERS, window=WINDOW, top_k=top_k)
    oracle.read(tiny.ids(20))
    with attached(model, top_k) as memory:
        memory.read(tiny.ids(20))
        with attention_outputs(model) as outputs:
            logits = model(question).logits[0]
        assert difference(logits, oracle.forward(question)) <= 1e-4
        for output, wanted in zip(outputs, oracle.attention_outputs, strict=True):
            assert difference(output, wanted) <= 1e-4


@attentions
@pytest.mark.parametrize("attend", [True, False])
@pytest.mark.parametrize("positionals", [True, False])
@pytest.mark.parametrize("variant", ["gqa", "yarn"])
def test_reading_equals_oracle(
    variant: str, positionals: bool, attend: bool, attention: str
) -> None:
    model = tiny.llama(variant, attention=attention, mem_positionals=positionals)
    oracle = Oracle(model, LAYERS, window=WINDOW, mem_positionals=positionals)
    with attached(model) as memory:
        for text in tiny.rows(30, 1, 16, 7):
            memory.read(text, attend=attend)
            oracle.read(text, attend=attend)
        assert len(memory) == 54
        question = tiny.ids(40, seed=9)
        assert difference(model(question).logits[0], oracle.forward(question)) <= 1e-4


@pytest.mark.parametrize("variant", ["gqa", "yarn"])
@pytest.mark.parametrize("distance", [1, 48])
def test_distance_equals_oracle(variant: str, distance: int) -> None:
    model, text, question = tiny.llama(variant), tiny.ids(40), tiny.ids(40, seed=1)
    oracle = Oracle(model, LAYERS, window=WINDOW, distance=distance)
    with attached(model, distance=distance) as memory:
        plain, alone = model(question[:, :WINDOW]).logits[0], oracle.forward(question[:, :WINDOW])
        assert difference(plain, alone) <= 1e-4
        oracle.new_sequence()
        for reader in (memory, oracle):
            reader.read(text, attend=True)
        assert difference(model(question).logits[0], oracle.forward(question)) <= 1e-4
        ids, mask = tiny.padded(tiny.rows(5, WINDOW, 9), "left")
        logits = model(ids, attention_mask=mask).logits
        for row, kept in zip(range(3), mask.bool(), strict=True):
            oracle.new_sequence()
            assert difference(logits[row, kept], oracle.forward(ids[row, kept])) <= 1e-4
    near = Oracle(model, LAYERS, window=WINDOW)
    near.read(text, attend=True)
    oracle.new_sequence()
    assert difference(oracle.forward(question), near.forward(question)) > 1e-2


@pytest.mark.parametrize("decay", [2.0, {LAYERS[1]: 2.0}])
@pytest.mark.parametrize("top_k", [None, 6])
def test_decay_equals_oracle(top_k: int | None, decay: float | dict[int, float]) -> None:
    model, text, question = tiny.llama("gqa"), tiny.ids(150), tiny.ids(60, seed=1)
    oracle = Oracle(model, LAYERS, window=WINDOW, top_k=top_k, decay=decay)
    even = Oracle(model, LAYERS, window=WINDOW, top_k=top_k)
    with attached(model, top_k=top_k, decay=decay) as memory:
        for reader in (memory, oracle, even):
            reader.read(text, attend=True)
        expected = oracle.forward(question)  # longer than the window: overflow, too
        assert difference(model(question).logits[0], expected) <= 1e-4
        assert difference(even.forward(question), expected) > 1e-2


@pytest.mark.parametrize("decay", [0.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 6])
def test_temperature_equals_oracle(top_k: int | None, decay: float) -> None:
    model, text, question = tiny.llama("gqa"), tiny.ids(150), tiny.ids(60, seed=1)
    weighing: dict[str, Any] = {"decay": decay, "temperature": 0.2}
    oracle = Oracle(model, LAYERS, window=WINDOW, top_k=top_k, **weighing)
    even = Oracle(model, LAYERS, window=WINDOW, top_k=top_k, decay=decay)
    with attached(model, top_k=top_k, **weighing) as memory:
        for reader in (memory, oracle, even):
            reader.read(text, attend=True)
        expected = oracle.forward(question)  # longer than the window: overflow, too
        assert difference(model(question).logits[0], expected) <= 1e-4
        assert difference(even.forward(question), expected) > 1e-2
        memory.clear()
        beside_nothing = model(question[:, :9]).logits
    assert difference(model(question[:, :9]).logits, beside_nothing) <= 1e-5


def test_reading_without_attending_gives_another_memory() -> None:
    with attached(tiny.llama()) as one, attached(tiny.llama()) as other:
        one.read(tiny.ids(40), attend=True)
        other.read(tiny.ids(40))
        for layer, same in zip(LAYERS, (True, False), strict=True):
            keys = [contents(memory.store(layer))[0] for memory in (one, other)]
            assert (difference(*keys) <= 1e-5) == same  # below the first memory layer nothing looks


@pytest.mark.parametrize("top_k", [None, 4])
def test_the_stored_dtype_is_that_of_the_config(top_k: int | None) -> None:
    model = tiny.llama(mem_dtype="bfloat16")
    question, rounded = (
        tiny.ids(40, seed=1),
        Oracle(model, LAYERS, window=WINDOW, top_k=top_k, mem_dtype=torch.bfloat16),
    )
    exact = Oracle(model, LAYERS, window=WINDOW, top_k=top_k)
    with attached(model, top_k) as memory:
        for reader in (memory, rounded, exact):
            reader.read(tiny.ids(33))
        out = model(question)
        assert memory.store(1).dtype == out.past_key_values.store(3).dtype == torch.bfloat16
        error = difference(out.logits[0], rounded.forward(question))
        assert error <= 2e-2
        assert error < difference(out.logits[0], exact.forward(question)) / 2


def test_bfloat16_model_is_as_good_as_the_plain_one() -> None:
    model, ids = tiny.llama(dtype=torch.bfloat16), tiny.ids(WINDOW)
    oracle = Oracle(model, LAYERS, window=WINDOW)
    usual = difference(model(ids).logits[0], oracle.forward(ids))  # rounding alone
    oracle.new_sequence()
    with attached(model) as memory:
        memory.read(tiny.ids(40))
        oracle.read(tiny.ids(40))
        question = tiny.ids(40, seed=1)
        logits = model(question).logits[0]
        assert logits.dtype == memory.store(1).dtype == torch.bfloat16
        assert difference(logits, oracle.forward(question)) <= 3 * usual


def test_autocast() -> None:
    model = tiny.llama()
    oracle = Oracle(model, LAYERS, window=WINDOW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(tiny.ids(WINDOW)).logits
        usual = difference(plain[0], oracle.forward(tiny.ids(WINDOW)))
        oracle.new_sequence()
        with attached(model) as memory:
            assert torch.equal(model(tiny.ids(WINDOW)).logits, plain)
            memory.read(tiny.ids(40))
            oracle.read(tiny.ids(40))
            logits = model(tiny.ids(40, seed=1)).logits[0]
    assert difference(logits, oracle.forward(tiny.ids(40, seed=1))) <= 3 * usual


@settings(max_examples=4)
@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4), last=st.integers(1, WINDOW - 1))
def test_any_chunking_of_the_same_windows_gives_the_same_memory(
    lengths: list[int], last: int
) -> None:
    text = tiny.ids(sum(lengths) * WINDOW + last)
    with attached(tiny.llama()) as one, attached(tiny.llama()) as other:
        one.read(text)
        for chunk in text.split([WINDOW * length for length in lengths] + [last], dim=1):
            other.read(chunk[0].tolist())
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.tokens, text[0])
        for layer in LAYERS:
            for mine, theirs in zip(
                contents(one.store(layer)), contents(other.store(layer)), strict=True
            ):
                assert torch.equal(mine, theirs)


@attentions
@pytest.mark.parametrize("top_k", [None, 5])
def test_token_by_token_equals_one_call(top_k: int | None, attention: str) -> None:
    model, ids = tiny.llama(attention=attention), tiny.ids(WINDOW, seed=3)
    with attached(model, top_k) as memory:
        memory.read(tiny.ids(40))
        whole = model(ids).logits
        for sizes in ([1] * WINDOW, [5, 1, 10]):
            cache, pieces = None, []
            for chunk in ids.split(sizes, dim=1):
                out = model(chunk, **tiny.cached(cache))
                cache = out.past_key_values
                pieces.append(out.logits)
            assert difference(torch.cat(pieces, 1), whole) <= 1e-4
