"""What a manifest names, taken up again."""

import json
from collections.abc import Sequence
from itertools import pairwise

from fotmem.errors import StorageError
from fotmem_zarr.disk.log import Log, Part
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.owned import Owned, Spot
from fotmem_zarr.disk.pieces import Piece
from fotmem_zarr.disk.place import Place, Range
from fotmem_zarr.disk.root import LARGEST, group
from fotmem_zarr.files import Files
from fotmem_zarr.index.segment import Segment


def load_log(files: Files, place: Place, manifest: Manifest) -> Log:
    """Find the parts of the log."""
    log = Log(files.block)
    log.end = manifest.logged
    log.parts = tuple(
        Part(
            Spot(place, f"log/{entry.name}", entry.generation),
            first=entry.first,
            block=files.block,
            like=files.like,
        )
        for entry in manifest.log
    )
    firsts = [*(part.first for part in log.parts), log.end]
    for part, (first, end) in zip(log.parts, pairwise(firsts), strict=True):
        part.written, part.sealed = (end - first) // files.block, True
    _check_descriptions(place, log.parts)
    files.keep(*log.parts)
    return log


def load_pieces(files: Files, place: Place, manifest: Manifest) -> list[Piece]:
    """Find the pieces behind the log."""
    files.pieces = [
        Piece(
            Spot(place, f"tail/{entry.name}", entry.generation),
            first=entry.first,
            rows=entry.rows,
            like=files.like,
        )
        for entry in manifest.pieces
    ]
    _check_descriptions(place, files.pieces)
    files.keep(*files.pieces)
    return files.pieces


def load_segments(files: Files, place: Place, manifest: Manifest) -> tuple[Segment, ...]:
    """Read the segments' indexes, up to the first that was removed: what follows is made anew."""
    found: list[Segment] = []
    for entry in manifest.segments:
        path = f"segments/{entry.name}"
        if place.missing([f"{path}/zarr.json"]):
            break
        segment = Segment(
            Spot(place, path, entry.generation),
            first=entry.first,
            rows=entry.rows,
            level=entry.level,
            shard=entry.shard,
            like=files.like,
            clusters=entry.clusters,
        )
        segment.set_buckets(entry.buckets)
        files.keep(segment)
        found.append(segment)
    _check_descriptions(place, found)
    for segment in found:
        segment.load_index()
    return tuple(found)


def _check_descriptions(place: Place, found: Sequence[Owned]) -> None:
    """Raise `StorageError` if what other programs read a store by is not what was written."""
    arrays = [rows for owned in found for rows in owned.arrays()]
    expected = {f"{owned.path}/zarr.json": json.loads(group()) for owned in found}
    expected |= {f"{rows.path}/zarr.json": rows.description() for rows in arrays}
    cures = {f"{rows.path}/zarr.json": rows.cure() for rows in arrays}
    read = place.read([Range(file, 0, LARGEST) for file in expected])
    for (file, description), data in zip(expected.items(), read, strict=True):
        try:
            right = json.loads(data or b"") == description
        except (ValueError, RecursionError):
            right = False
        if not right:
            what = "is missing" if data is None else "is damaged"
            cure = cures.get(file, "restore the store from a copy")
            raise StorageError(f"{file} of {place.name} {what}; {cure}")
