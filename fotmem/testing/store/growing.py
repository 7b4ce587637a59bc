"""Builds a store that is large enough for an index, and records its answers while it grows."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import Stores

HEADS, TOKENS, QUERIES, DIM, TOP_K = 2, 20_011, 200, 32, 32
PIECE = 2_048
NEWEST = (1, 4, 20, 64)
"""Numbers of keys that are added last, piece by piece."""
DROPPED = 9_000
"""Number of keys that are forgotten then."""
GIANTS = 3
"""Number of keys of very large norm that are added after that, one by one."""


class Data(NamedTuple):
    """Keys and values ``[H, N, D]``, and queries ``[H, Q, D]``."""

    keys: Tensor
    values: Tensor
    queries: Tensor
    newest: Tensor
    """Some of the queries, for each of which one of the newest keys is the best."""
    giants: Tensor
    """Queries in the directions of the giants."""


class Growth(NamedTuple):
    """A store of 20,103 keys of which 9,000 are forgotten, and its answers while it grew."""

    store: MemoryStore
    growth: list[tuple[int, Hits]]
    """The number of keys, and the top 32 of the queries."""
    newest: Hits
    """The best keys, after the newest were added."""
    forgotten: Hits
    """The top 32 of the queries, after 9,000 keys were forgotten."""
    giants: Hits
    """The best keys, after the giants were added."""


@functools.cache
def data() -> Data:
    """Draw the same data in every process."""
    keys, values, queries = attention_data(HEADS, TOKENS, QUERIES, DIM)
    asked = queries[:, : sum(NEWEST) + GIANTS]
    best = (asked @ keys.transpose(1, 2)).argmax(-1, keepdim=True).expand(-1, -1, DIM)
    last = keys.gather(1, best) * 1.1
    scores = (asked * last).sum(-1, keepdim=True)
    last = last.where(scores > 0, last / 1.21)  # 10% better, also where scores are negative
    last[:, -GIANTS:] = 2 * keys.norm(dim=-1).max() * normalize(asked[:, -GIANTS:], dim=-1)
    return Data(
        torch.cat([keys, last], 1),
        torch.cat([values, draw(*last.shape, seed=8)], 1),
        queries,
        asked[:, :-GIANTS],
        asked[:, -GIANTS:],
    )


def grow(stores: Stores) -> Growth:
    """Add 2,048 keys at a time, as reading does, and search whenever the store has doubled."""
    keys, values, queries, newest, giants = data()
    store = stores.empty(num_heads=HEADS, head_dim=DIM)

    def add(count: int) -> None:
        piece = slice(store.next_id, store.next_id + count)
        store.add(keys[:, piece], values[:, piece])

    growth: list[tuple[int, Hits]] = []
    while store.next_id < TOKENS:
        add(min(PIECE, TOKENS - store.next_id))
        if not growth or store.next_id >= 2 * growth[-1][0] or store.next_id == TOKENS:
            store.flush()  # waits for an index that is built in the background
            growth.append((store.next_id, store.search(queries, TOP_K)))
    for count in NEWEST:
        add(count)
    found = store.search(newest, 1)
    store.forget(DROPPED)
    left = store.search(queries, TOP_K)
    for _ in range(GIANTS):
        add(1)
    return Growth(store, growth, found, left, store.search(giants, 1))


def recall(hits: Hits, queries: Tensor, keys: Tensor, *, first_id: int = 0) -> float:
    """Share of the hits that are among the true top k; keys of equal score count as equal."""
    found, best = _found_and_best(hits, queries, keys, first_id)
    rounding = 1e-5 * (queries.double().abs() @ keys.double().abs().transpose(1, 2)).amax(-1)
    return float((found >= best[..., -1:] - rounding[..., None]).double().mean())


def softmax_mass(hits: Hits, queries: Tensor, keys: Tensor, *, first_id: int = 0) -> float:
    """Softmax mass of the hits as a share of that of the true top k; the mean over queries."""
    found, best = _found_and_best(hits, queries, keys, first_id)
    scale = keys.shape[2] ** -0.5
    shares = ((found * scale).logsumexp(-1) - (best * scale).logsumexp(-1)).exp()
    return float(shares.mean())


def _found_and_best(
    hits: Hits, queries: Tensor, keys: Tensor, first_id: int
) -> tuple[Tensor, Tensor]:
    """Return true scores ``[H, Q, K]`` of the hits (-inf where there is none) and of the best."""
    products = queries.double() @ keys.double().transpose(1, 2)
    ids = hits.ids.cpu()
    found = products.gather(-1, (ids - first_id).clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    return found, products.topk(ids.shape[-1], dim=-1).values
