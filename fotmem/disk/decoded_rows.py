"""The rows of quantized keys or values where they lie on disk: decoded when they are looked up."""

from collections.abc import Iterator

from torch import Tensor

from fotmem.disk.log import Log
from fotmem.disk.mapped_rows import MappedRows
from fotmem.disk.quantization import LayerCodec


class DecodedRows:
    """The rows ``[H, N, D]`` of keys or values that a log has as codes and bounds.

    It has the methods of `MappedRows`, and maps files as that does.

    Parameters
    ----------
    log : Log
    codec : LayerCodec
        With a quantization.
    column : str
        ``"keys"`` or ``"values"``.
    """

    def __init__(self, log: Log, codec: LayerCodec, column: str) -> None:
        self.num_heads, self.head_dim, self.dtype = codec.shape
        self._codec = codec
        self._codes = MappedRows(log, column)
        self._bounds = MappedRows(log, f"{column.removesuffix('s')}_bounds")

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._codes)

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM, as of `MappedRows`."""
        return self._codes.ram_bytes + self._bounds.ram_bytes

    def take(self, rows: Tensor, heads: Tensor) -> Tensor:
        """Look up rows as `MappedRows.take` does."""
        return self._decoded(self._codes.take(rows, heads), self._bounds.take(rows, heads))

    def blocks(self, start: int, stop: int, length: int) -> Iterator[tuple[int, Tensor]]:
        """Yield rows as `MappedRows.blocks` does."""
        codes = self._codes.blocks(start, stop, length)
        bounds = self._bounds.blocks(start, stop, length)
        for (first, some), (_, limits) in zip(codes, bounds, strict=True):
            yield first, self._decoded(some, limits)

    def _decoded(self, codes: Tensor, bounds: Tensor) -> Tensor:
        return self._codec.decode_vectors(codes, bounds.unflatten(-1, (-1, 2)))
