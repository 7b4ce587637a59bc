"""Rows that fill no block of the log yet, as flushes find them."""

import torch
from torch import Tensor

from fotmem_zarr.disk.chunked_array import Rows
from fotmem_zarr.disk.manifest import PieceEntry
from fotmem_zarr.disk.owned import Owned, Spot

Like = tuple[int, int, torch.dtype]
"""``H``, ``D`` and dtype of a layer."""


class Piece(Owned):
    """Rows behind the last whole block, as one flush found them."""

    def __init__(self, spot: Spot, *, first: int, rows: int, like: Like) -> None:
        super().__init__(spot)
        self.first = first
        self.rows = rows
        heads, head_dim, dtype = like
        self.keys, self.values = (
            Rows(
                place=self.place,
                path=f"{self.path}/{name}",
                generation=self.generation,
                first=first,
                heads=heads,
                rows=rows,
                rest=(head_dim,),
                dtype=dtype,
                chunk_rows=rows,
                heads_per_shard=heads,
            )
            for name in ("keys", "values")
        )

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Write ``[H, rows, D]`` each."""
        for rows, tensor in ((self.keys, keys), (self.values, values)):
            rows.describe()
            rows.write(0, 0, tensor)

    def entry(self) -> PieceEntry:
        """Describe it for the manifest."""
        return PieceEntry(
            name=self.name, generation=self.generation, first=self.first, rows=self.rows
        )

    def arrays(self) -> tuple[Rows, Rows]:
        return self.keys, self.values
