"""The clusters of a store as arrays, which a memory's directory keeps as an index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.disk import LayerShape, Storage, Strict, UnreadBytes, require
from fotmem.stores import Arrays, SavedIndex
from fotmem_zarr.index.hub_keys import HubRows
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.index.segment_entry import SegmentEntry, check_segments
from fotmem_zarr.index.segment_index import SegmentIndex
from fotmem_zarr.kept_files import Bytes, KeptFiles

FILES = "files/"
"""How the names of arrays begin that are files of chunks with checksums."""
LARGE = ("means", "variances")
"""Arrays of an index that are kept as bfloat16: they only help to choose clusters."""


class KeptClusters(Strict):
    """What the arrays are."""

    segments: tuple[SegmentEntry, ...]
    files: tuple[tuple[str, ...], ...]
    """The keys of the files of each segment: arrays ``files/SEGMENT/FILE``, by number."""


def saved_clusters(segments: Sequence[Segment], hubs: HubRows, dtype: torch.dtype) -> Arrays:
    """Return segments and hub keys as arrays, the files without a copy where they can be mapped."""
    indexes, chunks = dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()
    keys = []
    for number, segment in enumerate(segments):
        files = _files_of(segment)
        keys.append(tuple(files))
        chunks |= {f"{FILES}{number}/{n}": file for n, file in enumerate(files.values())}
        indexes |= {f"index/{number}/{name}": part for name, part in _index_of(segment).items()}
    kept = KeptClusters(segments=tuple(each.entry() for each in segments), files=tuple(keys))
    facts = np.frombuffer(kept.model_dump_json().encode(), np.uint8)
    # What an opening reads lies together.
    return {"clusters": facts, **hubs.arrays(segments[-1].end, dtype), **indexes, **chunks}


def load_clusters(
    index: SavedIndex, layer: LayerShape, *, block: int, rows: int
) -> tuple[tuple[Segment, ...], HubRows]:
    """Return the segments and hub keys that `saved_clusters` got, of a log of `rows` rows.

    Raises
    ------
    ValueError, KeyError, StorageError
        They cannot be those of such a log.
    """
    arrays = index.arrays
    everything: dict[str, Bytes | UnreadBytes] = {**arrays, **index.unread}
    kept = KeptClusters.model_validate_json(arrays["clusters"].tobytes())
    check_segments(kept.segments, block=block, forgotten=0, logged=rows)
    ends = [entry.end for entry in kept.segments]
    require(ends[-1:] == [index.rows], "the segments do not end where the index does")
    segments = []
    for number, (entry, keys) in enumerate(zip(kept.segments, kept.files, strict=True)):
        storage = KeptFiles({key: everything[f"{FILES}{number}/{n}"] for n, key in enumerate(keys)})
        segment = Segment.of_entry(entry, storage, layer)
        segment.take_index(_loaded(segment, arrays, f"index/{number}/"))
        segments.append(segment)
    return tuple(segments), HubRows.of_arrays(arrays, layer, end=index.rows)


def _index_of(segment: Segment) -> Arrays:
    """Return the index of a segment as arrays."""
    return {
        name: _halved(part) if name in LARGE else part.numpy()
        for name, part in segment.index.tensors().items()
    }


def _halved(tensor: Tensor) -> Bytes:
    """Round to bfloat16; return the bytes."""
    most = torch.finfo(torch.bfloat16).max
    found: Bytes = tensor.clamp(-most, most).bfloat16().view(torch.uint8).numpy()
    return found


def _loaded(segment: Segment, arrays: Arrays, begin: str) -> SegmentIndex:
    """Return the index of a segment from arrays; raise `ValueError` if they do not fit it."""
    found = {}
    for name, (shape, dtype) in segment.index_shapes().items():
        array = torch.from_numpy(np.array(arrays[begin + name]))
        if name in LARGE:
            require(array.dtype == torch.uint8, f"{name} are no bytes")
            array = array.view(torch.bfloat16).float()
        require((*array.shape,) == shape and array.dtype == dtype, f"{name} do not fit")
        found[name] = array
    return SegmentIndex.of(found)


def _files_of(segment: Segment) -> dict[str, Bytes]:
    """Return the files of a segment by key: its chunks of keys and ids."""
    storage = segment.storage
    keys = [f"{array.path}/{name}" for array in segment.large() for name in sorted(array.files())]
    found = {key: _whole(storage, key) for key in keys if not key.endswith("zarr.json")}
    return {key: file for key, file in found.items() if file is not None}


def _whole(storage: Storage, key: str) -> Bytes | None:
    """Return a file, mapped where that is possible; None: a head may have fewer clusters."""
    if isinstance(storage, KeptFiles):
        return storage.whole(key)
    file = storage.open(key)
    if file is None:
        return None
    with file:
        return np.memmap(file, np.uint8, "r")
