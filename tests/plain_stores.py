"""Stores as another package might write them: short, and trusting the base class."""

import zlib
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save
from torch import Tensor

from fotmem.errors import OptionError, StorageError
from fotmem.stores import Hits, MemoryStore

QUERIES, KEYS = 256, 512


class PlainStore(MemoryStore):
    """The four inner methods and nothing else; counts how it is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rows = self.room(0)
        self.size = 0
        self.calls: list[str] = []
        self.found: list[int] = []  # elements of each search's result
        self.full = False

    def room(self, tokens: int) -> Tensor:
        return torch.zeros(2, self.num_heads, tokens, self.head_dim, dtype=self.dtype)

    @property
    def all_keys(self) -> Tensor:
        return self.rows[0, :, : self.size]

    @property
    def all_values(self) -> Tensor:
        return self.rows[1, :, : self.size]

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        assert keys.shape[1] > 0
        if self.full:
            raise OSError("no space left")
        self.calls.append("add_rows")
        size = self.size + keys.shape[1]
        if size > self.rows.shape[2]:
            rows = self.room(2 * size)
            rows[:, :, : self.size] = self.rows[:, :, : self.size]
            self.rows = rows
        self.rows[:, :, self.size : size] = torch.stack([keys, values])
        self.size = size

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        assert queries.shape[1] > 0
        keys = self.all_keys
        assert 1 <= top_k <= keys.shape[1]
        self.calls.append("search_rows")
        parts = [self._best(part.float(), keys, top_k) for part in queries.split(QUERIES, dim=1)]
        ids, scores = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        self.found.append(ids.numel())
        return Hits(ids, scores)

    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        blocks = keys.split(KEYS, dim=1)
        scores = torch.cat([queries @ block.float().transpose(1, 2) for block in blocks], -1)
        scores, ids = self._hide(scores).topk(top_k, dim=-1)
        return Hits(ids.where(scores > -torch.inf, -1), scores)

    def _hide(self, scores: Tensor) -> Tensor:
        return scores

    def key_rows(self, ids: Tensor) -> Tensor:
        return self._take(self.all_keys, ids)

    def value_rows(self, ids: Tensor) -> Tensor:
        return self._take(self.all_values, ids)

    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        assert ids.numel()
        assert 0 <= int(ids.min()) <= int(ids.max()) < rows.shape[1]
        return rows[torch.arange(self.num_heads)[:, None, None], ids]

    def flush(self) -> None:
        self.calls.append("flush")
        super().flush()

    def close(self) -> None:
        self.calls.append("close")
        super().close()


class DiskStore(PlainStore):
    """Approximate once it is large, and overwrites what it forgets.

    At each flush it writes all that it has to one file, with a checksum; one store has that open.
    """

    exact_until = 512
    """Number of keys up to which it looks at all of them, and beyond which at every third."""
    gone = 0
    """Number of rows that are overwritten."""
    file: Path | None = None
    lock: FileLock | None = None

    def __init__(self, *, directory: Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        if directory is not None:
            self.open(directory)

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        used = any(directory.iterdir())
        self.file, self.lock = directory / "store.bin", FileLock(directory / ".lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout as error:
            raise StorageError(f"{directory} is in use") from error
        try:
            if used:
                self.read(self.file)
            else:
                self.write(self.file)
        except BaseException:
            self.lock.release()
            raise

    def read(self, file: Path) -> None:
        rows = load(self.checked(file))
        shape = (2, self.num_heads, int(rows["ids"][1]), self.head_dim)
        if rows["rows"].shape != shape or rows["rows"].dtype != self.dtype:
            raise OptionError(f"{file} holds {rows['rows'].shape}, expected {shape}")
        self.rows, self.size, self.gone = rows["rows"], shape[2], int(rows["ids"][2])
        self.resume_at(*map(int, rows["ids"]))

    def checked(self, file: Path) -> bytes:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise StorageError(f"{file} cannot be read: {error}") from error
        if content[:4] != zlib.crc32(content[4:]).to_bytes(4):
            raise StorageError(f"{file} is damaged")
        return content[4:]

    def write(self, file: Path) -> None:
        ids = torch.tensor(
            [self.first_id - self.forgotten_rows, self.added_rows, self.forgotten_rows]
        )
        content = save({"rows": self.rows[:, :, : self.size].clone(), "ids": ids})
        new = file.with_suffix(".new")
        new.write_bytes(zlib.crc32(content).to_bytes(4) + content)
        new.replace(file)

    def forget_rows(self, count: int) -> None:
        self.gone += count
        self.all_keys[:, : self.gone] = torch.nan
        self.all_values[:, : self.gone] = torch.nan

    def _hide(self, scores: Tensor) -> Tensor:
        scores = scores.nan_to_num(-torch.inf)
        if scores.shape[-1] <= self.exact_until:
            return scores
        return scores.masked_fill(torch.arange(scores.shape[-1]) % 3 > 0, -torch.inf)

    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        assert int(ids.min()) >= self.gone
        return super()._take(rows, ids)

    def flush(self) -> None:
        super().flush()
        if self.file is not None:
            self.write(self.file)

    def close(self) -> None:
        super().close()
        if self.lock is not None:
            self.lock.release()
