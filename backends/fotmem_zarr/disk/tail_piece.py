"""Rows after the last whole block of the log, as a flush found them."""

from torch import Tensor

from fotmem_zarr.disk.array_group import ArrayGroup, LayerShape, Location
from fotmem_zarr.disk.chunked_array import ChunkedArray
from fotmem_zarr.disk.manifest import PieceEntry


class TailPiece(ArrayGroup):
    """Keys and values of `rows` rows from `first` on: a single chunk for each head."""

    def __init__(self, location: Location, *, first: int, rows: int, layer: LayerShape) -> None:
        super().__init__(location, first=first, layer=layer)
        self.rows = rows
        heads, head_dim, dtype = layer
        self.keys, self.values = (
            self._array(name, rows, (head_dim,), dtype, chunk_rows=rows, heads_per_shard=heads)
            for name in ("keys", "values")
        )

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.rows

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Write ``[H, rows, D]`` each."""
        for array, tensor in ((self.keys, keys), (self.values, values)):
            array.write_description()
            array.write(0, 0, tensor)

    def entry(self) -> PieceEntry:
        """Describe it for the manifest."""
        return PieceEntry(
            name=self.name, generation=self.generation, first=self.first, rows=self.rows
        )

    def arrays(self) -> tuple[ChunkedArray, ChunkedArray]:
        return self.keys, self.values
