"""The cache of one call: chats, copies, beams, and caches that do not belong."""

import copy

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

import fotmem
from fotmem import MemoryCache
from fotmem.errors import AttachError, LayerError, ShapeError, UnsupportedError
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    contents,
    difference,
    generate,
    one_thread,
)


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("sizes", [(5, 3, 4), (10, 25, 45), (40, 2, 70)])
def test_a_chat_in_the_cache_of_the_caller(sizes: tuple[int, ...], config: bool) -> None:
    """One empty cache and the whole text every turn, as transformers documents chats."""
    model = tiny.llama()
    oracle = Oracle(model, LAYERS, window=WINDOW)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None) as memory:
        memory.read(tiny.ids(30))
        oracle.read(tiny.ids(30))
        cache = DynamicCache(config=model.config) if config else DynamicCache()
        text = torch.zeros(1, 0, dtype=torch.long)
        pending = text[0]  # generated or asked, but not run yet
        for turn, size in enumerate(sizes):
            question = tiny.ids(size, seed=turn)
            text, pending = torch.cat([text, question], 1), torch.cat([pending, question[0]])
            text = generate(model, text, 8, **tiny.cached(cache))
            assert isinstance(cache, MemoryCache)
            assert cache.get_seq_length() == text.shape[1] - 1
            for token in text[0, -8:].tolist():
                assert int(oracle.forward(pending)[-1].argmax()) == token
                pending = torch.tensor([token])
        assert isinstance(cache, MemoryCache)
        for layer in LAYERS:
            assert len(cache.store(layer)) == oracle.overflow[layer].keys.shape[1]


def test_second_turn_with_the_new_tokens_only() -> None:
    model = tiny.llama()
    oracle = Oracle(model, LAYERS, window=WINDOW)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=None):
        cache = DynamicCache()
        for turn, size in enumerate((10, 40, 3)):
            ids = tiny.ids(size, seed=turn)
            out = model(ids, **tiny.cached(cache))
            assert out.past_key_values is cache
            assert difference(out.logits[0], oracle.forward(ids)) <= 1e-4


def test_generate_returns_the_cache() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        out = generate(model, tiny.ids(30), 10, return_dict_in_generate=True)
        assert isinstance(out.past_key_values, MemoryCache)
        direct = generate(model, tiny.ids(30), 20)
        resumed = generate(model, out.sequences, 10, **tiny.cached(out.past_key_values))
        assert torch.equal(resumed, direct)


def begun(model: LlamaForCausalLM, rows: int = 1, length: int = 30) -> MemoryCache:
    cache = model(torch.cat(tiny.rows(*[length] * rows))).past_key_values
    assert isinstance(cache, MemoryCache)
    return cache


def test_a_copy_is_independent() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(20))
        cache = begun(model)
        twin, later = copy.deepcopy(cache), tiny.ids(20, seed=5)
        assert twin.attached is memory.attached_model
        expected = model(later, **tiny.cached(begun(model))).logits
        for used in (cache, twin):
            assert torch.equal(model(later, **tiny.cached(used)).logits, expected)
            assert len(used.store(1)) == 42
        assert len(memory) == 20


@pytest.mark.parametrize("order", [[2, 0], [1, 1, 0, 2], [0, 0, 0]])
def test_selected_rows_keep_their_context_and_overflow(order: list[int]) -> None:
    model, later = tiny.llama(), tiny.rows(*[WINDOW] * 4, seed=50)
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        texts, mask = tiny.padded(tiny.rows(40, 9, 60))
        cache = model(texts, attention_mask=mask).past_key_values
        before = [contents(cache.store(1, row)) for row in range(3)]
        cache.batch_select_indices(torch.tensor(order))
        logits = model(torch.cat(later[: len(order)]), **tiny.cached(cache)).logits
        for row, source in enumerate(order):
            alone = model(texts[source : source + 1, mask[source].bool()]).past_key_values
            expected = model(later[row], **tiny.cached(alone))
            assert difference(logits[row], expected.logits[0]) <= 2e-5
            for kept, was in zip(contents(cache.store(1, row)), before[source], strict=True):
                assert torch.equal(kept[:, : was.shape[1]], was)
            assert len(cache.store(1, row)) == len(alone.store(1))


