"""Memory of temporaries."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.attention import WORKSPACE
from fotmem.errors import OptionError
from fotmem.stores.id_ranges import IdRanges
from fotmem.testing.store.allocations import Allocations
from fotmem.testing.store.expectations import fail
from fotmem.testing.store.footprint import peak_bytes
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import Stores

MOST = 8 * 4 * WORKSPACE
"""Bytes by which temporaries may grow: eight tensors of float32 that fill the workspace."""
MOST_OF_ONE = 6 * 4 * WORKSPACE
"""Bytes that the temporaries of one query may take."""
NEARLY_ALL = IdRanges([(0, 9_000), (10_000, 16_384)])
"""All but a document of 16,384 ids."""
WIDE = 8_192
"""Dimensions with which a few keys take much memory."""


class Workspace:
    """Memory of temporaries."""

    @pytest.mark.parametrize("among", [None, NEARLY_ALL], ids=["all", "some"])
    def test_temporaries_of_search(self, stores: Stores, among: IdRanges | None) -> None:
        """`search` allocates no matrix of all scores, nor of those among some ids."""
        keys = draw(1, 16_384, 16)
        store = stores.filled(keys, keys)
        self._expect_bounded(
            functools.partial(store.search, top_k=8, among=among),
            "search" if among is None else "search among some ids",
            per_query=4 * 16_384 if among is None else 4 * len(NEARLY_ALL),
        )

    @pytest.mark.parametrize("top_k", [None, 256])
    def test_temporaries_of_attend(self, stores: Stores, top_k: int | None) -> None:
        """`attend` allocates neither all scores nor all values of the hits at once."""
        tokens, dim = (16_384, 8) if top_k is None else (512, 64)
        keys = draw(1, tokens, dim)
        store = stores.filled(keys, keys)
        self._expect_bounded(
            functools.partial(store.attend, top_k=top_k, scale=0.1),
            f"attend with top_k={top_k}",
            per_query=4 * (tokens if top_k is None else top_k * dim),
        )

    def test_no_copy_of_all_keys(self, stores: Stores) -> None:
        """A call on a large bfloat16 store makes no float32 copy of all keys or values."""
        keys = draw(1, 50, WIDE, dtype=torch.bfloat16).repeat(1, 80, 1)
        try:
            store = stores.filled(keys, keys)
        except OptionError as error:
            pytest.skip(f"the store takes no {WIDE:,} dimensions: {error}")
        query = draw(1, 1, WIDE, seed=1)
        calls: dict[str, Callable[[], object]] = {
            "search": functools.partial(store.search, query, 4),
            "attend": functools.partial(store.attend, query, top_k=4, scale=0.01),
            "attend to all": functools.partial(store.attend, query, top_k=None, scale=0.01),
        }

        def all_of_them() -> None:
            for call in calls.values():
                call()

        all_of_them()  # what is allocated once does not count
        suspected = calls if peak_bytes(all_of_them) > MOST_OF_ONE else {}
        for name, call in suspected.items():
            peak = peak_bytes(call)
            if peak > MOST_OF_ONE:
                fail(
                    f"{name} with one query of a store of {keys.nbytes / 2**20:.0f} MiB of "
                    f"bfloat16 keys took {peak / 2**20:.0f} MiB of temporaries, expected at most "
                    f"{MOST_OF_ONE / 2**20:.0f}: it copies all of them to float; convert them in "
                    "blocks of fotmem.attention.WORKSPACE elements"
                )
        blocks = [max(map(Tensor.numel, block)) for block in store.live_blocks()]
        if max(blocks) > 2 * WORKSPACE:
            fail(
                f"live_blocks yields keys and values in {len(blocks)} piece(s) of up to "
                f"{max(blocks):,} elements, expected blocks of about fotmem.attention.WORKSPACE "
                f"({WORKSPACE:,}) elements"
            )

    @staticmethod
    def _expect_bounded(call: Callable[..., Any], what: str, per_query: int) -> None:
        """Compare few queries and many; `per_query` are the bytes that must not grow with them."""
        __tracebackhide__ = True
        few, many = 256, 3_072
        dim = call.func.__self__.head_dim  # type: ignore[attr-defined]
        call(draw(1, few, dim, seed=1))  # what is allocated once does not count
        peaks = []
        for count in (few, many):
            results: list[Any] = []
            queries = draw(1, count, dim, seed=1)
            peak = peak_bytes(functools.partial(_keep, call, queries, results))
            own = sum(each.numel() * each.element_size() for each in results.pop())
            peaks.append(peak - 4 * own)
        grown, forbidden = peaks[1] - peaks[0], per_query * (many - few)
        if grown > MOST:
            fail(
                f"temporaries of {what} grew by {grown / 2**20:.0f} MiB as queries grew from {few} "
                f"to {many:,}, expected at most {MOST / 2**20:.0f} MiB (a tensor for all of them "
                f"would take {forbidden / 2**20:.0f} MiB more): work in blocks of "
                f"fotmem.attention.WORKSPACE elements"
            )

    def test_adding_is_amortised(self, stores: Stores) -> None:
        """Adding a few keys does not copy all earlier keys."""
        few, many = draw(1, 10, 64), draw(1, 6_000, 64)
        store, made = stores.empty(num_heads=1, head_dim=64), []
        for _ in range(2):
            for piece in many.split(2_000, dim=1):
                store.add(piece, piece)
            each = [self._made_by(functools.partial(store.add, few, few)) for _ in range(31)]
            made.append(sorted(each)[15])  # the median: building an index may take more
        if made[1] - made[0] > many.numel() * many.element_size() // 2:
            fail(
                f"adding 10 keys made tensors of {made[0] / 2**20:.1f} MiB beside 6,000 keys and "
                f"of {made[1] / 2**20:.1f} MiB beside 12,000: add copies all earlier keys; grow "
                f"by doubling, or in blocks"
            )

    @staticmethod
    def _made_by(call: Callable[[], object]) -> int:
        with Allocations() as made:
            call()
        return int(made.bytes)


def _keep(call: Callable[..., Any], queries: Tensor, results: list[Any]) -> None:
    results.append(call(queries))
