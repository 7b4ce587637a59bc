"""The store: how keys are found."""

from typing import Any

from torch import Tensor

from fotmem import Hits, RowsStore, exact_search
from fotmem_sample.plugin import SampleOptions


class SampleStore(RowsStore):
    """Keys and values of one memory layer; every query looks at every key.

    `RowsStore` keeps them: `self._key_rows` and `self._value_rows`. Shapes: `H` heads, `N` keys,
    `Q` queries of a head, `K` hits of a query, `D` dimensions.
    """

    def __init__(self, *, options: SampleOptions, **layer: Any) -> None:
        super().__init__(keys=options.place, values=options.place, **layer)
        self.options = options

    def _add(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values ``[H, N, D]``. Your index learns of the keys here."""
        super()._add(keys, values)

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best keys for ``[H, Q, D]``: ids and inner products ``[H, Q, K]``.

        This is what your index does better: let it name candidates, look these up with
        `self._keys`, and return the best of them by `queries @ keys`, best first.
        """
        first, keys = self._key_rows.since(self._forgotten)
        return exact_search(queries, keys, top_k, first_id=first)