def test_repeated_rows_are_independent() -> None:
    model, later = tiny.llama(), torch.cat(tiny.rows(WINDOW, WINDOW, seed=50))
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        cache = begun(model)
        cache.batch_repeat_interleave(2)
        assert cache.store(1, 0) is cache.store(1, 1)  # shared until it grows
        logits = model(later, **tiny.cached(cache)).logits
        for row in range(2):
            alone = begun(model)
            expected = model(later[row : row + 1], **tiny.cached(alone)).logits[0]
            assert difference(logits[row], expected) <= 2e-5
            for mine, theirs in zip(
                contents(cache.store(1, row)), contents(alone.store(1)), strict=True
            ):
                assert difference(mine, theirs) <= 2e-5


def test_reset_empties_the_cache() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        cache = begun(model)
        cache.reset()
        assert cache.get_seq_length() == len(cache.store(1)) == 0
        cache.reorder_cache(torch.tensor([0]))  # nothing there: nothing to do
        logits = model(tiny.ids(50, seed=5), **tiny.cached(cache)).logits
        assert torch.equal(logits, model(tiny.ids(50, seed=5)).logits)


def test_stores_by_layer_and_row() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        cache = begun(model, rows=2)
        assert len(cache.store(1, row=1)) == 22
        with pytest.raises(LayerError, match=r"layer 0 has no memory; memory layers are \[1, 3\]"):
            cache.store(0)
        for row in (2, -1):
            with pytest.raises(LayerError, match=rf"row {row} is not .* holds 2 rows"):
                cache.store(1, row)
        assert len(begun(model, length=5).store(3)) == 0


@pytest.mark.parametrize("rows", [1, 3])
def test_another_number_of_rows_is_refused(rows: int) -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW):
        cache = begun(model, rows=2)
        with pytest.raises(ShapeError, match=rf"\[B=2, n\], as many rows as .* \[{rows}, 4\]"):
            model(torch.cat(tiny.rows(*[4] * rows)), **tiny.cached(cache))
        model(torch.cat(tiny.rows(4, 4)), **tiny.cached(cache))  # unharmed


def test_a_cache_of_a_detached_memory_is_refused() -> None:
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    cache = begun(model)
    memory.detach()
    with pytest.raises(AttachError, match="belongs to a memory that was detached"):
        model(tiny.ids(3), **tiny.cached(cache))
    with (
        fotmem.attach(model, layers=LAYERS, window=WINDOW),
        pytest.raises(AttachError, match="belongs to another memory than the attached one"),
    ):
        model(tiny.ids(3), **tiny.cached(cache))


def test_a_cache_filled_by_the_plain_model_is_refused() -> None:
    model = tiny.llama()
    cache = model(tiny.ids(5)).past_key_values
    with (
        fotmem.attach(model, layers=LAYERS, window=WINDOW),
        pytest.raises(UnsupportedError, match="a cache filled without memory cannot be used"),
    ):
        model(tiny.ids(3), **tiny.cached(cache))
    assert type(cache) is DynamicCache
    model(tiny.ids(3), **tiny.cached(cache))  # unharmed


def test_a_cache_begun_in_inference_mode() -> None:
    """Inference tensors cannot be written to outside unless they are copied."""
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        with torch.inference_mode():
            memory.read(tiny.ids(20))
            cache = begun(model)
        memory.read(tiny.ids(20, seed=1))
        model(tiny.ids(40, seed=2), **tiny.cached(cache))
        assert len(memory) == 40
        assert len(cache.store(1)) == 62
