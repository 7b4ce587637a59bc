"""Tests that take minutes or gigabytes: run only if `large` is set (``plugin check --large``)."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch

from fotmem.errors import OptionError
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.expectations import expect, expect_rows, expect_state, fail, fault
from fotmem.testing.store.growing import recall
from fotmem.testing.store.hits import expect_sound
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import Stores
from fotmem.testing.store.subjects.limits import expect_many_answered

QUERIES = 2**17 + 1_000
FEW, MANY = 3_900, 100_000
"""Keys that are added at a time, to stores that may have an index and to others."""
WIDE_HEADS, WIDE_DIM, WIDE_TOKENS = 66, 8_192, 4_000
"""More than 2**31 numbers, but fewer keys than an index needs."""
WIDE_MEMORY = 14 * 2**30
"""Bytes that must be free: for keys, for values and for adding them."""
ENDS = 8
"""Keys at each end that differ from all others."""


class Larger:
    """Sizes that take minutes."""

    large: ClassVar[bool]
    min_recall: ClassVar[float]

    @pytest.fixture
    def larger(self, stores: Stores) -> Stores:
        """Skip unless `large` is set."""
        if not self.large:
            pytest.skip("takes minutes: run it with --large, or large = True")
        return stores

    def test_many_queries_of_an_index(self, larger: Stores) -> None:
        """With an index: one call answers all of 132,072 queries."""
        keys, values = draw(1, 5_000, 8), draw(1, 5_000, 8, seed=1)
        most = 0.0 if larger.capabilities.exact else 0.01
        expect_many_answered(larger.filled(keys, values), keys, QUERIES, most=most)

    def test_many_heads_with_an_index(self, larger: Stores) -> None:
        """With an index: 40 heads are stored and searched correctly."""
        keys, values, queries = attention_data(40, 4_300, 10, 8)
        store = larger.filled(keys, values, cuts=(2_000,))
        with fault("a store of 40 heads with an index gives wrong answers"):
            hits = store.search(queries, 16)
            expect_sound(hits, queries, keys, 16)
            expect_rows(store.values(hits.ids), hits.ids, values, "values")
            bound = 1.0 if larger.capabilities.exact else self.min_recall
            for head in range(40):
                own = slice(head, head + 1)
                part = type(hits)(hits.ids[own], hits.scores[own])
                found = recall(part, queries[own], keys[own])
                if found < bound - 1e-6:
                    fail(f"head {head} finds {found:.3f} of the best, expected {bound:.4g}")

    def test_keys_beyond_24_bits(self, larger: Stores) -> None:
        """A sliding window works for more than 2**24 keys: more than float32 can count."""
        piece = MANY if larger.capabilities.exact else FEW
        keys, values = draw(1, piece, 2), draw(1, piece, 2, seed=1)
        store = larger.empty(num_heads=1, head_dim=2)
        while store.next_id < 2**24:
            store.add(keys, values)
            store.forget(len(store) - 100)
        store.add(1e3 * keys, values)
        store.forget(len(store) - 100)
        first_id = store.next_id - 100
        live, queries = 1e3 * keys[:, -100:], draw(1, 5, 2, seed=2)
        with fault("keys beyond the 2**24-th are wrong, as if they were counted in float32"):
            expect_state(store, first_id=first_id, next_id=first_id + 100)
            hits = store.search(queries, 5)
            expect_sound(hits, queries, live, 5, first_id=first_id)
            for name, rows, found in (
                ("keys", live, store.keys(hits.ids)),
                ("values", values[:, -100:], store.values(hits.ids)),
            ):
                expect_rows(found, hits.ids, rows, name, first_id=first_id)

    def test_numbers_beyond_31_bits(self, larger: Stores) -> None:
        """Keys of more than 2**31 numbers are stored and found: more than int32 can count."""
        free = _free_memory()
        if free < WIDE_MEMORY:
            pytest.skip(f"needs {WIDE_MEMORY >> 30} GiB of free memory, here are {free >> 30}")
        half = WIDE_TOKENS // 2 - ENDS
        ends = draw(WIDE_HEADS, 2 * ENDS, WIDE_DIM, dtype=torch.bfloat16)
        usual = draw(WIDE_HEADS, 1, WIDE_DIM, seed=1, dtype=torch.bfloat16) / 8
        try:
            store = larger.empty(num_heads=WIDE_HEADS, head_dim=WIDE_DIM, dtype=torch.bfloat16)
            for rows in (ends[:, :ENDS], *[usual.expand(-1, half, -1)] * 2, ends[:, ENDS:]):
                store.add(rows, rows.flip(2) if rows.shape[1] == ENDS else rows)
        except OptionError as error:
            pytest.skip(f"the store takes no such layer: {error}")
        ids = torch.tensor([*range(ENDS), *range(WIDE_TOKENS - ENDS, WIDE_TOKENS)])
        with fault("keys beyond 2**31 numbers are wrong, as if their offsets were kept in int32"):
            expect_state(store, first_id=0, next_id=WIDE_TOKENS)
            for begin in range(0, 2 * ENDS, 4):
                some = slice(begin, begin + 4)
                asked = ids[some].expand(WIDE_HEADS, 1, -1)
                for name, found, expected in (
                    ("keys", store.keys(asked), ends[:, None, some]),
                    ("values", store.values(asked), ends[:, None, some].flip(3)),
                ):
                    expect(torch.equal(found, expected), True, f"whether {name} are those added")
            found_ids = store.search(ends[:, [0, -1]].float(), 1).ids[..., 0]
            expected_ids = torch.tensor([0, WIDE_TOKENS - 1]).expand(WIDE_HEADS, -1)
            expect(torch.equal(found_ids.cpu(), expected_ids), True, "whether the best are found")


def _free_memory() -> int:
    """Available memory in bytes; 0 if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line), 0)
