"""The `clusters` store: what it reads is exact, what it does not read is estimated well."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.memory.decay import Decay
from fotmem.stores import Bias, IdRanges, SavedIndex
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.naive import draw, naive_attention
from fotmem_clusters.choosing import Limits
from fotmem_clusters.entries import gain
from fotmem_clusters.halving import halved
from fotmem_clusters.members import Members
from fotmem_clusters.store import ClustersStore
from fotmem_clusters.visits import visits

HEADS, DIM, TOKENS = 2, 16, 6000
SCALE = DIM**-0.5
ALL = 10 * TOKENS


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and queries that are like those of attention."""
    return attention_data(HEADS, TOKENS, 24, DIM)


def filled(data: tuple[Tensor, ...], cuts: tuple[int, ...] = (), **options: Any) -> ClustersStore:
    keys, values = data[:2]
    store = create_store("clusters", num_heads=HEADS, head_dim=DIM, **options)
    assert isinstance(store, ClustersStore)
    for pair in zip(keys.tensor_split(cuts, 1), values.tensor_split(cuts, 1), strict=True):
        store.add(*pair)
    return store


def error(out: Tensor, expected: Tensor) -> float:
    """Return the mean relative error of outputs."""
    difference = (out.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(difference.mean())


@pytest.mark.parametrize("forgotten", [0, 700])
@pytest.mark.parametrize("biased", [False, True])
def test_reading_everything_is_dense_attention(
    data: tuple[Tensor, Tensor, Tensor], forgotten: int, biased: bool
) -> None:
    keys, values, queries = data
    store = filled(data, budget=ALL)
    store.forget(forgotten)
    table = draw(1, TOKENS, 1, seed=9).flatten()
    bias = (lambda ids: table[ids]) if biased else None
    part = store.attend(queries, top_k=None, scale=SCALE, bias=bias)
    scores = queries.double() @ keys.double().transpose(1, 2)
    scores = (scores + (table if biased else 0))[..., forgotten:] * SCALE
    torch.testing.assert_close(part.lse.double(), scores.logsumexp(-1), atol=1e-4, rtol=0)
    expected = scores.softmax(-1) @ values[:, forgotten:].double()
    torch.testing.assert_close(part.out.double(), expected, atol=1e-4, rtol=1e-4)


def test_more_budget_never_raises_the_mean_error(data: tuple[Tensor, Tensor, Tensor]) -> None:
    keys, values, queries = data
    store = filled(data)
    expected, _ = naive_attention(queries, keys, values, SCALE)
    errors = []
    for budget in (60, 120, 240, 480, 960, 1920, ALL):
        store.tune(budget=budget)
        errors.append(error(store.attend(queries, top_k=None, scale=SCALE).out, expected))
    assert errors == sorted(errors, reverse=True), errors
    assert errors[-1] < 1e-4


def test_an_estimate_is_better_than_the_best_keys_alone(
    data: tuple[Tensor, Tensor, Tensor],
) -> None:
    """With as many keys read, the error is a quarter of that of exact top-k, or less."""
    keys, values, queries = data
    queries = queries / 8  # many keys count
    budget = TOKENS // 100
    store = filled(data, budget=budget)
    expected, _ = naive_attention(queries, keys, values, SCALE)
    exact = create_store("exact", num_heads=HEADS, head_dim=DIM)
    exact.add(keys, values)
    best = error(exact.attend(queries, top_k=budget, scale=SCALE).out, expected)
    estimated = error(store.attend(queries, top_k=None, scale=SCALE).out, expected)
    assert estimated < best / 4, (estimated, best)


def test_the_store_knows_how_wrong_it_is(data: tuple[Tensor, Tensor, Tensor]) -> None:
    """It is of the order of the true error, and falls with it."""
    keys, values, queries = data
    queries = queries / 4
    store, last = filled(data), math.inf
    expected, _ = naive_attention(queries, keys, values, SCALE)
    for budget in (100, 400, 1600, ALL):
        store.tune(budget=budget)
        found = store.tail_estimate(queries, scale=SCALE)
        true = error(store.attend(queries, top_k=None, scale=SCALE).out, expected)
        estimated, read = float(found.error.mean()), float(found.share_read.mean()) * TOKENS
        assert abs(read - min(budget, TOKENS)) < 0.3 * budget + 512
        assert true / 6 - 1e-4 < estimated < 4 * true + 1e-4, (budget, true, estimated)
        assert estimated < last
        last = estimated


def test_values_of_zero_have_no_error(data: tuple[Tensor, Tensor, Tensor]) -> None:
    keys, values, queries = data
    store = filled((keys, torch.zeros_like(values)))
    assert not store.attend(queries, top_k=None, scale=SCALE).out.any()
    found = store.tail_estimate(queries, scale=SCALE)
    assert not found.error.any()
    assert found.share_read.isfinite().all()


def test_a_query_reads_until_its_error_is_small(data: tuple[Tensor, Tensor, Tensor]) -> None:
    keys, values, queries = data
    store, shares = filled(data), []
    expected, _ = naive_attention(queries, keys, values, SCALE)
    for target in (0.5, 0.1, 0.02, 0):
        store.tune(target_error=target)
        found = store.tail_estimate(queries, scale=SCALE)
        shares.append(float(found.share_read.mean()))
        assert error(store.attend(queries, top_k=None, scale=SCALE).out, expected) < target + 1e-4
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] == pytest.approx(1)
    store.tune(budget=64)
    assert float(store.tail_estimate(queries, scale=SCALE).share_read.mean()) < shares[0]


