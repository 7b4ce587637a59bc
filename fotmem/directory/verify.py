"""Reads every byte of a memory's directory that is under a checksum, and lists what is damaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fotmem.directory.facts import DocumentEntry
from fotmem.directory.manifest import (
    FORMAT,
    TOKEN_COLUMNS,
    TOKENS,
    LogEntry,
    MemoryManifest,
    layer_folder,
)
from fotmem.disk import Column, LogPart, Storage, TailPiece, check_descriptions, open_storage
from fotmem.disk.byte_range import ByteRange
from fotmem.disk.chunk_reader import read_chunks
from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.log_loading import parts_of, pieces_of
from fotmem.errors import StorageError


@dataclass(frozen=True)
class Damage:
    """A chunk, or another part of a file, that is not as it was written."""

    problem: str
    """Names the file and the chunk, and what is wrong."""
    group: str
    """The folder of the rows that were written together."""
    first: int
    """First token that is lost."""
    stop: int
    """Token after the last one that is lost; `first` if none is."""


@dataclass(frozen=True)
class Verified:
    """What a memory's directory holds, and what of it is damaged."""

    name: str
    """Of the directory."""
    tokens: int
    documents: tuple[DocumentEntry, ...]
    damages: tuple[Damage, ...]

    @property
    def lost(self) -> list[DocumentEntry]:
        """The documents that have damaged tokens, keys or values."""
        return documents_hit(self.documents, self.damages)


class Span(NamedTuple):
    """Rows that were written at once: those of a block, or of a piece."""

    group: LogPart | TailPiece
    first: int
    rows: int

    def chunks(self, array: ChunkedArray) -> list[int]:
        """Number the chunks of an array that hold the rows, head by head."""
        begin = (self.first - self.group.first) // array.chunk_rows
        count = self.rows // array.chunk_rows
        per_head = array.chunks_per_head
        return [h * per_head + begin + n for h in range(array.heads) for n in range(count)]


class GroupLog(NamedTuple):
    """The groups of a folder, none of whose files was read yet."""

    folder: str
    columns: Sequence[Column]
    groups: tuple[LogPart | TailPiece, ...]


def verify(path: Path | str) -> Verified:
    """List all damage of a memory's directory. Nothing is changed.

    Parameters
    ----------
    path : path or URL

    Raises
    ------
    StorageError
        There is no memory, or its manifest cannot be read.
    """
    storage = open_storage(path, writable=False)
    try:
        manifest = FORMAT.load(storage).manifest
        damages = tuple(damages_of(storage, manifest))
        return Verified(storage.name, manifest.rows, manifest.documents, damages)
    finally:
        storage.close()


def documents_hit(
    documents: Sequence[DocumentEntry], damages: Sequence[Damage]
) -> list[DocumentEntry]:
    """Return the documents that have lost tokens and are not removed."""
    spans = {(each.first, each.stop) for each in damages if each.first < each.stop}
    return [
        document
        for document in documents
        if not document.is_removed
        and any(first < document.stop and document.first < stop for first, stop in spans)
    ]


def damages_of(storage: Storage, manifest: MemoryManifest) -> Iterator[Damage]:
    """Yield all damage of the groups that a manifest names."""
    for log in group_logs(storage, manifest):
        for group in log.groups:
            try:
                check_descriptions(storage, [group])
            except StorageError as error:
                yield Damage(_without_cure(error, storage), group.path, group.first, group.first)
            for span in spans_of(group):
                for array in group.arrays():
                    yield from _damages_of_span(storage, span, array)


def group_logs(storage: Storage, manifest: MemoryManifest) -> list[GroupLog]:
    """List the groups of all folders, as the manifest describes them."""
    logs: list[tuple[str, Sequence[Column], LogEntry]] = [(TOKENS, TOKEN_COLUMNS, manifest.tokens)]
    logs += [(layer_folder(e.layer), e.codec.columns(), e) for e in manifest.layers]
    logged = manifest.rows // manifest.block * manifest.block
    how = {"block": manifest.block, "logged": logged}
    return [
        GroupLog(
            folder,
            columns,
            (
                *parts_of(storage, folder, entry.parts, columns=columns, **how),
                *pieces_of(storage, folder, entry.pieces, columns),
            ),
        )
        for folder, columns, entry in logs
    ]


def spans_of(group: LogPart | TailPiece) -> Iterator[Span]:
    """Yield the blocks of a part, or the only span of a piece."""
    if isinstance(group, TailPiece):
        yield Span(group, group.first, group.rows)
        return
    for number in range(group.written):
        yield Span(group, group.first + number * group.block, group.block)


def bad_chunks(array: ChunkedArray, numbers: Sequence[int]) -> Iterator[tuple[int, StorageError]]:
    """Yield the chunks that cannot be read, each with what is wrong."""
    try:
        read_chunks((array, number) for number in numbers)
    except StorageError:
        for number in numbers:
            try:
                read_chunks([(array, number)])
            except StorageError as error:
                yield number, error


def _damages_of_span(storage: Storage, span: Span, array: ChunkedArray) -> Iterator[Damage]:
    numbers, group = span.chunks(array), span.group
    bad = list(bad_chunks(array, numbers))
    for number, error in bad:
        first = group.first + number % array.chunks_per_head * array.chunk_rows
        stop = first + array.chunk_rows
        yield Damage(_without_cure(error, storage), group.path, first, stop)
    file, _ = array.locate(numbers[0])
    start, index = len(numbers) * array.stride, array.shard_index(len(numbers))
    end = ByteRange(file, start, start + len(index) + 1)  # one more: nothing must follow
    if not bad and storage.read([end]) != [index]:
        problem = f"the end of {file} of {storage.name} is damaged (other programs need it)"
        yield Damage(problem, group.path, span.first, span.first)


def _without_cure(error: StorageError, storage: Storage) -> str:
    return str(error).removesuffix(f"; {storage.cure}")
