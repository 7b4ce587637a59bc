"""The rows of a column where they lie on disk: mapped, and verified when they are first used."""

import math
import os
from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from fotmem.disk.chunk_reader import Chunk, read_chunks
from fotmem.disk.file_slots import FileSlots
from fotmem.disk.log import Log
from fotmem.errors import StorageError

AT_ONCE = 2**12
"""Chunks that are verified, or read where files cannot be mapped, at once."""


class MappedRows:
    """The rows ``[H, N, D]`` of a column of a log, all whole blocks, without a copy of them.

    Files of a local folder are mapped into memory side by side, so that one call looks up rows of
    all of them. Where they cannot be mapped, such as in a zip file or behind a URL, the chunks that
    are asked for are read, and kept. Either way a chunk is verified when it is first used.

    On POSIX, a file that is removed meanwhile stays readable. One that another program cuts short
    ends this process (SIGBUS) when it is looked at: fotmem itself never changes a file.

    Parameters
    ----------
    log : Log
        Has at least one block. What is added to it later is not seen.
    column : str

    Attributes
    ----------
    num_heads, head_dim : int
    dtype : torch.dtype

    Raises
    ------
    StorageError
        A local file is missing or truncated. From methods: a chunk is damaged.
    """

    def __init__(self, log: Log, column: str) -> None:
        blocks = [(part.columns[column], row - part.first) for row, part in log.blocks(0, log.end)]
        self._files = [(array, row // log.block) for array, row in blocks]  # array and shard
        like, _ = self._files[0]
        self.num_heads, self.head_dim, self.dtype = like.heads, math.prod(like.rest), like.dtype
        self._end, self._block, self._stride = log.end, log.block, like.stride
        self._chunk, self._per_head = like.chunk_rows, like.chunks_per_shard
        self._per_file = self._per_head * like.heads
        self._slots = self._new_slots(self._per_file * like.stride)
        self._mapped = [self._map(slot) for slot in range(len(self._files))]
        with torch.inference_mode(False):  # or chunks could not be marked later
            self._verified = torch.zeros(len(self._files) * self._per_file, dtype=torch.bool)
            self._view()

    def __len__(self) -> int:
        """Count the rows."""
        return self._end

    @property
    def ram_bytes(self) -> int:
        """Bytes of the chunks in RAM: those that were read, of files that are not mapped."""
        absent = ~torch.tensor(self._mapped)
        chunks = self._verified.view(len(self._files), self._per_file)[absent]
        return int(chunks.sum()) * self._stride

    @property
    def is_mapped(self) -> bool:
        """Whether all files are mapped: they stay readable, and take no memory of their own."""
        return all(self._mapped)

    def take(self, rows: Tensor, heads: Tensor) -> Tensor:
        """Look up rows, int64 of any shape, of heads that broadcast to it: ``[*shape, D]``.

        A negative number gives row 0.
        """
        rows = rows.clamp(min=0)
        file, row = rows // self._block, rows % self._block
        chunk = heads * self._per_head + row // self._chunk  # of the file
        self._verify(file * self._per_file + chunk)
        row = row % self._chunk * (self.head_dim * self.dtype.itemsize)
        places = (file * self._slots.size + chunk * self._stride + row) // self._unit
        found: Tensor = self._rows.index_select(0, places.flatten())
        return found.view(*rows.shape, self.head_dim)

    def blocks(self, start: int, stop: int, length: int) -> Iterator[tuple[int, Tensor]]:
        """Yield rows from `start` to before `stop`: the first, and ``[H, n, D]``.

        At most `length` at a time, or a block of the log.
        """
        end, step = -(-stop // self._block), max(1, length // self._block)
        for file in range(start // self._block, end, step):
            rows, first = self._read(file, min(file + step, end)), file * self._block
            low = max(start - first, 0)
            yield first + low, rows[:, low : stop - first]

    def _read(self, first: int, end: int) -> Tensor:
        """Copy the blocks of some files: ``[H, n, D]``."""
        self._slots.read_ahead(first, end)
        self._verify(torch.arange(first * self._per_file, end * self._per_file))
        heads = (self.num_heads, self._per_head)
        chunks: Tensor = self._chunks[first:end].unflatten(1, heads).transpose(0, 1)
        return chunks.reshape(self.num_heads, -1, self.head_dim)

    # Where rows lie --------------------------------------------------------------------------

    def _new_slots(self, size: int) -> FileSlots:
        try:
            return FileSlots(len(self._files), size)
        except (OSError, OverflowError, ValueError) as error:
            array, _ = self._files[0]
            raise StorageError(
                f"{array.storage.name} has {len(self._files)} files of {size:,} bytes, such as "
                f"those in {array.path}, and this process cannot address so much ({error}); let it "
                "have more address space (ulimit -v), or read less text into one memory"
            ) from error

    def _map(self, slot: int) -> bool:
        """Map a file, if that is possible."""
        (array, shard), last = self._files[slot], self._per_file - 1
        if not array.storage.local:
            return False
        last = array.number_of(shard, last)
        file = array.storage.open(array.locate(last)[0])
        if file is not None:
            with file:
                if os.fstat(file.fileno()).st_size >= self._per_file * self._stride:
                    return self._slots.map(slot, file)
        read_chunks([(array, last)])  # raises: the file is missing, or too short
        return False

    def _view(self) -> None:
        """View the memory as chunks ``[B, H * chunks, rows, D]``, and as a row at every place."""
        item = self.dtype.itemsize
        row = self.head_dim * item
        flat = torch.frombuffer(self._slots.memory, dtype=self.dtype)
        shape = (len(self._files), self._per_file, self._chunk, self.head_dim)
        strides = (self._slots.size, self._stride, row, item)
        self._chunks = flat.as_strided(shape, [stride // item for stride in strides])
        # Rows at all places overlap, so that a single number says which one to take.
        self._unit = math.gcd(self._slots.size, self._stride, row)
        places = (len(self._slots.memory) - row) // self._unit + 1
        self._rows = flat.as_strided((places, self.head_dim), (self._unit // item, 1))

    # Verified at first use -------------------------------------------------------------------

    def _verify(self, wanted: Tensor) -> None:
        """Verify chunks, counted over all files; those that are not mapped are read."""
        wanted = wanted[~self._verified[wanted]]
        if not wanted.numel():
            return
        for some in wanted.unique().split(AT_ONCE):
            absent = list[int]()
            for file, numbers in groupby(some.tolist(), lambda number: number // self._per_file):
                if self._mapped[file]:
                    self._verify_in(file, [number % self._per_file for number in numbers])
                else:
                    absent += numbers
            self._fetch(absent)
            self._require_finite(some)
            self._verified[some] = True

    def _verify_in(self, file: int, places: list[int]) -> None:
        """Verify chunks of a file that is mapped."""
        array, shard = self._files[file]
        name, begin = array.locate(array.number_of(shard, 0))[0], file * self._slots.size
        for place in places:
            start = begin + place * self._stride
            data = self._slots.memory[start : start + self._stride]
            array.verify(array.number_of(shard, place), data, name, missing=False)
        array.storage.traffic.add(1, len(places) * self._stride)

    def _fetch(self, numbers: list[int]) -> None:
        """Read chunks of files that are not mapped."""
        read = read_chunks(map(self._chunk_at, numbers))
        for number in numbers:
            file, place = divmod(number, self._per_file)
            start = file * self._slots.size + place * self._stride
            self._slots.memory[start : start + self._stride] = read[self._chunk_at(number)]

    def _chunk_at(self, number: int) -> Chunk:
        """Return the array of a chunk, and its number there."""
        array, shard = self._files[number // self._per_file]
        return array, array.number_of(shard, number % self._per_file)

    def _require_finite(self, numbers: Tensor) -> None:
        """Raise `StorageError` if a chunk holds NaN or infinity, which no store is given."""
        chunks = self._chunks[numbers // self._per_file, numbers % self._per_file]
        if all(map(math.isfinite, chunks.aminmax())):  # NaN is both
            return
        bad = numbers[~chunks.isfinite().flatten(1).all(1)][0]
        array, chunk = self._chunk_at(int(bad))
        raise StorageError(
            f"chunk {chunk % array.chunks_per_head} of head {chunk // array.chunks_per_head} of "
            f"{array.path} holds NaN or infinity, in file {array.locate(chunk)[0]} of "
            f"{array.storage.name}; {array.cure}"
        )
