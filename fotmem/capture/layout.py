"""A capture on disk: what memory layers see of a text, as a zarr v3 group.

::

    DIR/
    ├── zarr.json               attributes: `CaptureInfo`, and how much of it is there
    └── layers/17/
        ├── keys                float32 [H, N, D], in chunks of 8,192 tokens
        ├── values              float32 [H, N, D]
        └── queries             float32 [S, H, M, D]: M of a head after each of S sizes

Each chunk ends with its crc32c. What is not written is NaN, which nothing else is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import zarr
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from zarr.codecs import Crc32cCodec

from fotmem.errors import LayerError, OptionError, StorageError

VERSION = 1
PART = 8192
"""Tokens of a chunk; what is captured is committed part by part."""
LOCK = ".lock"
ANEW = "delete the folder and capture anew"


class CaptureInfo(BaseModel):
    """What is captured, and of what: in the attributes of the group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: dict[str, Any]
    """Where it comes from: a model and how it read which text, files, or chance."""
    layers: tuple[int, ...] = Field(min_length=1)
    num_heads: int = Field(ge=1)
    """Key/value heads ``H`` of a layer."""
    head_dim: int = Field(ge=1)
    """``D``."""
    scale: float = Field(gt=0)
    """Factor of the inner products."""
    tokens: int = Field(ge=1)
    """``N``."""
    sizes: tuple[int, ...] = Field(min_length=1)
    """After how many tokens something is asked, ascending; the last is `tokens`."""
    queries: int = Field(ge=1)
    """``M``: of a head after each of the sizes, in random order."""


def doublings(tokens: int) -> tuple[int, ...]:
    """Return the sizes at which queries are asked: from 1,024 tokens on doubled, and the last.

    Examples
    --------
    >>> doublings(5000)
    (1024, 2048, 4096, 5000)
    """
    sizes = [2**bits for bits in range(10, tokens.bit_length()) if 2**bits < tokens]
    return (*sizes, tokens)


class _Written(BaseModel):
    """How much is there."""

    parts: int = Field(ge=0)
    asked: int = Field(ge=0)


class Rows(NamedTuple):
    """Keys and values of some consecutive tokens, as one memory layer sees them."""

    keys: Tensor
    """Shape ``[H, n, D]``, float32, as a store gets them."""
    values: Tensor
    """Shape ``[H, n, D]``, float32."""


