"""The store: how keys are kept and found."""

from typing import Any, Self

from torch import Tensor

from fotmem import Hits, MemoryStore, Rows, best_hits, exact_search
from fotmem_sample.plugin import SampleOptions


class SampleStore(MemoryStore):
    """Keys and values of one memory layer; every query looks at every key.

    Shapes: `H` heads, `N` keys, `Q` queries of a head, `K` hits of a query, `D` dimensions.
    """

    def __init__(self, *, options: SampleOptions, **layer: Any) -> None:
        super().__init__(**layer)
        self.options = options
        self._key_rows = self._new_rows()
        self._value_rows = self._new_rows()

    def _new_rows(self) -> Rows:
        return Rows(
            self.num_heads,
            self.head_dim,
            dtype=self.dtype,
            device=self.device,
            place=self.options.place,
        )

    def _add(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values ``[H, N, D]``. Your index learns of the keys here."""
        for rows in (self._key_rows, self._value_rows):
            rows.reserve(keys.shape[1])  # what can fail comes first: then nothing was added
        self._value_rows.add(values)
        self._key_rows.add(keys)  # last: a search in another thread sees whole rows only

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best keys for ``[H, Q, D]``: ids and inner products ``[H, Q, K]``.

        This is what your index does better: let it name candidates, look these up with
        `self._keys`, and return the best of them by `queries @ keys`, best first.
        """
        end = len(self._key_rows)
        parts = [
            exact_search(queries, keys, top_k, first_id=first)
            for first, keys in self._key_rows.blocks(0, end, end)
        ]
        return best_hits(parts, top_k)

    def _keys(self, ids: Tensor) -> Tensor:
        """Look up keys by id: ``[H, Q, K]`` -> ``[H, Q, K, D]``."""
        return self._key_rows.take(ids)

    def _values(self, ids: Tensor) -> Tensor:
        """Look up values by id: ``[H, Q, K]`` -> ``[H, Q, K, D]``."""
        return self._value_rows.take(ids)

    def _empty_twin(self) -> Self:
        """Build an empty store like this one, for copies."""
        return type(self)(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            device=self.device,
            options=self.options,
        )
