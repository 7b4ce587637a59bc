"""Input longer than the window: windows, overflow, and outputs that cover all of it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

import fotmem
from fotmem import MemoryCache
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    VOCABULARY,
    WINDOW,
    contents,
    difference,
    one_thread,
)


def assert_overflow(cache: MemoryCache, oracle: Oracle) -> None:
    for layer in LAYERS:
        for actual, expected in zip(
            contents(cache.store(layer)), oracle.overflow[layer], strict=True
        ):
            assert difference(actual, expected) <= 1e-4


@pytest.mark.parametrize("last", [1, 6, None, WINDOW])
@pytest.mark.parametrize("length", [WINDOW, WINDOW + 1, 2 * WINDOW, 55])
def test_one_call_equals_oracle(length: int, last: int | None) -> None:
    model, ids = tiny.llama(), tiny.ids(length)
    oracle = Oracle(model, LAYERS, window=WINDOW, last_context_length=last)
    with fotmem.attach(
        model, layers=LAYERS, window=WINDOW, last_context_length=last, top_k=None
    ) as memory:
        out = model(ids)
        assert difference(out.logits[0], oracle.forward(ids)) <= 1e-4
        assert_overflow(out.past_key_values, oracle)
        moved = 0 if length == WINDOW else length - (last or WINDOW // 2)
        assert len(out.past_key_values.store(1)) == moved
        assert out.past_key_values.get_seq_length() == length
        assert len(memory) == 0  # answering only looks


@settings(max_examples=25)
@given(
    chunks=st.lists(st.integers(1, 45), min_size=1, max_size=5),
    window=st.integers(2, 24),
    share=st.floats(0, 1),
    top_k=st.sampled_from([None, 1, 3]),
    remembered=st.sampled_from([0, 30]),
    variant=st.sampled_from(["gqa", "yarn", "mha"]),
)
def test_any_calls_equal_oracle(
    chunks: list[int],
    window: int,
    share: float,
    top_k: int | None,
    remembered: int,
    variant: str,
) -> None:
    model, last = tiny.llama(variant), max(1, round(share * window))
    oracle = Oracle(model, LAYERS, window=window, last_context_length=last, top_k=top_k)
    with fotmem.attach(
        model, layers=LAYERS, window=window, last_context_length=last, top_k=top_k
    ) as memory:
        memory.read(tiny.ids(remembered))
        oracle.read(tiny.ids(remembered))
        cache = None
        for turn, length in enumerate(chunks):
            ids = tiny.ids(length, seed=turn)
            out = model(ids, **tiny.cached(cache))
            cache = out.past_key_values
            assert difference(out.logits[0], oracle.forward(ids)) <= 1e-4
            assert_overflow(cache, oracle)


def test_token_by_token_equals_oracle_beyond_the_window() -> None:
    model = tiny.llama()
    oracle = Oracle(model, LAYERS, window=WINDOW)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None):
        cache = DynamicCache()
        for token in tiny.ids(3 * WINDOW).split(1, dim=1):
            out = model(token, **tiny.cached(cache))
            assert difference(out.logits[0], oracle.forward(token)) <= 1e-4
        assert isinstance(cache, MemoryCache)
        assert_overflow(cache, oracle)
        assert len(cache.store(1)) == 2 * WINDOW


def test_an_answer_does_not_depend_on_earlier_questions() -> None:
    model, questions = tiny.llama(), tiny.rows(5, 40, 16)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        first = [model(question).logits for question in questions]
        assert len(memory) == len(memory.store(1)) == 40
        for question, logits in reversed(list(zip(questions, first, strict=True))):
            assert torch.equal(model(question).logits, logits)


def test_rows_share_the_memory_but_not_their_overflow() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None) as memory:
        memory.read(tiny.ids(40))
        batch = torch.cat(tiny.rows(50, 50, 50))
        changed = batch.clone()
        changed[1:] = batch[1:].flip(1)
        one, other = model(batch).logits, model(changed).logits
        assert difference(one[0], other[0]) <= 1e-5
        assert difference(one[1], other[1]) > 0.1


@pytest.mark.parametrize("ignored", [0, 20])
def test_labels_cover_the_whole_input(ignored: int) -> None:
    model, ids = tiny.llama(), tiny.ids(50)
    oracle = Oracle(model, LAYERS, window=WINDOW)
    labels = ids.clone()
    labels[:, :ignored] = -100
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None):
        loss = model(ids, labels=labels).loss
    expected = F.cross_entropy(oracle.forward(ids)[:-1], labels[0, 1:])
    assert abs(float(loss) - float(expected)) <= 1e-4


def hidden_states(selected: object = True) -> tuple[tuple[Tensor | None, ...], list[Tensor]]:
    model, ids = tiny.llama(), tiny.ids(50)
    oracle = Oracle(model, LAYERS, window=WINDOW)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None):
        found = model(ids, output_hidden_states=selected).hidden_states
    oracle.forward(ids)
    return found, oracle.hidden_states


def test_hidden_states_cover_the_whole_input() -> None:
    for actual, expected in zip(*hidden_states(), strict=True):
        assert actual is not None
        assert difference(actual[0], expected) <= 1e-4


def test_hidden_states_by_index() -> None:
    found, expected = hidden_states([0, 2, -1])
    assert [state is None for state in found] == [False, True, False, True, False]
    for actual, wanted in zip(found, expected, strict=True):
        assert actual is None or difference(actual[0], wanted) <= 1e-4


def test_logits_to_keep_and_tuples() -> None:
    model, ids = tiny.llama(), tiny.ids(50)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        whole = model(ids)
        assert whole.logits.shape == (1, 50, VOCABULARY)
        assert difference(model(ids, logits_to_keep=3).logits, whole.logits[:, -3:]) <= 1e-5
        picked = torch.tensor([0, 20, 49])
        assert difference(model(ids, logits_to_keep=picked).logits, whole.logits[:, picked]) <= 1e-5
        logits, cache = model(ids, return_dict=False)
        assert torch.equal(logits, whole.logits)
        assert isinstance(cache, MemoryCache)
        assert type(model.model(ids, return_dict=False)) is tuple
        assert model(ids, use_cache=False).past_key_values is None
        assert len(model(ids, use_cache=False, return_dict=False)) == 1
        model.config.use_cache = False
        assert model(ids).past_key_values is None


def test_embeddings_instead_of_ids() -> None:
    model, ids = tiny.llama(), tiny.ids(50)
    embeddings = model.get_input_embeddings()(ids)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)
