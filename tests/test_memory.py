"""Reading, clearing, and what happens to a memory when something fails in between."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import Memory
from fotmem.errors import AttachError, InputError, LayerError, OptionError, ShapeError
from tests import tiny
from tests.oracle import Oracle
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    contents,
    difference,
    one_thread,
)


def attached(**options: Any) -> tuple[Any, Memory]:
    model = tiny.llama()
    return model, fotmem.attach(model, layers=LAYERS, window=WINDOW, **options)


def snapshot(memory: Memory) -> list[Tensor]:
    stored = [tensor for layer in LAYERS for tensor in contents(memory.store(layer))]
    return [memory.tokens, *stored]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine, theirs)


def test_read_takes_the_output_of_tokenizers() -> None:
    text, kept = tiny.ids(37), []
    for ids in (
        text,
        text[0],
        text[0].tolist(),
        text.tolist(),
        text.int(),
        text[0].numpy(),
        np.array(text.tolist(), dtype=np.uint8),
    ):
        _, memory = attached()
        memory.read(ids)
        kept.append(snapshot(memory))
    for other in kept[1:]:
        assert_equal(kept[0], other)
    assert torch.equal(kept[0][0], text[0])


@pytest.mark.parametrize("empty", [[], [[]], torch.zeros(1, 0), torch.zeros(0, dtype=torch.int32)])
def test_reading_an_empty_text_changes_nothing(empty: object) -> None:
    _, memory = attached()
    memory.read(empty, progress=True)
    assert len(memory) == len(memory.store(1)) == 0


@pytest.mark.parametrize(
    "ids, error, message",
    [
        (
            [[1, 2], [3, 4]],
            ShapeError,
            r"input_ids must have shape \[n\] or \[1, n\].*got \[2, 2\]",
        ),
        (5, ShapeError, r"\[n\] or \[1, n\] \(one text\), got \[\]"),
        (torch.zeros(1, 4, 32), ShapeError, r"\[n\] or \[1, n\] \(one text\), got \[1, 4, 32\]"),
        ([0.5], InputError, r"must be integers, got torch.float32: pass token ids, not embeddings"),
        ([True], InputError, r"must be integers, got torch.bool"),
        ([5, 97], InputError, r"must be from 0 to 96, got 97: were they made by this model's"),
        ([5, -1], InputError, r"must be from 0 to 96, got -1"),
    ],
)
def test_bad_token_ids_do_not_change_the_memory(
    ids: object, error: type[Exception], message: str
) -> None:
    _, memory = attached()
    memory.read(tiny.ids(20))
    before = snapshot(memory)
    with pytest.raises(error, match=message):
        memory.read(ids)
    assert issubclass(error, fotmem.FotmemError)
    assert_equal(snapshot(memory), before)


def test_progress_goes_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    _, memory = attached()
    memory.read(tiny.ids(40), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err
    assert "40/40 tokens" in err


def test_clear_restarts_ids_at_0() -> None:
    model, memory = attached(top_k=None)
    plain = model(tiny.ids(9)).logits
    for _ in range(2):
        memory.read(tiny.ids(40, seed=3))
        model(tiny.ids(9))
        memory.clear()
        assert len(memory) == len(memory.tokens) == len(memory.store(3)) == 0
        assert memory.store(3).first_id == 0
        assert memory.explain() == []
        assert torch.equal(model(tiny.ids(9)).logits, plain)
    memory.read(tiny.ids(20))
    model(tiny.ids(9))
    assert {found.position for found in memory.explain(top=1000)} == set(range(20))


def test_top_k_changes_without_reading_again() -> None:
    model, memory = attached()
    assert memory.top_k == 32
    memory.read(tiny.ids(40))
    for top_k in (1, 7, None, 32):
        oracle = Oracle(tiny.llama(), LAYERS, window=WINDOW, top_k=32)
        oracle.read(tiny.ids(40))
        memory.top_k = oracle.top_k = top_k
        question = tiny.ids(40, seed=1)
        assert difference(model(question).logits[0], oracle.forward(question)) <= 1e-4
    for wrong in (0, -1, 1.5, True, "3"):
        with pytest.raises(OptionError, match="top_k must be an integer of at least 1, or None"):
            memory.top_k = wrong  # type: ignore[assignment]
    assert memory.top_k == 32


def test_options_are_checked_when_they_are_set() -> None:
    model, memory = attached(decay=0.5, temperature=2, distance=4)
    memory.read(tiny.ids(40))
    before = model(tiny.ids(9)).logits
    wrong: dict[str, list[Any]] = {
        "top_k": [True, 0, -1, 2.5, "3", np.nan, np.True_],
        "decay": [-5, np.nan, np.inf, True, "1", None, 1j],
        "temperature": [-1, 0, np.nan, np.inf, False, "1", None],
        "distance": [-7, 64, 1.5, True, "3", None],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(OptionError, match=f"^{name} must be .*, got {value!r}"):
                setattr(memory, name, value)
    assert (memory.top_k, memory.decay, memory.temperature, memory.distance) == (32, 0.5, 2, 4)
    assert torch.equal(model(tiny.ids(9)).logits, before)
    for name in ("layers", "tokens", "attached", "options", "stores"):
        with pytest.raises(AttributeError, match=name):
            setattr(memory, name, None)


def test_a_new_distance_holds_at_once() -> None:
    model, memory = attached(top_k=None)
    memory.read(tiny.ids(40))
    ids = tiny.ids(12, seed=1)
    near = model(ids).logits
    cache = model(ids[:, :6]).past_key_values
    memory.distance = 20
    far = model(ids).logits
    assert difference(far, near) > 0.01
    begun = model(ids[:, 6:], **tiny.cached(cache)).logits
    assert difference(begun, near[:, 6:]) > 0.01
    with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW, top_k=None, distance=20) as new:
        new.read(tiny.ids(40))
        expected = new.attached_model.decoder(ids).last_hidden_state
        assert difference(model.model(ids).last_hidden_state, expected) <= 1e-5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda memory: memory.read([1], attend="yes"), "attend must be True or False, got 'yes'"),
        (lambda memory: memory.read([1], attend=1), "attend must be True or False, got 1"),
        (lambda memory: memory.read([1], overlap=True), "overlap must be an integer, got True"),
        (lambda memory: memory.replace("a", 2, [1]), "start must be an integer, got 'a'"),
        (lambda memory: memory.replace(0, 2.0, [1]), "stop must be an integer, got 2.0"),
        (lambda memory: memory.replace(0, None, [1]), "stop must be an integer, got None"),
        (lambda memory: memory.replace(False, 2, [1]), "start must be an integer, got False"),
        (lambda memory: memory.replace(0, 2, [1], attend=None), "attend must be True or False"),
        (lambda memory: memory.explain(top=1.5), r"top must be an integer, got 1\.5"),
        (lambda memory: memory.explain(top=True), "top must be an integer, got True"),
        (lambda memory: memory.explain(row="x"), "row must be an integer, got 'x'"),
        (lambda memory: memory.explain(row=None), "row must be an integer, got None"),
        (lambda memory: memory.explain(tokenizer=5), "tokenizer must be one of transformers, or"),
        (lambda memory: memory.read([1], progress="x"), "progress must be True or False, got 'x'"),
        (lambda memory: next(memory.observe([1], overlap="1")), "overlap must be an integer"),
    ],
)
def test_arguments_of_wrong_types_are_refused_and_change_nothing(call: Any, message: str) -> None:
    model, memory = attached()
    memory.read(tiny.ids(20))
    model(tiny.ids(9))
    before, explained = snapshot(memory), memory.explain()
    with pytest.raises(OptionError, match=message):
        call(memory)
    assert_equal(snapshot(memory), before)
    assert memory.explain() == explained


def test_stores_by_layer() -> None:
    _, memory = attached()
    memory.read(tiny.ids(20))
    assert memory.layers == LAYERS
    assert [len(memory.store(layer)) for layer in LAYERS] == [20, 20]
    for wrong in (0, 4, -1):
        with pytest.raises(LayerError, match=rf"layer {wrong} has no memory; .* are \[1, 3\]"):
            memory.store(wrong)


def test_after_detach_nothing_is_read_and_the_memory_stays() -> None:
    _, memory = attached()
    memory.read(tiny.ids(20))
    memory.detach()
    memory.detach()
    assert not memory.attached
    assert repr(memory) == "Memory(20 tokens, layers=[1, 3], top_k=32, detached)"
    with pytest.raises(AttachError, match="was detached from its model; attach again to read"):
        memory.read(tiny.ids(3))
    assert len(memory.store(1)) == len(memory) == 20


def test_reading_in_another_thread() -> None:
    _, memory = attached()
    thread = threading.Thread(target=memory.read, args=(tiny.ids(40),))
    thread.start()
    thread.join()
    assert len(memory) == len(memory.store(3)) == 40


@pytest.mark.parametrize("overlap", [1.5, True, "3", None])
def test_overlap_must_be_an_integer(overlap: Any) -> None:
    _, memory = attached()
    with pytest.raises(OptionError, match=f"overlap must be an integer, got {overlap!r}"):
        memory.read(tiny.ids(20), overlap=overlap)
    assert len(memory) == 0


def test_temporary_reading_is_forgotten() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        before, plain = snapshot(memory), model(tiny.ids(9)).logits
        with memory.temporarily():
            memory.read(tiny.ids(30, seed=1))
            assert len(memory) == len(memory.store(LAYERS[0])) == 70
            assert not torch.equal(model(tiny.ids(9)).logits, plain)
        with pytest.raises(InputError), memory.temporarily():
            memory.read(torch.cat([tiny.ids(20), tiny.ids(20) + 10**6], 1))
        after = snapshot(memory)
        assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
        assert torch.equal(model(tiny.ids(9)).logits, plain)
        memory.read(tiny.ids(5))
        assert len(memory) == 45


def test_temporary_blocks_end_in_reverse_order() -> None:
    """Tasks of one thread can begin and end them crosswise."""
    _, memory = attached()
    memory.read(tiny.ids(40))
    before, kept = snapshot(memory), memory.attached_model.contents
    first, second = memory.temporarily(), memory.temporarily()
    first.__enter__()
    memory.read(tiny.ids(5, seed=1))
    second.__enter__()
    memory.read(tiny.ids(5, seed=2))
    first.__exit__(None, None, None)
    assert memory.attached_model.contents is kept
    with pytest.raises(AttachError, match="ended first; end blocks in the reverse order"):
        second.__exit__(None, None, None)
    assert memory.attached_model.contents is kept
    assert_equal(snapshot(memory), before)
    with memory.temporarily():
        memory.clear()
    assert memory.attached_model.contents is kept


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 14), (10, 31), (60, 70), (70, 70), (0, 70)]
)
def test_replace_equals_reading_the_changed_text(
    start: int, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem.memory.contents.BULK", 9 * 2 * 8)  # some keys at a time
    model, memory = attached(decay=1.0)
    text, put = tiny.ids(70)[0].tolist(), tiny.ids(20, seed=1)[0].tolist()
    pieces = text[:start], put, text[stop:]
    memory.read(text[:start])  # windows begin where the pieces do
    memory.read(text[start:stop])
    memory.read(text[stop:])
    memory.replace(start, stop, put)
    replaced, logits = snapshot(memory), model(tiny.ids(9, seed=2)).logits
    memory.clear()
    for piece in pieces:
        memory.read(piece)
    assert_equal(replaced, snapshot(memory))
    assert torch.equal(model(tiny.ids(9, seed=2)).logits, logits)


def test_replace_attends_to_the_tokens_before() -> None:
    _, memory = attached()
    memory.read(tiny.ids(40))
    memory.replace(20, 30, tiny.ids(7, seed=1), overlap=5)
    replaced = [contents(memory.store(layer))[0] for layer in LAYERS]
    memory.clear()
    memory.read(tiny.ids(40)[:, :20])
    memory.read(tiny.ids(7, seed=1), overlap=5)
    for layer, keys in zip(LAYERS, replaced, strict=True):
        assert torch.equal(keys[:, 20:27], contents(memory.store(layer))[0][:, 20:27])


@pytest.mark.parametrize(
    ("start", "stop", "put"), [(5, 4, [1]), (-1, 4, [1]), (0, 41, [1]), (0, 10, [10**6])]
)
def test_a_failed_replace_changes_nothing(start: int, stop: int, put: list[int]) -> None:
    _, memory = attached()
    memory.read(tiny.ids(40))
    before, stores = snapshot(memory), dict(memory.stores)
    with pytest.raises((OptionError, InputError)):
        memory.replace(start, stop, put)
    assert_equal(before, snapshot(memory))
    assert memory.stores == stores


def test_reading_stops_after_the_last_memory_layer() -> None:
    model, ran = tiny.llama(), []
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    with fotmem.attach(model, layers=(0, 2), window=16) as memory:
        memory.read(tiny.ids(30))
        assert ran == [0, 1] * 2
        model(tiny.ids(5))
    assert ran == [0, 1] * 2 + [0, 1, 2, 3]
