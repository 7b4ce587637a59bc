"""Better hits put among those that were found, against sorting all of them."""

import numpy as np
import pytest
import torch

from fotmem import Hits
from fotmem.better import Better
from fotmem.testing.store.naive import draw

HEADS, QUERIES, TOP_K = 2, 6, 4


def first_hits(scores: torch.Tensor, among: int) -> Hits:
    """Find the best of the keys before `among`."""
    found = scores[..., :among].sort(dim=2, descending=True)
    return Hits(found.indices[..., :TOP_K].clone(), found.values[..., :TOP_K].clone())


@pytest.mark.parametrize("cell", [1, 3, 40], ids=["single keys", "small cells", "large cells"])
def test_the_best_of_all_that_was_noted_and_found(cell: int) -> None:
    scores = draw(HEADS, QUERIES, 100)
    hits = first_hits(scores, 20)
    better, rows = Better(hits), np.array([1, 4, 5])
    assert (better.bar == hits.scores[..., -1].numpy()).all()
    untouched = hits.ids[:, [0, 2, 3]].clone()
    for head in range(HEADS):
        for start in range(20, 100, cell):
            ids = np.arange(start, min(start + cell, 100))
            better.note(head, rows, ids, scores[head][rows][:, ids].numpy())
    better.join()
    expected = first_hits(scores, 100)
    assert torch.equal(hits.ids[:, rows], expected.ids[:, rows])
    assert torch.equal(hits.scores[:, rows], expected.scores[:, rows])
    assert torch.equal(hits.ids[:, [0, 2, 3]], untouched)


def test_places_without_a_hit_are_filled() -> None:
    hits = Hits(torch.full((1, 1, 3), -1), torch.full((1, 1, 3), -torch.inf))
    better = Better(hits)
    better.note(0, np.array([0]), np.array([7, 9]), np.array([[-5.0, -1.0]], np.float32))
    better.join()
    assert hits.ids.tolist() == [[[9, 7, -1]]]
    assert hits.scores.tolist() == [[[-1.0, -5.0, -torch.inf]]]


def test_hits_stay_where_nothing_is_better() -> None:
    scores = draw(HEADS, QUERIES, 20)
    hits, expected = first_hits(scores, 20), first_hits(scores, 20)
    better = Better(hits)
    better.note(0, np.array([2]), np.array([30]), better.bar[0, 2][None, None])
    better.join()
    assert torch.equal(hits.ids, expected.ids)
