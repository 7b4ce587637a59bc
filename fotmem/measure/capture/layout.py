"""A capture on disk: keys, values and queries of memory layers, as a zarr v3 group.

::

    DIR/
    ├── zarr.json               attributes: `CaptureInfo`, and how much is written
    └── layers/17/
        ├── keys                float32 [H, N, D], in chunks of 8,192 tokens
        ├── values              float32 [H, N, D]
        └── queries             float32 [sizes, H, Q, D]: Q queries of a head after each size

Each chunk ends with its crc32c. Chunks that are not written yet hold NaN; captured numbers
are never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec

from fotmem.errors import LayerError, OptionError, StorageError
from fotmem.measure.capture.group import (
    ANEW,
    CaptureBusyError,
    CaptureProgress,
    attributes_of,
    check_plain,
    content,
    damaged,
    difference,
    locked,
    named_problems,
    open_group,
    read_attributes,
    stored_as,
)
from fotmem.measure.capture.info import CaptureInfo, KeyValues
from fotmem.outputs import check_folder, filling

PART = 8192
"""Tokens of a chunk; a capture is committed part by part."""
ARRAYS = ("keys", "values", "queries")


class Capture:
    """Keys, values and queries of memory layers of a model that reads a text.

    Open a capture with `Capture.open`.
    """

    def __init__(self, directory: Path, group: zarr.Group) -> None:
        self.directory = directory
        self._group = group
        self._arrays: dict[str, Any] = {}
        self.info, self._written = read_attributes(directory, dict(group.attrs))

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """Open a capture to read from it.

        Raises
        ------
        StorageError
            There is no capture; it is damaged, of another version, or not complete.
        """
        directory = Path(directory)
        check_plain(directory)
        capture = cls(directory, open_group(directory, "r"))
        if not capture.complete:
            raise StorageError(
                f"{directory} is not complete ({capture.progress}): run the command that captures "
                "it again, it continues"
            )
        return capture

    @staticmethod
    def check_place(directory: Path | str) -> None:
        """Check that a capture can be written or continued.

        Raises
        ------
        StorageError
            The folder has other files, or cannot be written.
        """
        check_folder(directory)
        others = content(Path(directory))
        if others and "zarr.json" not in others:
            raise StorageError(f"{directory} holds other files: name a new folder")

    @classmethod
    @contextmanager
    def writing(
        cls, directory: Path | str, info: CaptureInfo, *, whole: bool = False
    ) -> Iterator[Self]:
        """Start a capture, or continue a stopped one.

        A failure before the first part leaves nothing; with `whole`, a later failure leaves nothing
        either, unless the capture was started before.

        Raises
        ------
        StorageError
            The folder has other files, another process writes there, or it cannot be written.
        """
        directory, capture = Path(directory), None
        cls.check_place(directory)
        new = not content(directory)

        def kept(error: BaseException) -> bool:
            if not new or isinstance(error, CaptureBusyError):
                return True
            return not whole and capture is not None and bool(capture.parts or capture.asked)

        with named_problems(directory), filling(directory, kept=kept), locked(directory):
            new = not content(directory)
            check_plain(directory)
            if new:
                facts = info.model_dump(mode="json")
                zarr.create_group(directory, attributes=attributes_of(facts, parts=0, asked=0))
            capture = cls(directory, open_group(directory, "r+"))
            if capture.info != info:
                raise StorageError(
                    f"{directory} holds another capture ({difference(capture.info, info)}): name "
                    "a new folder"
                )
            capture._make_arrays()
            yield capture

    @property
    def parts(self) -> int:
        """The number of written parts."""
        return self._written.parts

    @property
    def asked(self) -> int:
        """The number of sizes with written queries."""
        return self._written.asked

    @property
    def complete(self) -> bool:
        """Whether everything is written."""
        return not self.missing and self.asked == len(self.info.sizes)

    @property
    def progress(self) -> str:
        """A text about how much is written."""
        tokens, sizes = self.info.tokens, len(self.info.sizes)
        return (
            f"{min(self.parts * PART, tokens):,} of {tokens:,} tokens, queries after {self.asked} "
            f"of {sizes} sizes"
        )

    @property
    def missing(self) -> list[range]:
        """Tokens of the missing parts."""
        starts = range(self.parts * PART, self.info.tokens, PART)
        return [range(start, min(start + PART, self.info.tokens)) for start in starts]

    def rows(self, layer: int, start: int = 0, stop: int | None = None) -> KeyValues:
        """Read keys and values of the tokens from `start` to before `stop`.

        Raises
        ------
        StorageError, LayerError
            The data are damaged; there is no such layer.
        """
        first, last, _ = slice(start, stop).indices(self.info.tokens)
        chunks = range(first // PART, math.ceil(last / PART)) if first < last else range(0)
        some = (slice(None), slice(first, last))
        keys, values = (self._read(layer, name, some, chunks) for name in ("keys", "values"))
        return KeyValues(keys, values)

    def blocks(self, layer: int, step: int, stop: int | None = None) -> Iterator[KeyValues]:
        """Read keys and values of the tokens before `stop`, at most `step` at a time."""
        end = self.info.tokens if stop is None else min(stop, self.info.tokens)
        for start in range(0, end, step):
            yield self.rows(layer, start, min(start + step, end))

    def queries(self, layer: int, size: int | None = None) -> Tensor:
        """Read the queries after `size` tokens (default: after all): float32 ``[H, Q, D]``.

        Raises
        ------
        StorageError, LayerError, OptionError
            The data are damaged; there is no such layer or size.
        """
        size = self.info.tokens if size is None else size
        if size not in self.info.sizes:
            sizes = ", ".join(f"{each:,}" for each in self.info.sizes)
            raise OptionError(f"{self.directory} has queries after {sizes} tokens, not {size:,}")
        place = self.info.sizes.index(size)
        return self._read(layer, "queries", place, [place])

    def spread_queries(self, layer: int, count: int) -> Tensor:
        """Read queries from all places of the text: of each of `info.sizes` in turn.

        Returns
        -------
        Tensor
            Shape ``[H, min(count, Q), D]``, float32.

        Raises
        ------
        StorageError, LayerError
            The data are damaged; there is no such layer.
        """
        places = torch.stack([self.queries(layer, size) for size in self.info.sizes])
        chosen = torch.arange(min(count, self.info.queries))
        return places[chosen % len(places), :, chosen].transpose(0, 1)

    def write_part(self, seen: Mapping[int, KeyValues]) -> None:
        """Append the first of the `missing` parts, by layer."""
        start = self.parts * PART
        for layer, rows in seen.items():
            for name, tensor in rows._asdict().items():
                stop = start + tensor.shape[1]
                self._array(layer, name)[:, start:stop] = _floats(tensor)
        self._commit(parts=self.parts + 1, asked=self.asked)

    def write_queries(self, asked: Mapping[int, Tensor]) -> None:
        """Append the queries ``[H, Q, D]`` after the next size, by layer."""
        for layer, queries in asked.items():
            self._array(layer, "queries")[self.asked] = _floats(queries)
        self._commit(parts=self.parts, asked=self.asked + 1)

    def _commit(self, **written: int) -> None:
        self._group.attrs["written"] = written
        self._written = CaptureProgress(**written)

    def _make_arrays(self) -> None:
        """Create the missing arrays."""
        for layer in self.info.layers:
            for name in ARRAYS:
                if _path(layer, name) not in self._group:
                    shape, chunks = self._shape(name)
                    self._group.create_array(
                        _path(layer, name),
                        shape=shape,
                        chunks=chunks,
                        dtype="float32",
                        fill_value=math.nan,
                        compressors=[Crc32cCodec()],  # keys and values hardly compress
                    )

    def _shape(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape of an array, and that of its chunks."""
        info = self.info
        if name == "queries":
            asked = (info.num_heads, info.queries, info.head_dim)
            return (len(info.sizes), *asked), (1, *asked)
        shape = (info.num_heads, info.tokens, info.head_dim)
        return shape, (info.num_heads, min(PART, info.tokens), info.head_dim)

    def _array(self, layer: int, name: str) -> Any:
        """Return an array after a check that its metadata are those it was created with."""
        path = _path(layer, name)
        if path not in self._arrays:
            array: Any = self._group[path]
            found = (array.shape, array.chunks, str(array.dtype), *stored_as(array))
            expected = (*self._shape(name), "float32", "/", True, ("bytes", "crc32c"))
            if found != expected:
                raise ValueError(f"expected {expected}, found {found}")
            self._arrays[path] = array
        return self._arrays[path]

    def _read(self, layer: int, name: str, some: Any, chunks: Iterable[int]) -> Tensor:
        """Read a part of an array, which is in these chunks."""
        if layer not in self.info.layers:
            layers = ", ".join(map(str, self.info.layers))
            raise LayerError(f"{self.directory} has layers {layers}, not {layer}")
        place = self.directory / _path(layer, name)
        try:
            array = self._array(layer, name)
            for chunk in chunks:  # looked at before there is room for it
                where = (chunk, 0, 0, 0) if name == "queries" else (0, chunk, 0)
                size = place.joinpath("c", *map(str, where)).stat().st_size
                if size != math.prod(array.chunks) * 4 + 4:
                    raise ValueError(f"chunk {chunk} has {size:,} bytes")
            found = np.ascontiguousarray(array[some], dtype=np.float32)
        except Exception as error:  # damaged files raise all kinds of exceptions
            raise damaged(place, error) from error
        if not np.isfinite(found).all():
            raise StorageError(f"{place} is damaged (a number is not finite): {ANEW}")
        return torch.from_numpy(found)


def _path(layer: int, name: str) -> str:
    return f"layers/{layer:02d}/{name}"


def _floats(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().numpy()
