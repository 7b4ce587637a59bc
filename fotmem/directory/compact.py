"""Reclaims the space of removed documents."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fotmem.directory.facts import DocumentEntry
from fotmem.directory.group_damage import damages_of
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.row_log import RowLog
from fotmem.errors import StorageError
from fotmem.progress import progress_told


@dataclass(frozen=True)
class Compacted:
    """What a memory's directory holds after `compact`, and what it no longer holds."""

    name: str
    """Of the directory."""
    tokens: int
    documents: int
    dropped_tokens: int
    """Of removed documents."""
    dropped_documents: int
    freed_bytes: int | None
    """None: unknown, in object storage."""


def compact(path: Path | str, *, progress: bool = False) -> Compacted:
    """Drop the tokens, keys and values of removed documents from a memory's directory.

    The rows that are left are written again, block by block, from the first removed one on. They
    get new ids, without gaps. All is committed at once: killed before that, the directory is as it
    was. Readers go on with what they have, until `Memory.refresh`. Indexes are removed, and built
    anew when a store needs them.

    Parameters
    ----------
    path : path
    progress : bool
        Show progress bars on stderr.

    Returns
    -------
    Compacted
        What is left and what was dropped: nothing, if no document was removed.

    Raises
    ------
    StorageError
        There is no memory, it is damaged, another process writes to it, or it cannot be written to.
    """
    directory = MemoryDirectory.open(path, writable=True)
    try:
        directory.require_writable()
        before, used = directory.manifest, directory.storage.bytes_used()
        removed = [each for each in before.documents if not each.is_needed]
        if removed:
            _require_undamaged(directory, progress)
            _rewrite(directory, removed, progress)
        return Compacted(
            name=directory.name,
            tokens=len(directory),
            documents=len(directory.manifest.documents),
            dropped_tokens=before.rows - len(directory),
            dropped_documents=len(removed),
            freed_bytes=max(0, used - directory.storage.bytes_used()) if used else None,
        )
    finally:
        directory.close()


def _require_undamaged(directory: MemoryDirectory, progress: bool) -> None:
    damages = damages_of(directory.storage, directory.manifest, progress=progress)
    with closing(damages):
        damage = next(damages, None)
    if damage is not None:
        raise StorageError(
            f"{damage.problem}; a damaged memory is not compacted: call fotmem memory repair "
            f"{directory.name} first, which drops what is damaged"
        )


def _rewrite(directory: MemoryDirectory, removed: Sequence[DocumentEntry], progress: bool) -> None:
    """Write all rows but those of the removed documents again, and commit them."""
    live = torch.ones(len(directory), dtype=torch.bool)
    for each in removed:
        live[each.first : each.stop] = False
    documents = tuple(_renumbered(directory.manifest.documents))
    total, done = len(live) * (1 + len(directory.manifest.layers)), 0
    with progress_told("compacting", total, "rows", shown=progress) as tell:

        def compacted(log: RowLog) -> RowLog:
            nonlocal done
            done += len(live)
            return _compacted(log, live, lambda row: tell(done - len(live) + row))

        directory.replace_rows(compacted, documents)


def _compacted(log: RowLog, live: Tensor, tell: Callable[[int], None]) -> RowLog:
    """Return a log of the rows that live; it shares the parts before the first other row."""
    dead = (~live).nonzero()
    new = log.beginning(int(dead[0]) if len(dead) else len(log))
    for first, rows in log.blocks(len(new), len(log)):
        kept = live[first : first + rows[0].shape[1]]
        new.append([each[:, kept] for each in rows])
        new.write_blocks()
        tell(first + len(kept))
    return new


def _renumbered(documents: Sequence[DocumentEntry]) -> Iterator[DocumentEntry]:
    """Yield the documents that are needed, one after another."""
    stop = 0
    for each in documents:
        if each.is_needed:
            first, stop = stop, stop + len(each)
            yield each.model_copy(update={"first": first, "stop": stop})
