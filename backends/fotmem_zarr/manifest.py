"""The one file that says what a store holds: the attributes of its root group."""

import json
from typing import Any

import google_crc32c
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from fotmem import OptionError, StorageError
from fotmem_zarr.place import LOCK, PARTIAL, Place, Range

ROOT = "zarr.json"
FORMAT = "fotmem zarr store"
VERSION = 1


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    first: NonNegativeInt
    rows: PositiveInt


class PartEntry(_Entry):
    """A part of the log; `rows`: of a block."""


class PieceEntry(_Entry):
    """Rows behind the last whole block of the log."""


class SegmentEntry(_Entry):
    """Rows in clusters."""

    level: NonNegativeInt
    clusters: PositiveInt
    shard: PositiveInt
    buckets: PositiveInt


class Manifest(BaseModel):
    """What was there at the last flush."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_heads: PositiveInt
    head_dim: PositiveInt
    dtype: str
    block: PositiveInt
    """Rows of a block of the log."""
    first_id: NonNegativeInt = 0
    rows: NonNegativeInt = 0
    """Rows ever added."""
    forgotten: NonNegativeInt = 0
    logged: NonNegativeInt = 0
    """Rows in the log; the rest is in pieces."""
    next_name: NonNegativeInt = 0
    hubs: tuple[tuple[NonNegativeInt, ...], ...] = ()
    """Rows of each head that stand far from all others."""
    log: tuple[PartEntry, ...] = ()
    pieces: tuple[PieceEntry, ...] = ()
    segments: tuple[SegmentEntry, ...] = ()

    def layer(self) -> str:
        """Describe the layer that it is for."""
        return f"H={self.num_heads} heads of D={self.head_dim} in {self.dtype}"

    def require(self, other: "Manifest", place: Place) -> None:
        """Raise `OptionError` unless both are for the same kind of layer."""
        if self.layer() != other.layer():
            raise OptionError(
                f"{place.name} holds {self.layer()}, asked for was {other.layer()}; ask for "
                f"what it holds, or choose another directory"
            )

    def write(self, place: Place) -> None:
        """Replace the manifest; whatever it names must be durable by then."""
        place.settle()
        content = self.model_dump(mode="json")
        attributes = {"format": FORMAT, "version": VERSION, "crc32c": _checksum(content), **content}
        place.write(ROOT, group({"fotmem": attributes}), synced=True)
        place.settle()


def group(attributes: dict[str, Any] | None = None) -> bytes:
    """Make the ``zarr.json`` of a zarr group."""
    return json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}, indent=1
    ).encode()


def read_manifest(place: Place) -> Manifest | None:
    """Read the manifest; None if the place is empty.

    Raises
    ------
    StorageError
        If something else lies there, or what a newer fotmem wrote, or the file is damaged.
    """
    (data,) = place.read([Range(ROOT)])
    if data is None:
        others = [name for name in place.names("") if name != LOCK and not name.endswith(PARTIAL)]
        if not others and not place.read_only:
            return None
        raise StorageError(
            f"{place.name} is no zarr store of fotmem: it has no {ROOT}, but "
            f"{', '.join(others[:3]) or 'nothing'}; choose an empty directory or a store's own "
            f"(of a zip file, {ROOT} must be at its root)"
        )
    return _parsed(bytes(data), place)


def _parsed(data: bytes, place: Place) -> Manifest:
    damaged = StorageError(f"{ROOT} of {place.name} is damaged; restore it from a copy")
    try:
        root = json.loads(data)
        attributes = root["attributes"].get("fotmem")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged from error
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise StorageError(
            f"{place.name} holds other zarr data than a store of fotmem; choose another directory"
        )
    version = attributes.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StorageError(
            f"{place.name} has format version {version}, this fotmem knows up to {VERSION}; "
            f"upgrade fotmem"
        )
    content = {
        key: value
        for key, value in attributes.items()
        if key not in ("format", "version", "crc32c")
    }
    if attributes.get("crc32c") != _checksum(content):
        raise damaged
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise damaged from error


def _checksum(content: dict[str, Any]) -> int:
    return int(google_crc32c.value(json.dumps(content, sort_keys=True).encode()))
