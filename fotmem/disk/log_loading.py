"""Loads the groups of a log that a manifest names."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fotmem.disk.array_group import ArrayGroup, Column, Location
from fotmem.disk.byte_range import ByteRange
from fotmem.disk.log import Log, LogPart
from fotmem.disk.log_entries import PartEntry, PieceEntry
from fotmem.disk.storage import Storage
from fotmem.disk.tail_piece import TailPiece
from fotmem.disk.zarr_metadata import group_json
from fotmem.errors import StorageError

LONGEST = 2**16
"""Most bytes of the ``zarr.json`` of a group or an array."""


def load_log(
    storage: Storage,
    folder: str,
    entries: Sequence[PartEntry],
    *,
    block: int,
    logged: int,
    columns: Sequence[Column],
) -> Log:
    """Load the parts of a log that lie in a folder, with `logged` rows in all."""
    log = Log(block)
    log.end = logged
    log.parts = parts_of(storage, folder, entries, block=block, logged=logged, columns=columns)
    if storage.local:  # else too many requests; fotmem needs none of these files
        check_descriptions(storage, descriptions_of(storage, log.parts))
    return log


def parts_of(
    storage: Storage,
    folder: str,
    entries: Sequence[PartEntry],
    *,
    block: int,
    logged: int,
    columns: Sequence[Column],
) -> tuple[LogPart, ...]:
    """Return the parts of a log as its manifest describes them; no file is read."""
    parts = tuple(
        LogPart(
            Location(storage, f"{folder}/{entry.name}", entry.generation),
            first=entry.first,
            block=block,
            columns=columns,
        )
        for entry in entries
    )
    firsts = [*(part.first for part in parts), logged]
    for part, (first, end) in zip(parts, pairwise(firsts), strict=True):
        part.written, part.sealed = (end - first) // block, True
    return parts


def load_pieces(
    storage: Storage, folder: str, entries: Sequence[PieceEntry], columns: Sequence[Column]
) -> list[TailPiece]:
    """Load the pieces after a log that lie in a folder."""
    pieces = pieces_of(storage, folder, entries, columns)
    if storage.local:
        check_descriptions(storage, descriptions_of(storage, pieces))
    return pieces


def pieces_of(
    storage: Storage, folder: str, entries: Sequence[PieceEntry], columns: Sequence[Column]
) -> list[TailPiece]:
    """Return the pieces after a log as its manifest describes them; no file is read."""
    return [
        TailPiece(
            Location(storage, f"{folder}/{entry.name}", entry.generation),
            first=entry.first,
            rows=entry.rows,
            columns=columns,
        )
        for entry in entries
    ]


class Description(NamedTuple):
    """What a ``zarr.json`` must say, which other programs read."""

    key: str
    content: dict[str, Any]
    cure: str


def descriptions_of(storage: Storage, groups: Sequence[ArrayGroup]) -> list[Description]:
    """List the descriptions of groups and of their arrays."""
    group = json.loads(group_json())
    arrays = [array for group in groups for array in group.arrays()]
    return [
        *(Description(f"{each.path}/zarr.json", group, storage.cure) for each in groups),
        *(Description(f"{each.path}/zarr.json", each.description(), each.cure) for each in arrays),
    ]


def check_descriptions(storage: Storage, descriptions: Sequence[Description]) -> None:
    """Raise `StorageError` if a ``zarr.json`` was changed."""
    read = storage.read([ByteRange(each.key, 0, LONGEST) for each in descriptions])
    for (key, content, cure), data in zip(descriptions, read, strict=True):
        try:
            right = json.loads(data or b"") == content
        except (ValueError, RecursionError):
            right = False
        if not right:
            problem = "is missing" if data is None else "is damaged"
            raise StorageError(f"{key} of {storage.name} {problem}; {cure}")
