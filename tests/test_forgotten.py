"""Hiding forgotten keys that a search still finds."""

import pytest
import torch
from torch import Tensor

from fotmem import attention
from fotmem.stores.brute_force import exact_search
from fotmem.stores.forgotten import live_bias, search_live
from fotmem.stores.hits import Hits
from fotmem.testing.store.naive import draw

HEADS, TOKENS, DIM = 2, 60, 8
KEYS = draw(HEADS, TOKENS, DIM)


def test_asks_for_more_until_enough_are_live() -> None:
    queries, asked = draw(HEADS, 5, DIM, seed=1), []

    def search(some: Tensor, top_k: int) -> Hits:
        asked.append(top_k)
        return exact_search(some, KEYS, top_k)

    hits = search_live(search, queries, 4, forgotten=40, added=TOKENS)
    expected = exact_search(queries, KEYS[:, 40:], 4, first_id=40)
    assert torch.equal(hits.ids, expected.ids)
    torch.testing.assert_close(hits.scores, expected.scores)
    assert asked == [min(4 * 2**i, TOKENS) for i in range(len(asked))]
    assert len(asked) > 1


def test_a_search_that_has_no_more_is_not_asked_again() -> None:
    queries, asked = draw(HEADS, 3, DIM, seed=1), []

    def search(some: Tensor, top_k: int) -> Hits:
        asked.append(top_k)
        return exact_search(some, KEYS, 3).padded(top_k)

    hits = search_live(search, queries, 4, forgotten=TOKENS, added=TOKENS)
    assert asked == [4]
    assert (hits.ids == -1).all()
    assert (hits.scores == -torch.inf).all()


def test_many_queries_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, counts = draw(HEADS, 9, DIM, seed=1), []

    def search(some: Tensor, top_k: int) -> Hits:
        counts.append(some.shape[1])
        return exact_search(some, KEYS, top_k)

    whole = search_live(search, queries, 4, forgotten=50, added=TOKENS)
    assert set(counts) == {9}
    monkeypatch.setattr(attention, "WORKSPACE", 2 * HEADS * TOKENS)
    parts = search_live(search, queries, 4, forgotten=50, added=TOKENS)
    assert min(counts) <= 2
    assert torch.equal(parts.ids, whole.ids)


def test_a_bias_takes_ids_and_hides_forgotten_rows() -> None:
    bias = live_bias(lambda ids: ids.float(), first_id=100, forgotten=2)
    assert bias(torch.tensor([1, 2, 3])).tolist() == [-torch.inf, 102, 103]
    bias = live_bias(lambda ids: ids.float(), first_id=100, forgotten=0)
    assert bias(torch.tensor([0, 3])).tolist() == [100, 103]
