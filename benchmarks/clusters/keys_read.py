"""How many keys a query of `clusters` reads, and budgets that read a share of them."""

import math

from torch import Tensor

from fotmem.stores import MemoryStore

TRIES = 8


def keys_read(store: MemoryStore, queries: Tensor) -> float:
    """Count the keys that a query reads, in the mean: of clusters, hub keys and waiting ones.

    Where the store does not count them, these are the keys of its budget and all hub keys.
    """
    share = store.share_read(queries, 1)
    if share is not None:
        return share * len(store)
    index = store.save_index()
    assert index is not None
    hubs = float((index.arrays["hubs/ids"] >= 0).sum()) / store.num_heads
    budget: int = store.options.budget  # type: ignore[attr-defined]
    return min(len(store), budget + hubs)


def tune_to_share(store: MemoryStore, queries: Tensor, share: float) -> None:
    """Give `clusters` the largest budget, about, with which a query reads at most this share."""
    most = share * len(store)
    budget = math.floor(most)
    for _ in range(TRIES):
        store.tune(budget=max(1, budget))
        over = keys_read(store, queries) - most
        if over <= 0 or budget <= 1:
            return
        budget -= math.ceil(over)
