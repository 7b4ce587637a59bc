"""Drops what is damaged of a memory's directory, and says what is lost."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fotmem.directory.damage import MEND, Damage, Verified, documents_hit
from fotmem.directory.facts import DocumentEntry
from fotmem.directory.group_damage import (
    GroupLog,
    Span,
    bad_chunks,
    damages_of,
    group_logs,
    spans_of,
)
from fotmem.directory.manifest import FORMAT, LayerEntry, LogEntry, MemoryManifest
from fotmem.directory.verify import damages_beside
from fotmem.directory.writing import storage_to_write
from fotmem.disk import ROOT, ArrayGroup, GroupFiles, LogPart, Storage, TailPiece
from fotmem.disk.chunk_reader import load_chunks
from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.zarr_metadata import group_json
from fotmem.errors import StorageError

Group = LogPart | TailPiece
MOST = 16
"""Bytes that are written again at most, for each byte of the directory's files."""


def repair(path: Path | str, *, progress: bool = False) -> Verified:
    """Remove the documents that have damaged tokens, keys or values; keep all others.

    The rule: groups of rows that have damage are written again, with zeros in place of the damaged
    rows, and the documents of these rows are marked as removed, so that no search finds them. Ids
    do not change. All is committed at once: killed before that, the directory is as it was.
    Descriptions of folders are written again; indexes that cannot be used are removed.

    Parameters
    ----------
    path : path
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Verified
        What was damaged, and is lost now.

    Raises
    ------
    StorageError
        There is no memory, its manifest cannot be read, or the directory cannot be written to.
    """
    storage = storage_to_write(path)
    unused = True
    try:
        files = GroupFiles(FORMAT)
        manifest = files.take_over(storage, FORMAT.load(storage, alone=True))
        files.require_writable()
        logs = group_logs(storage, manifest)
        files.tidy(manifest, [group for log in logs for group in log.groups])
        damages = (
            *damages_beside(path, storage, manifest.folders()),
            *damages_of(storage, manifest, progress=progress),
        )
        unused = not damages
        _write_descriptions(storage, damages)
        if groups := {each.group for each in damages if each.group}:
            hit = {*documents_hit(manifest.documents, damages)}
            _require_plausible(storage, logs, groups)
            try:
                _rewrite(files, storage, manifest, groups, hit)
            except (MemoryError, RuntimeError) as error:  # torch's, if sizes are made up
                raise StorageError(f"{storage.name} cannot be repaired: {error}") from error
        return Verified(storage.name, manifest.rows, manifest.documents, damages)
    finally:
        storage.close(unused=unused)


def _require_plausible(storage: Storage, logs: Sequence[GroupLog], damaged: set[str]) -> None:
    """Raise `StorageError` if much more would be written than ever lay there."""
    groups = [group for log in logs for group in log.groups if group.path in damaged]
    spans = [(span, array) for g in groups for span in spans_of(g) for array in g.arrays()]
    size = sum(array.heads * span.rows // array.chunk_rows * array.stride for span, array in spans)
    found = storage.bytes_used()
    if storage.local and size > MOST * found:
        raise StorageError(
            f"{storage.name} cannot be repaired: what is damaged had {size:,} bytes, as its {ROOT} "
            f"says, and all files that are left have {found:,}; restore it from a copy, or read "
            "the text again, into another directory"
        )


def _write_descriptions(storage: Storage, damages: Sequence[Damage]) -> None:
    """Write the ``zarr.json`` of folders again, and remove indexes that cannot be used."""
    for each in damages:
        if not each.group:
            storage.remove(each.file)
        if each.remedy == MEND:
            storage.write(each.file, group_json())
    storage.sync()


def _rewrite(
    files: GroupFiles[MemoryManifest],
    storage: Storage,
    manifest: MemoryManifest,
    damaged: set[str],
    removed: set[DocumentEntry],
) -> None:
    """Write damaged groups again, and commit them with the documents that are left.

    Parameters
    ----------
    damaged : set of str
        Paths of groups.
    removed : set of DocumentEntry
        The documents that are lost.
    """
    kept: list[ArrayGroup] = []
    entries: list[LogEntry] = []
    logs = group_logs(storage, manifest)
    files.hold([group for log in logs for group in log.groups])  # the commit releases damaged ones
    for log in logs:
        groups = [_mended(files, log, g) if g.path in damaged else g for g in log.groups]
        kept += groups
        entries.append(
            LogEntry(
                parts=tuple(each.entry() for each in groups if isinstance(each, LogPart)),
                pieces=tuple(each.entry() for each in groups if isinstance(each, TailPiece)),
            )
        )
    tokens, *layers = entries
    mended = manifest.model_copy(
        update={
            "next_name": files.next_name,
            "tokens": tokens,
            "layers": tuple(map(_with_groups, manifest.layers, layers)),
            "documents": tuple(
                each.removed() if each in removed else each for each in manifest.documents
            ),
        }
    )
    files.commit(mended, kept)


def _with_groups(layer: LayerEntry, log: LogEntry) -> LayerEntry:
    return layer.model_copy(update=dict(log))


def _mended(files: GroupFiles[MemoryManifest], log: GroupLog, group: Group) -> Group:
    """Write a group again, with zeros in place of what cannot be read."""
    location = files.new(log.folder)
    if isinstance(group, TailPiece):
        piece = TailPiece(location, first=group.first, rows=group.rows, columns=log.columns)
        piece.write(_readable(next(spans_of(group))))
        return piece
    part = LogPart(location, first=group.first, block=group.block, columns=log.columns)
    for span in spans_of(group):
        part.write(span.first, _readable(span))
    return part


def _readable(span: Span) -> Sequence[Tensor]:
    """Read rows ``[heads, rows, *rest]`` of each column; zeros where a chunk cannot be read."""
    return [_readable_rows(array, span.chunks(array)) for array in span.group.arrays()]


def _readable_rows(array: ChunkedArray, numbers: Sequence[int]) -> Tensor:
    bad = {number for number, _ in bad_chunks(array, numbers)}
    rows = torch.zeros(len(numbers), array.chunk_rows, *array.rest, dtype=array.dtype)
    good = [place for place, number in enumerate(numbers) if number not in bad]
    if good:
        rows[good] = load_chunks(array, [numbers[place] for place in good])
    return rows.view(array.heads, -1, *array.rest)
