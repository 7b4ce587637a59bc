"""Cells: every key is in one, near its centre, and found where a graph did not get to."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem import Frame, Graph, GraphStore, Ids, IndexedOptions, Vectors, cells, graphs, indexed
from fotmem.cells import Cells
from fotmem.testing.store.naive import draw

HEADS, DIM = 2, 8


def clustered(count: int) -> Tensor:
    """Draw vectors around 20 centres, near each other in no order."""
    centres = 4 * draw(HEADS, 20, DIM, seed=1)
    of = torch.randint(20, (count,), generator=torch.Generator().manual_seed(2))
    return centres[:, of] + draw(HEADS, count, DIM, seed=3)


def filled(vectors: Tensor, step: int) -> Cells:
    some = Cells(Frame(torch.zeros(HEADS, 1, DIM), torch.ones(HEADS, 1, 1)), first=100)
    for start in range(0, vectors.shape[1], step):
        some.add(
            vectors[:, start : start + step], lambda first, end: vectors[:, first - 100 : end - 100]
        )
    return some


def members(some: Cells, head: int) -> list[Tensor]:
    return [torch.from_numpy(some.members(head, cell)) for cell in range(some.count)]


@pytest.mark.parametrize("step", [1, 70, 3000])
def test_keys_are_in_one_cell_each_and_nearly_all_in_the_nearest(step: int) -> None:
    vectors = clustered(3000 if step > 1 else 300)
    some = filled(vectors, step)
    assert some.count == pytest.approx(4 * vectors.shape[1] ** 0.5, abs=4)
    for head in range(HEADS):
        every = torch.cat(members(some, head))
        listed = len(every)
        assert listed >= vectors.shape[1] / cells.SLACK - step
        assert torch.equal(every.sort().values, torch.arange(100, 100 + listed))
        means = [vectors[head, ids - 100].mean(0) for ids in members(some, head) if len(ids)]
        own = torch.repeat_interleave(
            torch.arange(len(means)),
            torch.tensor([len(ids) for ids in members(some, head) if len(ids)]),
        )
        nearest = torch.cdist(vectors[head, every - 100], torch.stack(means)).argmin(1)
        assert (nearest == own).float().mean() > 0.75  # some are yet to move


def test_a_cell_is_promising_if_it_may_hold_better_and_nothing_of_it_was_found() -> None:
    vectors = clustered(3000)
    some = filled(vectors, 100)
    queries = draw(HEADS, 5, DIM, seed=4)
    scores = queries @ vectors.transpose(1, 2)
    best = scores.argmax(2, keepdim=True)  # [H, Q, 1]
    low, none = np.full((HEADS, 5), -1e9, np.float32), np.full((HEADS, 5, 1), -1)
    of, meant = some.promising(queries, none, low)
    assert meant.all()
    holding = 0
    for head in range(HEADS):
        for query in range(5):
            ids = [some.members(head, int(cell)) for cell in of[head, query]]
            holding += bool((np.concatenate(ids) == 100 + int(best[head, query])).any())
    assert holding >= 8  # of 10: the best key is where it is looked for
    assert not some.promising(queries, none, scores.amax(2).numpy() + 100)[1].any()
    inside = np.array([[some.members(h, c)[:1] for c in of[h, :, 0]] for h in range(HEADS)])
    seen = some.promising(queries, inside, low)[1]
    assert not seen[..., 0].any()
    assert seen[..., 1:].all()


def test_only_the_newest_of_a_large_cell_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MOST", 5)
    some = filled(torch.ones(HEADS, 200, DIM), 50)
    [every] = [ids for ids in members(some, 0) if len(ids)]
    assert every.tolist() == list(range(295, 300))


def test_copies_are_independent() -> None:
    vectors = clustered(600)
    some = filled(vectors, 100)
    twin = some.copy()
    before = [members(some, head) for head in range(HEADS)]
    twin.add(
        -vectors, lambda first, end: torch.cat([vectors, -vectors], 1)[:, first - 100 : end - 100]
    )
    queries, low = draw(HEADS, 5, DIM, seed=4), np.zeros((HEADS, 5), np.float32)
    found = np.tile(np.arange(100, 110), (HEADS, 5, 1))
    expected = filled(vectors, 100).promising(queries, found, low)
    for mine, other in zip(some.promising(queries, found, low), expected, strict=True):
        assert (mine == other).all()
    for head in range(HEADS):
        for ours, theirs in zip(members(some, head), before[head], strict=True):
            assert torch.equal(ours, theirs)
    longer = torch.cat([vectors, vectors[:, :100]], 1)
    some.add(longer[:, 600:], lambda first, end: longer[:, first - 100 : end - 100])
    for ours, theirs in zip(members(some, 0), members(filled(longer, 100), 0), strict=True):
        assert torch.equal(ours, theirs)


class LostGraph(Graph):
    """Always ends at the first vectors that it got."""

    def __init__(self) -> None:
        self.ids = np.empty(0, dtype=np.int64)

    def add(self, vectors: Vectors, ids: Ids) -> None:
        self.ids = np.concatenate([self.ids, ids])

    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        found = self.ids[:count]
        return np.tile(found, (len(queries), 1)), np.ones((len(queries), len(found)), np.float32)

    def copy(self) -> "LostGraph":
        twin = LostGraph()
        twin.ids = self.ids
        return twin


class LostStore(GraphStore):
    def _new_graph(self, head: int) -> Graph:
        return LostGraph()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_what_a_lost_graph_misses_is_found(
    monkeypatch: pytest.MonkeyPatch, at_once: bool, biased: bool, dtype: torch.dtype
) -> None:
    other = "_look_by_cell" if at_once else "_look_by_query"
    monkeypatch.setattr(LostStore, other, None)
    if not at_once:
        monkeypatch.setattr(graphs, "WORKSPACE", cells.MOST * DIM)
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    monkeypatch.setattr(indexed, "RECENT", 10)
    keys = clustered(3000).to(dtype)
    store = LostStore(num_heads=HEADS, head_dim=DIM, dtype=dtype, options=IndexedOptions())
    for some in keys.split(500, 1):
        store.add(some, some)
    queries = keys[:, 5::100].float()
    bias = (lambda ids: -0.01 * ids.float()) if biased else None
    hits = store.search(queries, 8, bias=bias)
    scores = queries @ keys.float().transpose(1, 2)
    if biased:
        scores -= 0.01 * torch.arange(3000)
    torch.testing.assert_close(hits.scores, scores.gather(2, hits.ids))
    best = scores.topk(8).values
    assert (hits.scores[..., 0] >= best[..., 0] - 1e-3).float().mean() > 0.8
    assert all(len(set(row.tolist())) == 8 for row in hits.ids.flatten(0, 1))
