"""Overlapping windows: every token is remembered once, none as the first of a later window."""

import pytest
import torch

import fotmem
from tests import tiny
from tests.oracle import Oracle

WINDOW, OVERLAP = 16, 5


@pytest.mark.parametrize("length", [0, 1, 16, 17, 27, 28, 60])
def test_each_token_is_remembered_once(length: int) -> None:
    ids = tiny.ids(length)[0]
    with fotmem.attach(tiny.llama(), layers=[1, 3], window=WINDOW) as memory:
        memory.read(ids, overlap=OVERLAP)
        assert torch.equal(memory.tokens, ids)
        assert all(len(memory.store(layer)) == length for layer in (1, 3))


def test_keys_are_those_of_windows_that_begin_earlier() -> None:
    model, ids = tiny.llama(), tiny.ids(38)[0]
    expected = []
    for begin, end, new in ((0, 16, 16), (11, 27, 11), (22, 38, 11)):
        oracle = Oracle(model, [1, 3], window=WINDOW)
        oracle.read(ids[begin:end], attend=False)
        expected.append(oracle.memory[3].keys[:, -new:])
    with fotmem.attach(model, layers=[1, 3], window=WINDOW) as memory:
        memory.read(ids, attend=False, overlap=OVERLAP)
        store = memory.store(3)
        keys = store.keys(torch.arange(38).expand(store.num_heads, 1, -1))[:, 0]
    assert (keys.double() - torch.cat(expected, 1)).abs().max() <= 1e-4


def test_the_next_text_begins_with_the_end_of_the_last_one() -> None:
    """Only the first text begins a window, so there is one attention sink, not one per text."""
    model, ids = tiny.llama(), tiny.ids(38)[0]
    expected = []
    for begin, end, new in ((0, 10, 10), (5, 21, 11), (16, 30, 9), (25, 38, 8)):
        oracle = Oracle(model, [1, 3], window=WINDOW)
        oracle.read(ids[begin:end], attend=False)
        expected.append(oracle.memory[3].keys[:, -new:])
    with fotmem.attach(model, layers=[1, 3], window=WINDOW) as memory:
        for text in ids.split([10, 20, 8]):
            memory.read(text, overlap=OVERLAP)
        assert torch.equal(memory.tokens, ids)
        store = memory.store(3)
        keys = store.keys(torch.arange(38).expand(store.num_heads, 1, -1))[:, 0]
    assert (keys.double() - torch.cat(expected, 1)).abs().max() <= 1e-4


@pytest.mark.parametrize("overlap", [-1, WINDOW])
def test_overlap_out_of_range_reads_nothing(overlap: int) -> None:
    with fotmem.attach(tiny.llama(), layers=[1], window=WINDOW) as memory:
        with pytest.raises(fotmem.errors.OptionError, match=rf"from 0 to .* \(15\), got {overlap}"):
            memory.read(tiny.ids(20), overlap=overlap)
        assert len(memory) == 0
