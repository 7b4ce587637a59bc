"""A memory on disk: one writer, and any number of readers of its last commit."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from fotmem.directory.committed import read_manifest
from fotmem.directory.facts import DocumentEntry, ReadingFacts
from fotmem.directory.kept_indexes import KeptIndexes
from fotmem.directory.manifest import (
    FORMAT,
    TOKENS,
    LayerEntry,
    MemoryManifest,
)
from fotmem.directory.memory_rows import MemoryRows
from fotmem.directory.row_log import RowLog
from fotmem.directory.writing import storage_to_write
from fotmem.disk import (
    ROOT,
    GroupFiles,
    LayerShape,
    ManifestFile,
    SavedRows,
    Storage,
    open_storage,
)
from fotmem.disk.folder import Folder
from fotmem.disk.quantization import LayerCodec, Quantization
from fotmem.errors import StorageError

BLOCK = 1024
"""Rows of a block: one file for the keys and one for the values of each layer."""


class MemoryDirectory:
    """Tokens, documents, keys and values of all memory layers, in a directory.

    `append` collects; `commit` makes everything durable at once, or nothing. A reader sees the last
    commit as of its opening, and a later one after `refresh`. A second writer is refused.

    `create` begins a directory, `open` opens one.
    """

    def __init__(
        self, files: GroupFiles[MemoryManifest], storage: Storage, *, trusted: bool = False
    ) -> None:
        self._files = files
        self._storage = storage
        self.manifest: MemoryManifest
        self._rows: MemoryRows
        # Files of a folder are mapped: they stay readable when they are removed.
        compacted = "Memory.refresh takes over that another process has compacted it; otherwise "
        storage.cure = ("" if storage.local else compacted) + (
            f"fotmem memory verify {storage.name} lists all that is damaged, and fotmem memory "
            f"repair {storage.name} drops it"
        )
        storage.cure_of_sync = "save the memory again, or open it again"
        self.indexes = KeptIndexes(self, trusted=trusted)
        """The indexes of stores, beside what they were built from."""

    # Opening ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path | str,
        layers: Mapping[int, LayerShape],
        facts: ReadingFacts,
        quantization: Quantization | None = None,
    ) -> Self:
        """Begin a directory for writing.

        Parameters
        ----------
        path : path
            Made if it is missing; otherwise it must be empty.
        layers : mapping of int to LayerShape
            Heads, head dimension and dtype of each memory layer.
        facts : ReadingFacts
        quantization : {"int8", "int4"}, optional
            How keys and values are kept.

        Raises
        ------
        StorageError
            The directory is in use, holds something, or cannot be written to.
        """
        entries = tuple(
            _layer_entry(layer, LayerCodec(shape, quantization))
            for layer, shape in sorted(layers.items())
        )
        empty = MemoryManifest(block=BLOCK, layers=entries, facts=facts)
        storage = storage_to_write(path)
        try:
            files = GroupFiles(FORMAT)
            if FORMAT.read(storage) is not None:
                raise StorageError(
                    f"{storage.name} holds a memory already; open it, or choose another directory"
                )
            directory = cls(files, storage)
            directory._take_over(files.begin(storage, empty))
        except BaseException:
            storage.close(unused=True)
            raise
        return directory

    @classmethod
    def open(cls, path: Path | str, *, writable: bool = False, trusted: bool = False) -> Self:
        """Open a directory at its last commit.

        Parameters
        ----------
        path : path or URL
        writable : bool
            Keep other writers out until `close`.
        trusted : bool
            Load indexes of stores whoever made them.

        Raises
        ------
        StorageError
            There is no memory, it is damaged or of another version, or another process writes it.
        """
        storage = storage_to_write(path) if writable else open_storage(path, writable=False)
        try:
            files = GroupFiles(FORMAT)
            directory = cls(files, storage, trusted=trusted)
            directory._take_over(files.load(storage))
            if writable and not (storage.read_only or storage.shared):
                files.tidy(directory.manifest, directory._rows.groups())
                directory.indexes.tidy()
        except BaseException:
            storage.close(unused=True)
            raise
        return directory

    def refresh(self) -> bool:
        """Move on to the last commit of the writer; return whether there is a newer one.

        Raises
        ------
        StorageError
            The directory cannot be read, or no longer holds what it did; or this is a writer, and
            another one has committed to object storage.
        """
        if self._storage.shared and not self._storage.read_only:
            self._require_newest()
            return False
        file = FORMAT.load(self._storage)
        if file == (self.manifest, self.directory_id):
            return False
        self._require_later(file)
        manifest = self._files.take_over(self._storage, file)
        compactions = self.compactions
        self._take_over(manifest)
        if self.compactions != compactions:
            self.indexes.forget()
        return True

    def _require_newest(self) -> None:
        """Raise `StorageError` if another writer has committed: this one must not any more."""
        is_newest = False
        try:
            is_newest = FORMAT.load(self._storage) == (self.manifest, self.directory_id)
        finally:
            if not is_newest:
                self._storage.disown(ROOT)
        if not is_newest:
            raise StorageError(
                f"another writer has committed to {self.name} since it was opened here; a memory "
                "that is open for writing does not take that over: open it again"
            )

    def _require_later(self, file: ManifestFile[MemoryManifest]) -> None:
        """Raise `StorageError` if somebody has put back an older commit, or another memory."""
        if file.directory_id != self.directory_id or not file.manifest.follows(self.manifest):
            raise StorageError(
                f"{self.name} no longer holds what it did: an older copy, or another memory, was "
                "put in its place; open it again"
            )

    def _take_over(self, manifest: MemoryManifest) -> None:
        """Load what a manifest names; if its files are gone, what the next one names."""
        while True:
            try:
                self._load(manifest)
                return
            except StorageError:
                newer = self._files.load(self._storage)
                if newer == manifest:
                    raise
                manifest = newer  # its writer replaced small pieces by a larger one

    def _load(self, manifest: MemoryManifest) -> None:
        rows = MemoryRows.load(self._files, self._storage, manifest)
        self.manifest, self._rows = manifest, rows
        self._files.hold(rows.groups())

    # What it holds ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return self._files.name

    @property
    def directory_id(self) -> str:
        """Drawn at random when the directory was begun."""
        return self._files.directory_id

    @property
    def compactions(self) -> int:
        """How often ids have changed."""
        return self.manifest.compactions

    @property
    def storage(self) -> Storage:
        """Where the files are."""
        return self._storage

    @property
    def keeps_indexes(self) -> bool:
        """Whether indexes of stores can be written: in a folder, also by readers."""
        storage = self._storage
        if storage.inherited or self._files.closed:
            return False
        return isinstance(storage, Folder) or (storage.shared and not storage.read_only)

    def is_overtaken(self) -> bool:
        """Return whether ids have changed since this was opened, or another writer has committed.

        Raises
        ------
        StorageError
            The directory cannot be read.
        """
        if self._storage.shared:  # a look by itself would let it replace what the other committed
            return read_manifest(self.name) != self.manifest
        now = FORMAT.load(self._storage)
        return (now.manifest.compactions, now.directory_id) != (self.compactions, self.directory_id)

    def is_at(self, path: Path | str) -> bool:
        """Return whether a path leads to this directory."""
        return os.path.abspath(path) == os.path.abspath(self.name)

    def __len__(self) -> int:
        """Count the tokens, with those that are not committed yet."""
        return len(self._rows)

    def tokens(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read token ids, and the first and last characters, int64 ``[n]`` each."""
        return self._rows.tokens(start, stop)

    def blocks(self, layer: int, start: int, stop: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield keys and values ``[H, n, D]`` of a layer, and the id of the first."""
        return self._rows.blocks(layer, start, stop)

    def saved_rows(self, layer: int) -> SavedRows:
        """Return all keys and values of a layer, for stores that look them up where they are."""
        return self._rows.saved(layer)

    def files(self) -> set[str]:
        """Return the names of the files that it consists of."""
        groups = self._rows.groups()
        folders = [*self.manifest.folders(), *(group.path for group in groups)]
        arrays = [(path, names) for group in groups for path, names in group.files().items()]
        return {
            ROOT,
            *(f"{folder}/{ROOT}" for folder in folders),
            *(f"{path}/{name}" for path, names in arrays for name in names),
        }

    def as_kept(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values ``[H, n, D]`` as they are read back, if they are quantized."""
        return self._rows.as_kept(layer, (keys, values))

    # Writing ---------------------------------------------------------------------------------

    def require_writable(self) -> None:
        """Raise `StorageError` if nothing can be written: it was opened for reading, or closed."""
        if self._files.closed:
            raise StorageError(f"the memory in {self._files.closed} is closed; open it again")
        self._files.require_writable()

    def append(
        self,
        ids: Tensor,
        starts: Tensor,
        stops: Tensor,
        layers: Mapping[int, tuple[Tensor, Tensor]],
    ) -> None:
        """Add tokens ``[n]``, and keys and values ``[H, n, D]`` of each layer."""
        self._rows.append((ids, starts, stops), layers)

    def commit(self, documents: Sequence[DocumentEntry]) -> None:
        """Make everything durable, with the documents that the tokens belong to.

        Raises
        ------
        StorageError
            The disk is full or broken. The directory is as of its last commit; nothing in RAM is
            lost, and committing again may succeed.
        """
        self.require_writable()
        self._rows.flush()
        rest = {"next_name": self._files.next_name, "documents": tuple(documents)}
        manifest = self._rows.named_in(self.manifest).model_copy(update=rest)
        self._files.commit(manifest, self._rows.groups())
        self.manifest = manifest

    def replace_rows(
        self, rewrite: Callable[[RowLog], RowLog], documents: Sequence[DocumentEntry]
    ) -> None:
        """Commit other rows in place of all that was committed: ids no longer mean what they did.

        Parameters
        ----------
        rewrite : callable
            Returns the log that takes the place of one; it may share parts.
        documents : sequence of DocumentEntry
            Those of the new rows.
        """
        before, groups = self.manifest, self._rows.groups()
        changed = {"compactions": before.compactions + 1}
        self.manifest = before.model_copy(update=changed)
        try:
            self._rows = self._rows.rewritten(rewrite)
            self.commit(documents)
        except BaseException:
            with suppress(StorageError):  # on a full disk, what was written must not stay
                if FORMAT.load(self._storage).manifest == before:
                    self._files.tidy(before, groups)
            raise
        self.indexes.forget()
        self.indexes.tidy()

    def has_committed(self, documents: Sequence[DocumentEntry]) -> bool:
        """Return whether the last commit holds these documents, and all that was appended."""
        committed = self.manifest
        return committed.rows == len(self) and committed.documents == tuple(documents)

    def recover(self) -> None:
        """After a sync that failed, go back to the commit that is on the disk.

        What was appended since must be appended again: a system may have dropped what it could not
        write, and tells so only once. So it is written to new files.
        """
        if self._storage.sync_failed:
            self._take_over(self._files.load(self._storage))
            self._storage.forget_unsynced()
            self._files.tidy(self.manifest, self._rows.groups())

    def close(self) -> None:
        """Let another writer in; what was not committed is dropped."""
        if not self._files.closed:
            self._files.close()

    def discard(self) -> None:
        """Remove a directory that was just begun, unless others may write there, too."""
        storage = self._storage
        # Without its manifest it was hardly begun.
        for path in () if storage.shared else (ROOT, TOKENS, "layers"):
            storage.remove(path)
        self._files.closed = storage.name
        storage.close(unused=True)


def _layer_entry(layer: int, codec: LayerCodec) -> LayerEntry:
    heads, head_dim, dtype = codec.shape
    name: Any = str(dtype).removeprefix("torch.")
    sizes: Any = {"num_heads": heads, "head_dim": head_dim}
    return LayerEntry(layer=layer, **sizes, dtype=name, quantization=codec.quantization)
