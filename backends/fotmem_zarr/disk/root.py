"""The file that holds the manifest: the ``zarr.json`` of the root group."""

import json
import secrets
from contextlib import suppress
from types import NoneType
from typing import Any, NamedTuple

import google_crc32c
from pydantic import ValidationError

from fotmem.errors import StorageError
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.place import LOCK, PARTIAL, Place, Range

ROOT = "zarr.json"
KINDS = ("log", "segments", "tail")
FORMAT = "fotmem zarr store"
VERSION = 2
LARGEST = 2**26
"""Bytes of a manifest, at most."""


class Root(NamedTuple):
    """A manifest, and the store that it belongs to."""

    manifest: Manifest
    store_id: str
    """Drawn at random when the store was begun; stands in ``log/zarr.json``."""


def group(**attributes: Any) -> bytes:
    """Make the ``zarr.json`` of a zarr group."""
    content = {"zarr_format": 3, "node_type": "group"}
    return json.dumps(
        {**content, "attributes": {"fotmem": attributes} if attributes else {}}, indent=1
    ).encode()


def begin(place: Place, manifest: Manifest) -> Root:
    """Make an empty store."""
    root = Root(manifest, secrets.token_hex(16))
    try:
        place.write("log/zarr.json", group(store=root.store_id))
        for kind in ("segments", "tail"):
            place.write(f"{kind}/zarr.json", group())
        write_root(place, root)
    except BaseException:
        with suppress(StorageError):
            for kind in KINDS:
                place.remove(kind)
        raise
    return root


def write_root(place: Place, root: Root) -> None:
    """Replace the manifest; whatever it names is made durable before."""
    place.settle()
    content = root.manifest.model_dump(mode="json")
    checksum = checksum_of(content, root.store_id)
    data = group(format=FORMAT, version=VERSION, crc32c=checksum, **content)
    place.write(ROOT, data, synced=True)
    place.settle()


def checksum_of(content: dict[str, Any], store_id: str) -> int:
    """Compute the crc32c of a manifest, which covers what it says and of which store."""
    text = store_id + json.dumps(content, sort_keys=True)
    return int(google_crc32c.value(text.encode()))


def read_root(place: Place) -> Root | None:
    """Read the manifest; None if nothing was written yet.

    Raises
    ------
    StorageError
        If something else lies there, or what another version of fotmem wrote, or the file is
        damaged, or says what cannot be true.
    """
    groups = [f"{kind}/zarr.json" for kind in KINDS]
    data, log, *others = place.read([Range(file, 0, LARGEST) for file in (ROOT, *groups)])
    if data is None:
        _require_empty(place)
        return None
    attributes = _attributes(data, ROOT, place)
    if attributes is None or attributes.get("format") != FORMAT:
        raise StorageError(
            f"{place.name} holds other zarr data than a store of fotmem; choose another directory"
        )
    _check_version(attributes.get("version"), place)
    for file, other in zip(groups[1:], others, strict=True):
        if other is not None and _attributes(other, file, place) is not None:
            raise _damaged(file, place, "it belongs elsewhere")
    store_id = (_attributes(log or b"", "log/zarr.json", place) or {}).get("store")
    if not isinstance(store_id, str) or len(store_id) != 32:
        raise _damaged("log/zarr.json", place, "it names no store")
    content = {
        key: value
        for key, value in attributes.items()
        if key not in ("format", "version", "crc32c")
    }
    try:
        if attributes.get("crc32c") != checksum_of(content, store_id):
            raise _damaged(ROOT, place, "its checksum differs")
        return Root(Manifest.model_validate_json(json.dumps(content)), store_id)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else first["msg"]
        raise _damaged(ROOT, place, why.removeprefix("Value error, ")) from error


def _attributes(data: bytes, file: str, place: Place) -> dict[str, Any] | None:
    """Parse the ``zarr.json`` of a group; return what is fotmem's in it."""
    if len(data) >= LARGEST:
        raise _damaged(file, place, "it is too large")
    try:
        root = json.loads(data)
        attributes = root["attributes"].get("fotmem")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file, place, "it is no description of a zarr group") from error
    expected = {"zarr_format": 3, "node_type": "group", "attributes": root["attributes"]}
    if root != expected or not isinstance(attributes, (dict, NoneType)):
        raise _damaged(file, place, "it is no description of a group of fotmem")
    return attributes


def _check_version(version: object, place: Place) -> None:
    if version == VERSION and isinstance(version, int):
        return
    newer = isinstance(version, int) and version > VERSION
    cure = "upgrade fotmem" if newer else "read the text again, into another directory"
    raise StorageError(
        f"{place.name} has format version {version!r}, this fotmem knows {VERSION}; {cure}"
    )


def _require_empty(place: Place) -> None:
    """Raise `StorageError` if something lies there, but for a store that was hardly begun."""
    others = [name for name in place.names("") if name != LOCK and not name.endswith(PARTIAL)]
    begun = all(
        name in KINDS and all(each == ROOT or each.endswith(PARTIAL) for each in place.names(name))
        for name in others
    )
    if place.read_only:
        found = ", ".join(others[:3]) or "nothing"
        raise StorageError(
            f"{place.name} is no zarr store of fotmem: it has no {ROOT}, but {found} (of a zip "
            f"file, {ROOT} must be at its root), and it {place.read_only}"
        )
    if not begun:
        raise StorageError(
            f"{place.name} is no zarr store of fotmem: it has no {ROOT}, but "
            f"{', '.join(others[:3])}; choose an empty directory or a store's own"
        )


def _damaged(file: str, place: Place, why: str) -> StorageError:
    return StorageError(f"{file} of {place.name} is damaged ({why}); restore it from a copy")
