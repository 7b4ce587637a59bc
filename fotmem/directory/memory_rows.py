"""The rows of a memory's directory: tokens, and the keys and values of all memory layers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from fotmem.directory.manifest import TOKEN_COLUMNS, TOKENS, LogEntry, MemoryManifest, layer_folder
from fotmem.directory.row_log import RowLog
from fotmem.disk import ArrayGroup, GroupFiles, LayerCodec, SavedRows, Storage

Pair = tuple[Tensor, Tensor]
"""Keys and values ``[H, n, D]``."""


class MemoryRows:
    """Rows in the order of reading: those of the last commit, and in RAM those after them.

    Parameters
    ----------
    tokens : RowLog
        Ids, and the characters that each token covers.
    layers : mapping of int to RowLog
        What is kept of keys and values.
    codecs : mapping of int to LayerCodec
        How it is kept.
    """

    def __init__(
        self, tokens: RowLog, layers: Mapping[int, RowLog], codecs: Mapping[int, LayerCodec]
    ) -> None:
        self._tokens, self._layers, self._codecs = tokens, layers, codecs

    @classmethod
    def load(
        cls, files: GroupFiles[MemoryManifest], storage: Storage, manifest: MemoryManifest
    ) -> Self:
        """Load what a manifest names. Raises `StorageError`."""

        def loaded(folder: str, columns: Any, entry: LogEntry) -> RowLog:
            log = RowLog(files, folder, columns, manifest.block)
            log.load(storage, entry, manifest.rows)
            return log

        tokens = loaded(TOKENS, TOKEN_COLUMNS, manifest.tokens)
        codecs = {each.layer: each.codec for each in manifest.layers}
        layers = {
            each.layer: loaded(layer_folder(each.layer), codecs[each.layer].columns(), each)
            for each in manifest.layers
        }
        return cls(tokens, layers, codecs)

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self._tokens)

    def tokens(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read token ids, and the first and last characters, int64 ``[n]`` each."""
        found = [rows for _, rows in self._tokens.blocks(start, stop)]
        if not found:
            return (torch.zeros(0, dtype=torch.long),) * 3
        ids, starts, stops = (torch.cat(each, 1)[0].long() for each in zip(*found, strict=True))
        return ids, starts, stops

    def blocks(self, layer: int, start: int, stop: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield keys and values ``[H, n, D]`` of a layer, and the id of the first."""
        codec = self._codecs[layer]
        for first, rows in self._layers[layer].blocks(start, stop):
            yield first, *codec.decode(rows)

    def saved(self, layer: int) -> SavedRows:
        """Return all keys and values of a layer, for stores that look them up where they are."""
        return self._layers[layer].saved(self._codecs[layer])

    def as_kept(self, layer: int, pair: Pair) -> Pair:
        """Return keys and values as they are read back, if they are quantized."""
        codec = self._codecs[layer]
        return pair if codec.quantization is None else codec.decode(codec.encode(*pair))

    def append(self, columns: tuple[Tensor, Tensor, Tensor], layers: Mapping[int, Pair]) -> None:
        """Add the columns of tokens ``[n]``, and keys and values of each layer."""
        self._tokens.append([each[None] for each in columns])
        for layer, pair in layers.items():
            self._layers[layer].append(self._codecs[layer].encode(*pair))

    def rewritten(self, rewrite: Callable[[RowLog], RowLog]) -> Self:
        """Return rows of which each log takes the place of one here."""
        tokens = rewrite(self._tokens)
        layers = {layer: rewrite(log) for layer, log in self._layers.items()}
        return type(self)(tokens, layers, self._codecs)

    def flush(self) -> None:
        """Write what is not on disk yet; it counts when a manifest names it."""
        for log in self.logs():
            log.flush()

    def named_in(self, manifest: MemoryManifest) -> MemoryManifest:
        """Return a manifest that names these rows, all of which are on disk."""
        layers = tuple(
            each.model_copy(update=dict(self._layers[each.layer].entry()))
            for each in manifest.layers
        )
        rows = {"rows": len(self), "tokens": self._tokens.entry(), "layers": layers}
        return manifest.model_copy(update=rows)

    def logs(self) -> list[RowLog]:
        """List the logs: of tokens, and of each layer."""
        return [self._tokens, *self._layers.values()]

    def groups(self) -> list[ArrayGroup]:
        """List what a manifest must name."""
        return [group for log in self.logs() for group in log.groups()]
