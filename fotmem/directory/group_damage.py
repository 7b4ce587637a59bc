"""Damage of the rows of a memory: groups that are not as the manifest describes them."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from fotmem.directory.damage import REPAIR, Damage
from fotmem.directory.manifest import (
    TOKEN_COLUMNS,
    TOKENS,
    LogEntry,
    MemoryManifest,
    layer_folder,
)
from fotmem.disk import (
    Column,
    LogPart,
    Storage,
    TailPiece,
    UnreachableError,
    check_descriptions,
    descriptions_of,
)
from fotmem.disk.byte_range import ByteRange
from fotmem.disk.chunk_reader import read_chunks
from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.log_loading import parts_of, pieces_of
from fotmem.errors import StorageError
from fotmem.progress import progress_told

MANY = 2**12
"""Chunks of a file from which on they are not listed one by one if it is too short."""
AT_ONCE = 16
"""Checks that are under way at the same time, where the storage is not local."""


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


def damages_of(
    storage: Storage, manifest: MemoryManifest, *, progress: bool = False
) -> Generator[Damage, None, None]:
    """Yield all damage of the groups that a manifest names; `progress` is shown on stderr."""
    logs, done = group_logs(storage, manifest), 0
    checks = [check for log in logs for group in log.groups for check in _checks(storage, group)]
    with (
        progress_told("checking", manifest.rows * len(logs), "rows", shown=progress) as tell,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):
        run = map if storage.local else threads.map  # elsewhere, each waits long for its answer
        for rows, found in run(_Check.run, checks):
            yield from found
            done += rows
            tell(done)


class _Check(NamedTuple):
    rows: int
    """What is checked then."""
    damages: Callable[[], Iterator[Damage]]

    def run(self) -> tuple[int, list[Damage]]:
        return self.rows, list(self.damages())


def _checks(storage: Storage, group: LogPart | TailPiece) -> Iterator[_Check]:
    yield _Check(0, partial(_damages_of_descriptions, storage, group))
    for span in spans_of(group):
        *others, last = group.arrays()
        for array in others:
            yield _Check(0, partial(_damages_of_span, storage, span, array))
        yield _Check(span.rows, partial(_damages_of_span, storage, span, last))


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
    """Yield the chunks that cannot be read, each with what is wrong.

    Raises
    ------
    UnreachableError
        The storage does not answer.
    """
    try:
        read_chunks((array, number) for number in numbers)
    except UnreachableError:
        raise
    except StorageError:
        for number in numbers:
            try:
                read_chunks([(array, number)])
            except UnreachableError:
                raise
            except StorageError as error:
                yield number, error


def _damages_of_descriptions(storage: Storage, group: LogPart | TailPiece) -> Iterator[Damage]:
    descriptions, first = descriptions_of(storage, [group]), group.first
    try:
        check_descriptions(storage, descriptions)
    except UnreachableError:
        raise
    except StorageError:
        for one in descriptions:
            try:
                check_descriptions(storage, [one])
            except UnreachableError:
                raise
            except StorageError as error:
                yield Damage.of(error, storage, one.key, group.path, first, first)


def _damages_of_span(storage: Storage, span: Span, array: ChunkedArray) -> Iterator[Damage]:
    group, count = span.group, array.heads * (span.rows // array.chunk_rows)
    size, file = count * array.stride, _file_of(span, array)
    if count > MANY and not _has_byte(storage, file, size - 1):
        problem = f"{file} of {storage.name} is missing or truncated (expected {size:,} bytes)"
        yield Damage(problem, file, REPAIR, group.path, span.first, span.first + span.rows)
        return
    numbers = span.chunks(array)
    bad = list(bad_chunks(array, numbers))
    for number, error in bad:
        first = group.first + number % array.chunks_per_head * array.chunk_rows
        stop = first + array.chunk_rows
        yield Damage.of(error, storage, file, group.path, first, stop)
    if bad:
        return
    index = array.shard_index(count)
    end = ByteRange(file, size, size + len(index) + 1)  # one more: nothing must follow
    if storage.read([end]) != [index]:
        problem = f"the end of {file} of {storage.name} is damaged (other programs need it)"
        yield Damage(problem, file, REPAIR, group.path, span.first, span.first)


def _file_of(span: Span, array: ChunkedArray) -> str:
    return array.locate((span.first - span.group.first) // array.chunk_rows)[0]


def _has_byte(storage: Storage, file: str, at: int) -> bool:
    try:
        return bool(storage.read([ByteRange(file, at, at + 1)])[0])
    except UnreachableError:
        raise
    except StorageError:
        return False
