"""Hiding keys that a search still finds: forgotten ones, and those that may not be found."""

import pytest
import torch
from torch import Tensor

from fotmem import attention
from fotmem.stores import hidden
from fotmem.stores.brute_force import exact_search
from fotmem.stores.hidden import LiveBias, search_among, search_shown
from fotmem.stores.hits import Hits
from fotmem.stores.id_ranges import IdRanges
from fotmem.testing.store.naive import draw

HEADS, TOKENS, DIM = 2, 60, 8
KEYS = draw(HEADS, TOKENS, DIM)


class Searches:
    """An exact search that notes how it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.queries: list[int] = []

    def __call__(self, some: Tensor, top_k: int) -> Hits:
        self.asked.append(top_k)
        self.queries.append(some.shape[1])
        return exact_search(some, KEYS, top_k)


def test_asks_for_more_until_enough_are_shown() -> None:
    queries, search = draw(HEADS, 5, DIM, seed=1), Searches()
    hits = search_shown(search, queries, 4, shown=lambda ids: ids >= 40, asked=4, most=TOKENS)
    expected = exact_search(queries, KEYS[:, 40:], 4, first_id=40)
    assert torch.equal(hits.ids, expected.ids)
    torch.testing.assert_close(hits.scores, expected.scores)
    assert search.asked == [min(4 * 2**i, TOKENS) for i in range(len(search.asked))]
    assert len(search.asked) > 1


def test_only_queries_that_lack_hits_are_asked_again() -> None:
    queries, search = draw(HEADS, 40, DIM, seed=1), Searches()
    hits = search_shown(search, queries, 4, shown=lambda ids: ids >= 20, asked=6, most=TOKENS)
    assert torch.equal(hits.ids, exact_search(queries, KEYS[:, 20:], 4, first_id=20).ids)
    assert 40 == search.queries[0] > search.queries[1] >= search.queries[-1]


def test_a_search_that_has_no_more_is_not_asked_again() -> None:
    queries, asked = draw(HEADS, 3, DIM, seed=1), []

    def search(some: Tensor, top_k: int) -> Hits:
        asked.append(top_k)
        return exact_search(some, KEYS, 3).padded(top_k)

    hits = search_shown(search, queries, 4, shown=lambda ids: ids < 0, asked=4, most=TOKENS)
    assert asked == [4]
    assert hits.ids.shape == (HEADS, 3, 4)
    assert (hits.ids == -1).all()
    assert (hits.scores == -torch.inf).all()


def test_many_hits_are_asked_for_in_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, search = draw(HEADS, 9, DIM, seed=1), Searches()
    whole = search_shown(search, queries, 4, shown=lambda ids: ids >= 50, asked=4, most=TOKENS)
    assert max(search.queries[1:]) > 2
    monkeypatch.setattr(attention, "WORKSPACE", 2 * HEADS * 8)
    again = Searches()
    parts = search_shown(again, queries, 4, shown=lambda ids: ids >= 50, asked=4, most=TOKENS)
    assert again.queries[0] == 9
    assert max(again.queries[1:]) == 2
    assert torch.equal(parts.ids, whole.ids)


@pytest.mark.parametrize(
    ("rows", "few"), [(IdRanges([(0, 4), (30, 40)]), True), (IdRanges([(20, 60)]), False)]
)
def test_few_rows_are_compared_and_many_are_searched(
    rows: IdRanges, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden, "PER_HIT", 5)
    monkeypatch.setattr(hidden, "SLACK", 1)
    queries, search, compared = draw(HEADS, 30, DIM, seed=1), Searches(), []

    def compare(some: Tensor) -> Hits:
        compared.append(some.shape[1])
        places = rows.at(torch.arange(len(rows)))
        positions, scores = exact_search(some, KEYS[:, places], 4)
        return Hits(places[positions], scores)

    hits = search_among(search, compare, queries, 4, rows=rows, live=TOKENS)
    assert torch.equal(hits.ids, compare(queries).ids)
    if few:
        assert (search.asked, compared) == ([], [30, 30])
    else:
        assert search.asked == [6, 8]  # a third is hidden
        assert 30 > search.queries[1] > compared[0] > 0


def test_a_search_that_finds_too_few_is_followed_by_comparing() -> None:
    queries, rows = draw(HEADS, 3, DIM, seed=1), IdRanges([(0, 59)])

    def poor(some: Tensor, top_k: int) -> Hits:
        return exact_search(some, KEYS, 3).padded(top_k)

    def compare(some: Tensor) -> Hits:
        return exact_search(some, KEYS[:, :59], 4)

    hits = search_among(poor, compare, queries, 4, rows=rows, live=TOKENS)
    assert torch.equal(hits.ids, compare(queries).ids)


def test_a_bias_takes_ids_and_hides_rows() -> None:
    bias = LiveBias(lambda ids: ids.float(), first_id=100, shown=lambda rows: rows >= 2)
    assert bias(torch.tensor([1, 2, 3])).tolist() == [-torch.inf, 102, 103]
    bias = LiveBias(lambda ids: ids.float(), first_id=100, shown=None)
    assert bias(torch.tensor([0, 3])).tolist() == [100, 103]
