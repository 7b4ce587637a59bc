"""Loads the groups that a manifest names."""

from fotmem.disk import (
    Log,
    Storage,
    TailPiece,
    check_descriptions,
    descriptions_of,
    load_log,
    load_pieces,
)
from fotmem_zarr.files import Files
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.manifest import Manifest


def load_rows(files: Files, storage: Storage, manifest: Manifest) -> tuple[Log, list[TailPiece]]:
    """Load the log, and the pieces after it."""
    columns = files.layer.columns()
    log = load_log(
        storage,
        "log",
        manifest.log,
        block=files.block,
        logged=manifest.logged,
        columns=columns,
    )
    files.pieces = load_pieces(storage, "tail", manifest.pieces, columns)
    files.keep(*log.parts, *files.pieces)
    return log, files.pieces


def load_segments(files: Files, storage: Storage, manifest: Manifest) -> tuple[Segment, ...]:
    """Load the segments before the first that was removed; the others are rebuilt."""
    found: list[Segment] = []
    for entry in manifest.segments:
        path = f"segments/{entry.name}"
        if storage.missing([f"{path}/zarr.json"]):
            break
        segment = Segment.of_entry(entry, storage, files.layer)
        files.keep(segment)
        found.append(segment)
    check_descriptions(storage, descriptions_of(storage, found))
    for segment in found:
        segment.load_index()
    return tuple(found)