class Capture:
    """What memory layers of a model see of a text: keys and values, and what is asked of them.

    Open one with `Capture.open`.
    """

    def __init__(self, directory: Path, group: zarr.Group) -> None:
        self.directory = directory
        self._group = group
        self.info, self._written = _facts(directory, dict(group.attrs))

    @classmethod
    def open(cls, directory: Path | str) -> Self:
        """Open a capture to read from it.

        Raises
        ------
        StorageError
            There is none, it is damaged, of another version, or not complete.
        """
        directory = Path(directory)
        capture = cls(directory, _group(directory, "r"))
        if not capture.complete:
            raise StorageError(
                f"{directory} is not complete ({capture.progress}): give the command that captures "
                "it once more, it goes on where it stopped"
            )
        return capture

    @classmethod
    @contextmanager
    def writing(cls, directory: Path | str, info: CaptureInfo) -> Iterator[Self]:
        """Begin a capture, or go on with one that was stopped.

        Raises
        ------
        StorageError
            There is something else, another process writes there, or it cannot be written.
        """
        directory = Path(directory)
        with _problems(directory):
            directory.mkdir(parents=True, exist_ok=True)
            others = {each.name for each in directory.iterdir()} - {LOCK}
        if others and "zarr.json" not in others:
            raise StorageError(f"{directory} holds other files: name a new folder")
        with _locked(directory):
            if not others:
                facts = info.model_dump(mode="json")
                with _problems(directory):
                    zarr.create_group(directory, attributes=_attributes(facts, parts=0, asked=0))
            capture = cls(directory, _group(directory, "r+"))
            if capture.info != info:
                raise StorageError(
                    f"{directory} holds another capture ({_difference(capture.info, info)}): name "
                    "a new folder"
                )
            with _problems(directory):
                capture._make_arrays()
            yield capture

    @property
    def parts(self) -> int:
        """Count the parts that are there."""
        return self._written.parts

    @property
    def asked(self) -> int:
        """Count the sizes after which it was asked."""
        return self._written.asked

    @property
    def complete(self) -> bool:
        """Tell whether all is there."""
        return not self.missing and self.asked == len(self.info.sizes)

    @property
    def progress(self) -> str:
        """Say how much is there."""
        tokens, sizes = self.info.tokens, len(self.info.sizes)
        return (
            f"{min(self.parts * PART, tokens):,} of {tokens:,} tokens, queries after {self.asked} "
            f"of {sizes} sizes"
        )

    @property
    def missing(self) -> list[range]:
        """Tokens of the parts that are not there."""
        starts = range(self.parts * PART, self.info.tokens, PART)
        return [range(start, min(start + PART, self.info.tokens)) for start in starts]

    def rows(self, layer: int, start: int = 0, stop: int | None = None) -> Rows:
        """Read keys and values of the tokens from `start` to before `stop`.

        Raises
        ------
        StorageError, LayerError
            They are damaged; there is no such layer.
        """
        some = (slice(None), slice(start, stop))
        return Rows(self._read(layer, "keys", some), self._read(layer, "values", some))

    def blocks(self, layer: int, step: int, stop: int | None = None) -> Iterator[Rows]:
        """Read keys and values of the tokens before `stop`, at most `step` at a time."""
        end = self.info.tokens if stop is None else min(stop, self.info.tokens)
        for start in range(0, end, step):
            yield self.rows(layer, start, min(start + step, end))

    def queries(self, layer: int, size: int | None = None) -> Tensor:
        """Read what is asked after `size` tokens (default: after all): float32 ``[H, M, D]``.

        Raises
        ------
        StorageError, LayerError, OptionError
            They are damaged; there is no such layer, or size.
        """
        size = self.info.tokens if size is None else size
        if size not in self.info.sizes:
            sizes = ", ".join(f"{each:,}" for each in self.info.sizes)
            raise OptionError(f"{self.directory} has queries after {sizes} tokens, not {size:,}")
        return self._read(layer, "queries", self.info.sizes.index(size))

    def spread_queries(self, layer: int, count: int) -> Tensor:
        """Read queries from all over the text: of `info.sizes`, each in turn, one asked after it.

        Returns
        -------
        Tensor
            Shape ``[H, min(count, M), D]``, float32.

        Raises
        ------
        StorageError, LayerError
            They are damaged; there is no such layer.
        """
        places = torch.stack([self.queries(layer, size) for size in self.info.sizes])
        chosen = torch.arange(min(count, self.info.queries))
        return places[chosen % len(places), :, chosen].transpose(0, 1)

    def write_part(self, seen: Mapping[int, Rows]) -> None:
        """Append the first of the `missing` parts, as each layer sees it."""
        start = self.parts * PART
        with _problems(self.directory):
            for layer, rows in seen.items():
                for name, tensor in rows._asdict().items():
                    stop = start + tensor.shape[1]
                    self._array(layer, name)[:, start:stop] = _floats(tensor)
            self._commit(parts=self.parts + 1, asked=self.asked)

    def write_queries(self, asked: Mapping[int, Tensor]) -> None:
        """Append what each layer is asked, ``[H, M, D]``, after the next size."""
        with _problems(self.directory):
            for layer, queries in asked.items():
                self._array(layer, "queries")[self.asked] = _floats(queries)
            self._commit(parts=self.parts, asked=self.asked + 1)

    def _commit(self, **written: int) -> None:
        self._group.attrs["written"] = written
        self._written = _Written(**written)

    def _make_arrays(self) -> None:
        """Make those arrays that are not there yet."""
        info = self.info
        rows = (info.num_heads, info.tokens, info.head_dim)
        part = (info.num_heads, min(PART, info.tokens), info.head_dim)
        asked = (info.num_heads, info.queries, info.head_dim)
        queries = (len(info.sizes), *asked)
        for layer in info.layers:
            for name, shape, chunks in (
                ("keys", rows, part),
                ("values", rows, part),
                ("queries", queries, (1, *asked)),
            ):
                if _path(layer, name) not in self._group:
                    self._group.create_array(
                        _path(layer, name),
                        shape=shape,
                        chunks=chunks,
                        dtype="float32",
                        fill_value=math.nan,
                        compressors=[Crc32cCodec()],  # what models compute hardly shrinks
                    )

    def _array(self, layer: int, name: str) -> Any:
        return self._group[_path(layer, name)]

    def _read(self, layer: int, name: str, some: Any) -> Tensor:
        if layer not in self.info.layers:
            layers = ", ".join(map(str, self.info.layers))
            raise LayerError(f"{self.directory} has layers {layers}, not {layer}")
        place = self.directory / _path(layer, name)
        try:
            found = np.ascontiguousarray(self._array(layer, name)[some], dtype=np.float32)
        except Exception as error:  # there is no end to what damaged files raise
            raise StorageError(f"{place} is damaged ({error}): {ANEW}") from error
        if not np.isfinite(found).all():
            raise StorageError(f"{place} is damaged (a chunk is missing): {ANEW}")
        return torch.from_numpy(found)


def _path(layer: int, name: str) -> str:
    return f"layers/{layer:02d}/{name}"


def _floats(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().numpy()


def _attributes(facts: dict[str, Any], **written: int) -> dict[str, Any]:
    return {"fotmem_capture": VERSION, **facts, "written": written}


def _group(directory: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    try:
        return zarr.open_group(directory, mode=mode)
    except FileNotFoundError:
        raise StorageError(
            f"there is no capture at {directory}: make one with fotmem capture"
        ) from None
    except Exception as error:  # there is no end to what damaged files raise
        raise StorageError(f"{directory / 'zarr.json'} is damaged ({error}): {ANEW}") from error


def _facts(directory: Path, attributes: dict[str, Any]) -> tuple[CaptureInfo, _Written]:
    """Check what a group says about itself."""
    version = attributes.pop("fotmem_capture", None)
    if version != VERSION:
        raise StorageError(
            f"{directory} is a zarr group, but not a capture of version {VERSION} that this "
            f"fotmem reads ({f'its version is {version}' if version else 'it has no version'})"
        )
    try:
        written = _Written.model_validate(attributes.pop("written", None))
        return CaptureInfo.model_validate_json(json.dumps(attributes)), written
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StorageError(f"{directory / 'zarr.json'} is damaged ({reason}): {ANEW}") from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(directory / LOCK, timeout=0))
        except Timeout:
            raise StorageError(f"{directory} is being captured by another process") from None
        except OSError as error:
            raise _unwritable(directory, error) from error
        yield


@contextmanager
def _problems(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {directory}: {error.strerror or error}; what was captured is kept: make "
        "room there and go on, or name another folder"
    )


def _difference(found: CaptureInfo, wanted: CaptureInfo) -> str:
    """Name what differs first."""
    for here, there in ((dict(found), dict(wanted)), (found.source, wanted.source)):
        for name in {**here, **there}:
            if name != "source" and here.get(name) != there.get(name):
                return f"{name} is {here.get(name)}, not {there.get(name)}"
    raise AssertionError("both are the same")
