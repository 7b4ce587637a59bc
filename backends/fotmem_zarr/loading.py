"""Loads the groups that a manifest names."""

import json
from collections.abc import Sequence
from itertools import pairwise

from fotmem.errors import StorageError
from fotmem_zarr.disk.array_group import ArrayGroup, Location
from fotmem_zarr.disk.byte_range import ByteRange
from fotmem_zarr.disk.log import Log, LogPart
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.manifest_file import LARGEST
from fotmem_zarr.disk.storage import Storage
from fotmem_zarr.disk.tail_piece import TailPiece
from fotmem_zarr.disk.zarr_metadata import group_json
from fotmem_zarr.files import Files
from fotmem_zarr.index.segment import Segment


def load_log(files: Files, storage: Storage, manifest: Manifest) -> Log:
    """Load the parts of the log."""
    log = Log(files.block)
    log.end = manifest.logged
    log.parts = tuple(
        LogPart(
            Location(storage, f"log/{entry.name}", entry.generation),
            first=entry.first,
            block=files.block,
            layer=files.layer,
        )
        for entry in manifest.log
    )
    firsts = [*(part.first for part in log.parts), log.end]
    for part, (first, end) in zip(log.parts, pairwise(firsts), strict=True):
        part.written, part.sealed = (end - first) // files.block, True
    _check_descriptions(storage, log.parts)
    files.keep(*log.parts)
    return log


def load_pieces(files: Files, storage: Storage, manifest: Manifest) -> list[TailPiece]:
    """Load the pieces after the log."""
    files.pieces = [
        TailPiece(
            Location(storage, f"tail/{entry.name}", entry.generation),
            first=entry.first,
            rows=entry.rows,
            layer=files.layer,
        )
        for entry in manifest.pieces
    ]
    _check_descriptions(storage, files.pieces)
    files.keep(*files.pieces)
    return files.pieces


def load_segments(files: Files, storage: Storage, manifest: Manifest) -> tuple[Segment, ...]:
    """Load the segments before the first that was removed; the others are rebuilt."""
    found: list[Segment] = []
    for entry in manifest.segments:
        path = f"segments/{entry.name}"
        if storage.missing([f"{path}/zarr.json"]):
            break
        segment = Segment(
            Location(storage, path, entry.generation),
            first=entry.first,
            rows=entry.rows,
            level=entry.level,
            shard=entry.shard,
            layer=files.layer,
            clusters=entry.clusters,
        )
        segment.set_buckets(entry.buckets)
        files.keep(segment)
        found.append(segment)
    _check_descriptions(storage, found)
    for segment in found:
        segment.load_index()
    return tuple(found)


def _check_descriptions(storage: Storage, groups: Sequence[ArrayGroup]) -> None:
    """Raise `StorageError` if a ``zarr.json``, which other programs read, was changed."""
    arrays = [array for group in groups for array in group.arrays()]
    expected = {f"{group.path}/zarr.json": json.loads(group_json()) for group in groups}
    expected |= {f"{array.path}/zarr.json": array.description() for array in arrays}
    cures = {f"{array.path}/zarr.json": array.cure for array in arrays}
    read = storage.read([ByteRange(key, 0, LARGEST) for key in expected])
    for (key, description), data in zip(expected.items(), read, strict=True):
        try:
            right = json.loads(data or b"") == description
        except (ValueError, RecursionError):
            right = False
        if not right:
            problem = "is missing" if data is None else "is damaged"
            cure = cures.get(key, "restore the store from a copy")
            raise StorageError(f"{key} of {storage.name} {problem}; {cure}")
