"""The store: how keys are found."""

from typing import Any

from torch import Tensor

from fotmem.stores import Hits, RowsStore, exact_search
from fotmem_sample.options import SampleOptions


class SampleStore(RowsStore):
    """Keys and values of one memory layer; every query looks at every key.

    `RowsStore` keeps keys and values: `self.stored_keys` and `self.stored_values`. Shapes: `H`
    heads, `N` keys, `Q` queries of a head, `K` hits of a query, `D` dimensions.
    """

    def __init__(self, *, options: SampleOptions, **layer: Any) -> None:
        super().__init__(keys=options.place, values=options.place, **layer)
        self.options = options

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best keys for queries ``[H, Q, D]``: rows and inner products ``[H, Q, K]``.

        Put your search here. Scores are inner products of the queries with the keys as stored,
        best first. `self.key_rows` looks up keys by their rows.
        """
        first, keys = self.stored_keys.since(self.forgotten_rows)
        return exact_search(queries, keys, top_k, first_id=first)
