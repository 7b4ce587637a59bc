"""Tests of `tune`, with the keys of a store with an index."""

from collections.abc import Callable

import pytest
import torch

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.hits import differing, expect_same
from fotmem.testing.store.stores import Stores, declared
from fotmem.testing.store.subjects.indexed import DIM, HEADS, PIECE, TOP_K, data


class Tuning:
    """Tuning."""

    def test_tuned_equals_made_anew(
        self, stores: Stores, record_property: Callable[[str, object], None]
    ) -> None:
        """A tuned store answers as one made with these options, for the ends of its grid."""
        spec, keys, queries = declared(stores.make), data()[0], data()[2]
        grid = {} if spec is None else spec.grid
        original = stores.empty(num_heads=HEADS, head_dim=DIM, dtype=torch.bfloat16)
        names = sorted(original.search_options & grid.keys())
        if not names:
            pytest.skip("the store declares no grid of options that it can tune")
        _fill(original)
        notes = []
        for name in names:
            least, most = grid[name][0], grid[name][-1]
            one, other = (_tuned(original, name, value) for value in (least, most))
            if not differing(one, other, queries, keys).any():
                notes.append(f"tune({name}=...), {least} to {most}, changed no hit of 6,200 keys")
        print("\n".join(notes))
        record_property("notes", notes)


def _tuned(original: MemoryStore, name: str, value: object) -> Hits:
    """Tune a copy, and expect the answers of a store that is made with its options."""
    __tracebackhide__ = True
    keys, _, queries = data()
    store = original.copy()
    store.tune(**{name: value})
    anew = _fill(store.new_empty())
    hits, expected = (each.search(queries, TOP_K) for each in (store, anew))
    what = f"a copy after tune({name}={value}), and what its new_empty made, with the same keys"
    expect_same(hits, expected, queries, keys, what)
    for each in (store, anew):
        each.close()
    return hits


def _fill(store: MemoryStore) -> MemoryStore:
    keys, values, _ = data()
    for pair in zip(keys.split(PIECE, 1), values.split(PIECE, 1), strict=True):
        store.add(*pair)
    store.flush()
    return store
