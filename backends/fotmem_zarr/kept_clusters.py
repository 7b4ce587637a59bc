"""The clusters of a store as arrays, which a memory's directory keeps as an index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fotmem.disk import ByteRange, LayerShape, Storage, Strict
from fotmem.stores import Arrays
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.index.segment_entry import Hubs, SegmentEntry, check_hubs, check_segments

Bytes = NDArray[np.uint8]


class ArrayFiles(Storage):
    """Files that are arrays of bytes, such as parts of a mapped file. They are only read.

    Parameters
    ----------
    files : mapping of str to ndarray
        By key.
    """

    def __init__(self, files: Mapping[str, Bytes]) -> None:
        super().__init__(
            "the index that was kept", read_only="is only read", durable=True, local=True
        )
        self.cure = "remove the folder indexes of the memory, and open it again: it is built anew"
        self.files = files

    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        found = [(self.files.get(part.key), part) for part in ranges]
        return [
            None if file is None else file[part.start : part.stop].tobytes() for file, part in found
        ]

    def names(self, path: str) -> list[str]:
        below = f"{path}/"
        keys = [key.removeprefix(below) for key in self.files if key.startswith(below)]
        return sorted({key.partition("/")[0] for key in keys})


class KeptClusters(Strict):
    """What the arrays are."""

    segments: tuple[SegmentEntry, ...]
    files: tuple[tuple[str, ...], ...]
    """The keys of the files of each segment: arrays ``files/SEGMENT/FILE``, by number."""
    hubs: Hubs


def saved_clusters(segments: Sequence[Segment], hubs: Hubs) -> Arrays:
    """Return the files of segments as arrays, without a copy where they can be mapped."""
    arrays: dict[str, NDArray[Any]] = {}
    keys = []
    for number, segment in enumerate(segments):
        files = _files_of(segment)
        keys.append(tuple(files))
        arrays |= {f"files/{number}/{n}": file for n, file in enumerate(files.values())}
    entries = tuple(segment.entry() for segment in segments)
    kept = KeptClusters(segments=entries, files=tuple(keys), hubs=hubs)
    return {"clusters": np.frombuffer(kept.model_dump_json().encode(), np.uint8), **arrays}


def load_clusters(
    arrays: Arrays, layer: LayerShape, *, block: int, rows: int
) -> tuple[tuple[Segment, ...], Hubs]:
    """Return the segments and hub keys that `saved_clusters` got, of a log of `rows` rows.

    Raises
    ------
    ValueError, KeyError, StorageError
        They cannot be those of such a log.
    """
    kept = KeptClusters.model_validate_json(arrays["clusters"].tobytes())
    check_segments(kept.segments, block=block, forgotten=0, logged=rows)
    check_hubs(kept.hubs, heads=layer.heads, rows=rows)
    segments = []
    for number, (entry, keys) in enumerate(zip(kept.segments, kept.files, strict=True)):
        storage = ArrayFiles({key: arrays[f"files/{number}/{n}"] for n, key in enumerate(keys)})
        segment = Segment.of_entry(entry, storage, layer)
        segment.load_index()
        segments.append(segment)
    return tuple(segments), kept.hubs


def _files_of(segment: Segment) -> dict[str, Bytes]:
    """Return the files of a segment by key, without descriptions, which other programs read."""
    storage = segment.storage
    keys = [
        f"{path}/{name}"
        for path, names in sorted(segment.files().items())
        for name in sorted(names - {"zarr.json"})
    ]
    if isinstance(storage, ArrayFiles):
        return {key: storage.files[key] for key in keys if key in storage.files}
    found = ((key, _mapped(storage, key)) for key in keys)  # a head may have fewer clusters
    return {key: file for key, file in found if file is not None}


def _mapped(storage: Storage, key: str) -> Bytes | None:
    file = storage.open(key)
    if file is None:
        return None
    with file:
        return np.memmap(file, np.uint8, "r")
