"""The store: how keys are found."""

from typing import Any

from torch import Tensor

from fotmem.stores import Hits, RowsStore, exact_search
from fotmem_sample.plugin import SampleOptions


class SampleStore(RowsStore):
    """Keys and values of one memory layer; every query looks at every key.

    `RowsStore` keeps them: `self.stored_keys` and `self.stored_values`. Shapes: `H` heads, `N`
    keys, `Q` queries of a head, `K` hits of a query, `D` dimensions.
    """

    def __init__(self, *, options: SampleOptions, **layer: Any) -> None:
        super().__init__(keys=options.place, values=options.place, **layer)
        self.options = options

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values ``[H, N, D]``. Your index learns of the keys here."""
        super().add_rows(keys, values)

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best keys for ``[H, Q, D]``: ids and inner products ``[H, Q, K]``.

        This is what your index does better: let it name candidates, look these up with
        `self.key_rows`, and return the best of them by `queries @ keys`, best first.
        """
        first, keys = self.stored_keys.since(self.forgotten_rows)
        return exact_search(queries, keys, top_k, first_id=first)
