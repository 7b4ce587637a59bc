"""Divides a RAM budget."""

from dataclasses import dataclass

import torch

from fotmem.disk import BLOCK_ROWS
from fotmem.errors import OptionError
from fotmem_zarr.index.limits import CLUSTER, MAX_SHARD


def _power_of_two(number: int, low: int, high: int) -> int:
    """Round down, within bounds."""
    return max(low, min(high, 1 << max(0, number.bit_length() - 1)))


@dataclass(frozen=True)
class Budget:
    """Sizes that keep a store of ``[H, N, D]`` within `ram` bytes.

    Recent rows get a third, and building and searching a quarter. The index takes what it needs,
    and the cache of chunks the rest.
    """

    ram: int
    num_heads: int
    head_dim: int
    itemsize: int

    @classmethod
    def of(cls, ram: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> "Budget":
        """Check that `ram` is enough to work with, or raise `OptionError`."""
        least = 1024 * num_heads * head_dim * dtype.itemsize
        if ram < least:
            raise OptionError(
                f"ram must be at least {least} bytes for H={num_heads} heads of D={head_dim} in "
                f"{str(dtype).removeprefix('torch.')}, got {ram}"
            )
        # A quarter is left for Python and the allocator.
        return cls(ram * 3 // 4, num_heads, head_dim, dtype.itemsize)

    @property
    def row(self) -> int:
        """Bytes of the keys of one token."""
        return self.num_heads * self.head_dim * self.itemsize

    @property
    def block(self) -> int:
        """Rows of a block of the log."""
        return _power_of_two(self.ram // (128 * self.row), *BLOCK_ROWS)

    @property
    def segment(self) -> int:
        """Rows of a new segment. Memory holds at most 1.6 times this number, keys and values."""
        rows = max(64, min(2**15, self.ram // (12 * self.row)))
        return max(1, rows // self.block) * self.block

    @property
    def shard(self) -> int:
        """Clusters of a shard, which are written at a time."""
        cluster = CLUSTER * self.head_dim * self.itemsize
        return _power_of_two(min(self.ram // 64, 2**22) // cluster, 1, MAX_SHARD)

    @property
    def clustering(self) -> int:
        """Rows of one head that are clustered at a time."""
        return max(4 * CLUSTER, self.ram // (128 * self.head_dim))

    @property
    def workspace(self) -> int:
        """Elements of a temporary of a search.

        With twice as many, glibc serves even tensors larger than rows and shards from its heap, and
        a store takes half as much memory again.
        """
        return max(2**16, min(2**22, self.ram // 128))

    @property
    def candidates(self) -> int:
        """Scores that a search holds. With more, more queries share what is read."""
        return max(2**18, min(2**22, self.ram // 16))

    def cache(self, index: int) -> int:
        """Bytes of the cache when the index takes `index` bytes."""
        return max(self.ram // 32, self.ram // 4 - index)
