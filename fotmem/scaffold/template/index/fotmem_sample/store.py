"""The store: one index for all heads."""

from typing import Self

import torch
from torch import Tensor

from fotmem.stores import Centring, GrowingRows, IndexedStore, exact_search
from fotmem_sample.options import SampleOptions


class SampleStore(IndexedStore):
    """Keys and values of one memory layer. Put your library's index here.

    This one holds the keys as bfloat16, and names the best by these as candidates. `IndexedStore`
    keeps keys and values, looks at all keys while they are few, and computes the scores of
    candidates from the keys as stored. The index sees float32 keys on the CPU. Shapes: `H` heads,
    `n` keys, `Q` queries of a head, `K` candidates of a query, `D` dimensions.
    """

    options: SampleOptions
    search_options = frozenset({"rerank"})

    def build_index(self) -> None:
        """Start the index anew with all keys. Seed what is random with ``self.options.seed``."""
        blocks = self.key_blocks(self.first_row, len(self.stored_keys))
        first, keys = next(blocks)
        self._centring = Centring.of(keys)  # centred keys lose less by rounding
        self._codes = GrowingRows(
            self.num_heads,
            self.head_dim,
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
            place="ram",
        )
        self.extend_index(first, keys)
        for first, keys in blocks:
            self.extend_index(first, keys)

    def extend_index(self, first: int, keys: Tensor) -> None:
        """Append keys ``[H, n, D]``, whose rows are counted from `first`."""
        self._codes.add(self._centring.vectors(keys))

    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        """Name candidates for queries ``[H, Q, D]``: rows ``[H, Q, K]``, -1 where there is none."""
        _, codes = self._codes.since(0)
        count = self.options.rerank * top_k
        return exact_search(queries, codes, count, first_id=self.first_row).ids

    def copy_index(self, twin: Self) -> None:
        """Give `twin`, a shallow copy of this store, an index of its own."""
        twin._codes = self._codes.copy()

    def tune_index(self) -> None:
        """Pass changed `self.options` on to the index. This one reads them in each search."""
