"""What a manifest names, taken up again."""

from fotmem_zarr.files import Files
from fotmem_zarr.log import Log, Part
from fotmem_zarr.manifest import Manifest
from fotmem_zarr.pieces import Piece
from fotmem_zarr.place import Place, Range
from fotmem_zarr.segment import Segment


def load_log(files: Files, place: Place, manifest: Manifest) -> Log:
    """Find the parts of the log."""
    log = Log(files.block)
    log.end = manifest.logged
    log.parts = tuple(
        Part(place, f"log/{entry.name}", first=entry.first, block=entry.rows, like=files.like)
        for entry in manifest.log
    )
    files.keep(*log.parts)
    return log


def load_pieces(files: Files, place: Place, manifest: Manifest) -> list[Piece]:
    """Find the pieces behind the log."""
    files.pieces = [
        Piece(place, f"tail/{entry.name}", first=entry.first, rows=entry.rows, like=files.like)
        for entry in manifest.pieces
    ]
    files.keep(*files.pieces)
    return files.pieces


def load_segments(files: Files, place: Place, manifest: Manifest) -> tuple[Segment, ...]:
    """Read the segments' indexes, up to the first that was removed: what follows is made anew."""
    found = []
    for entry in manifest.segments:
        path = f"segments/{entry.name}"
        if not place.read_only and place.read([Range(f"{path}/zarr.json")]) == [None]:
            break
        segment = Segment(
            place,
            path,
            first=entry.first,
            rows=entry.rows,
            level=entry.level,
            shard=entry.shard,
            like=files.like,
            clusters=entry.clusters,
        )
        files.keep(segment)
        segment.load_index(entry.buckets)
        found.append(segment)
    return tuple(found)