def test_clusters_do_not_depend_on_how_keys_arrive(data: tuple[Tensor, Tensor, Tensor]) -> None:
    """Hub keys do, as in all stores with an index."""
    whole, cut = filled(data).save_index(), filled(data, cuts=(1, 600, 4095, 4700)).save_index()
    assert whole is not None
    assert cut is not None
    names = [name for name in whole.arrays if name.startswith("index/")]
    assert len(names) == 23
    for name in names:
        assert np.array_equal(whole.arrays[name], cut.arrays[name]), name


def test_queries_do_not_depend_on_one_another(data: tuple[Tensor, Tensor, Tensor]) -> None:
    store, queries = filled(data), data[2]
    whole = store.attend(queries, top_k=None, scale=SCALE).out
    alone = [store.attend(each, top_k=None, scale=SCALE).out for each in queries.split(1, 1)]
    torch.testing.assert_close(torch.cat(alone, 1), whole, atol=1e-5, rtol=1e-5)


def test_a_key_that_no_mean_shows_is_read(data: tuple[Tensor, Tensor, Tensor]) -> None:
    """An attention sink: queries point away from all keys, one at the origin has much weight."""
    keys, values = 2 * draw(HEADS, TOKENS, DIM) + 2, data[1].clone()
    keys[:, 100], values[:, 100] = 0, 7
    queries = draw(HEADS, 9, DIM, seed=1) - 4
    store = filled((keys, values))
    expected, _ = naive_attention(queries, keys, values, SCALE)
    assert error(store.attend(queries, top_k=None, scale=SCALE).out, expected) < 0.01


@pytest.mark.parametrize("budget", [40, ALL])
def test_nothing_is_left_of_rows_that_are_not_seen(
    data: tuple[Tensor, Tensor, Tensor], budget: int
) -> None:
    """Neither a removed document nor a forgotten key moves an estimate."""
    keys, values, queries = data
    ranges = IdRanges([(500, 900), (1200, TOKENS)])
    hidden = ~ranges.contains(torch.arange(TOKENS))
    loud = keys.clone(), values.clone(), queries
    loud[1][:, hidden] = 1e6
    quiet, spoilt = filled(data, budget=budget), filled(loud, budget=budget)
    for step in range(2):
        parts = [
            store.attend(queries, top_k=None, scale=SCALE, among=ranges)
            for store in (quiet, spoilt)
        ]
        assert torch.equal(parts[0].out, parts[1].out), f"after {step} calls of forget"
        for store in (quiet, spoilt):
            store.forget(500)
    out = spoilt.attend(queries, top_k=None, scale=SCALE, among=ranges).out
    assert out.abs().max() < 1e3


def test_clusters_that_are_built_anew_leave_nothing_of_the_old_ones(
    data: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Also not of those that a call was limited to."""
    keys, values, queries = data
    ranges = IdRanges([(500, TOKENS)])
    other = keys.flip(2), values.flip(2)
    store, expected = filled(data, budget=64), filled((*other, queries), budget=64)
    store.attend(queries, top_k=None, scale=SCALE, among=ranges)
    store.undo_rows(0, 0, 0)
    store.add_rows(*other)
    both = [
        each.attend(queries, top_k=None, scale=SCALE, among=ranges).out
        for each in (store, expected)
    ]
    assert torch.equal(*both)


def test_a_decay_reaches_what_is_not_read(data: tuple[Tensor, Tensor, Tensor]) -> None:
    keys, values, queries = data
    store, exact = (
        filled(data, budget=TOKENS // 20),
        create_store("exact", num_heads=HEADS, head_dim=DIM),
    )
    exact.add(keys, values)

    def bias(ids: Tensor) -> Tensor:
        return ((TOKENS - ids).float() / 100).clamp(1).log() * -4

    part = store.attend(queries / 8, top_k=None, scale=SCALE, bias=bias)
    scores = (queries.double() / 8) @ keys.double().transpose(1, 2) + bias(torch.arange(TOKENS))
    expected = (scores * SCALE).softmax(-1) @ values.double()
    assert (part.lse - (scores * SCALE).logsumexp(-1)).abs().max() < 0.1
    best = exact.attend(queries / 8, top_k=TOKENS // 20, scale=SCALE, bias=bias)
    assert error(part.out, expected) < error(best.out, expected) / 3


def test_a_decay_is_computed_once_while_nothing_is_read(
    data: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all keys it is computed once, of those that are read each time; a function is not kept."""
    counted: list[int] = []
    call = Decay.__call__

    def counting(decay: Decay, ids: Tensor) -> Tensor:
        counted.append(ids.numel())
        return call(decay, ids)

    monkeypatch.setattr(Decay, "__call__", counting)
    store, queries = filled(data, budget=64), data[2][:, :1]

    def asked(bias: Bias) -> int:
        counted.clear()
        store.attend(queries, top_k=None, scale=SCALE, bias=bias)
        return sum(counted)

    decays = [Decay(decay=decay, step=64, end=TOKENS, counted=None) for decay in (1, 1, 2)]
    every, again, other = map(asked, decays)
    assert again < every / 5
    assert other == every
    assert asked(decays[2].__call__) == asked(decays[2].__call__) == every
    store.add(data[0][:, :512], data[1][:, :512])
    assert asked(decays[2]) > every


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_saved_clusters_are_the_same(
    data: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    keys, values, queries = data
    store, twin = filled(data, dtype=dtype), filled((keys[:, :0], values[:, :0]), dtype=dtype)
    saved = store.save_index()
    assert saved is not None
    assert twin.fill([(keys, values)], saved)
    for each in (store, twin):
        each.add(keys[:, :1024], values[:, :1024])  # they grow alike
    same = [each.attend(queries, top_k=None, scale=SCALE).out for each in (store, twin)]
    assert torch.equal(*same)


def test_what_is_kept_for_the_next_call_is_counted(data: tuple[Tensor, Tensor, Tensor]) -> None:
    store = filled(data)
    sizes = [store.index_bytes()]
    for among in (None, IdRanges([(1000, TOKENS)])):
        store.attend(data[2], top_k=None, scale=SCALE, among=among)
        sizes.append(store.index_bytes())
    seen, tree = store._shown(), store._tree.ram_bytes
    assert sizes[0] == tree
    assert tree + 3 * seen.log_sizes.nbytes < sizes[1] < 1.5 * tree
    assert sizes[2] > sizes[1] + tree / 2


DAMAGES: dict[str, Any] = {
    "clusters/members": lambda a: a.__setitem__((0, 0, 0), a[0, 1, 0]),
    "clusters/counts": lambda a: a.__setitem__(0, 10**6),
    "clusters/sizes": lambda a: a.__setitem__((0, 0), -1),
    "clusters/spreads": lambda a: a.__setitem__((0, 0), np.nan),
    "groups/members": lambda a: a.__setitem__((0, 0, 0), a.max()),
    "shapes/variances": lambda a: a.__setitem__((0, 0, 0), np.inf),
    "span": lambda a: a.__setitem__(1, TOKENS + 1),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_clusters_that_cannot_be_are_built_anew(
    data: tuple[Tensor, Tensor, Tensor], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, twin = filled(data), filled((data[0][:, :0], data[1][:, :0]))
    saved = store.save_index()
    assert saved is not None
    arrays = {key: np.array(array) for key, array in saved.arrays.items()}
    DAMAGES[name](arrays[f"index/{name}"])
    assert not twin.fill([data[:2]], SavedIndex(saved.made_by, saved.rows, arrays))
    assert "built anew" in caplog.text
    same = [each.attend(data[2], top_k=None, scale=SCALE).out for each in (store, twin)]
    assert torch.equal(*same)


@pytest.mark.parametrize("capacity", [4, 7, 64])
def test_each_point_is_in_one_node_that_is_not_too_large(capacity: int) -> None:
    vectors = torch.cat([draw(3, 900, 4, seed=1), torch.zeros(3, 300, 4)], 1)  # some are equal
    members = Members(3, capacity, torch.device("cpu"))

    def halve(heads: Tensor, held: Tensor) -> Tensor:
        return halved(vectors[heads[:, None], held.clamp(min=0)], held >= 0)

    generator = torch.Generator().manual_seed(0)
    for points in torch.randperm(1200, generator=generator).split(77):
        heads = torch.arange(3).repeat_interleave(len(points))
        every = points.repeat(3)
        nodes = (torch.rand(len(every), generator=generator) * members.counts[heads]).long()
        changes = members.insert(heads, every, nodes, halve)
        assert len(changes.new) == len(changes.origins)
    for table, sizes, count in zip(members.table, members.sizes, members.counts, strict=True):
        assert table[table >= 0].sort().values.tolist() == list(range(1200))
        assert torch.equal((table >= 0).sum(1), sizes.long())
        assert (sizes[:count] > 0).all()
        assert not sizes[count:].any()


def test_halves_are_never_empty_and_keep_near_ones_together() -> None:
    far = torch.cat([draw(1, 5, 3), draw(1, 4, 3, seed=1) + 100, torch.full((1, 3, 3), 5.0)], 1)
    there = torch.ones(1, 12, dtype=torch.bool)
    there[:, 9:] = False
    second = halved(far, there)
    assert second[0, :9].tolist() in ([False] * 5 + [True] * 4, [True] * 5 + [False] * 4)
    assert not second[0, 9:].any()
    equal = halved(torch.ones(1, 5, 3), torch.ones(1, 5, dtype=torch.bool))
    assert 0 < int(equal.sum()) < 5


def test_gain_is_that_of_normal_numbers() -> None:
    """Half the variance while it is small; for few numbers of great variance, less."""
    sizes = torch.tensor([50.0])
    generator = torch.Generator().manual_seed(0)
    for deviation, tolerance in ((0.5, 0.01), (1.0, 0.03), (2.0, 0.2), (4.0, 0.2)):
        scores = deviation * torch.randn(4000, 50, generator=generator, dtype=torch.float64)
        expected = float((scores.logsumexp(1) - math.log(50)).mean())
        found = float(gain(torch.tensor([deviation]), 0.65 * (2 * sizes.log()).sqrt()))
        assert abs(found - expected) < tolerance, (deviation, found, expected)


def test_each_pair_is_visited_once() -> None:
    chosen = torch.randint(0, 9, (40, 3), generator=torch.Generator().manual_seed(0))
    seen = []
    for visit in visits(chosen, cost=10, per_pair=3, workspace=40):
        nodes = visit.nodes[:, None].expand_as(visit.pairs)
        assert torch.equal(chosen.flatten()[visit.pairs][visit.there], nodes[visit.there])
        seen += visit.pairs[visit.there].tolist()
    assert sorted(seen) == list(range(120))


def test_groups_are_opened_as_queries_need_them() -> None:
    """Of many groups, diffuse attention looks at some and peaked attention at all."""
    keys = (3 * draw(1, 60, 1, DIM) + 2 * draw(1, 60, 200, DIM, seed=1)).flatten(1, 2)
    keys = keys[:, torch.randperm(12000, generator=torch.Generator().manual_seed(0))]
    values, queries = draw(1, 12000, DIM, seed=2) + 1, draw(1, 2, DIM, seed=3) / 50
    store = create_store("clusters", num_heads=1, head_dim=DIM, capacity=4)
    assert isinstance(store, ClustersStore)
    store.add(keys, values)
    viewer, limits = store._shown(), Limits(0.2, 100)
    some = viewer.view(queries, limits).nodes.shape[1]
    assert some < viewer.most / 2
    assert viewer.view(150 * queries, limits).nodes.shape[1] == viewer.most
    expected, _ = naive_attention(queries, keys, values, 1)
    estimated = store.attend(queries, top_k=None, scale=1).out
    assert 1e-4 < error(estimated, expected) < 0.05
    store.tune(budget=ALL)
    everything = store.attend(queries, top_k=None, scale=1).out
    assert error(everything, expected) < 1e-4
