"""The file that holds the manifest: the ``zarr.json`` of the root group."""

import json
import secrets
from contextlib import suppress
from types import NoneType
from typing import Any, NamedTuple

import google_crc32c
from pydantic import ValidationError

from fotmem.errors import StorageError
from fotmem_zarr.disk.byte_range import ByteRange
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.storage import LOCK, PARTIAL, Storage
from fotmem_zarr.disk.zarr_metadata import group_json

ROOT = "zarr.json"
KINDS = ("log", "segments", "tail")
FORMAT = "fotmem zarr store"
VERSION = 2
LARGEST = 2**26
"""Most bytes of a manifest."""


class ManifestFile(NamedTuple):
    """A manifest and the id of its store."""

    manifest: Manifest
    store_id: str
    """Drawn at random when the store was begun; also in ``log/zarr.json``."""


def begin_store(storage: Storage, manifest: Manifest) -> ManifestFile:
    """Write an empty store."""
    file = ManifestFile(manifest, secrets.token_hex(16))
    try:
        storage.write("log/zarr.json", group_json(store=file.store_id))
        for kind in ("segments", "tail"):
            storage.write(f"{kind}/zarr.json", group_json())
        write_manifest(storage, file)
    except BaseException:
        with suppress(StorageError):
            for kind in KINDS:
                storage.remove(kind)
        raise
    return file


def write_manifest(storage: Storage, file: ManifestFile) -> None:
    """Replace the manifest, after all that it names has become durable."""
    storage.sync()
    content = file.manifest.model_dump(mode="json")
    checksum = checksum_of(content, file.store_id)
    data = group_json(format=FORMAT, version=VERSION, crc32c=checksum, **content)
    storage.write(ROOT, data, synced=True)
    storage.sync()


def checksum_of(content: dict[str, Any], store_id: str) -> int:
    """Compute the crc32c of a manifest's content and the id of its store."""
    text = store_id + json.dumps(content, sort_keys=True)
    return int(google_crc32c.value(text.encode()))


def read_manifest(storage: Storage) -> ManifestFile | None:
    """Read the manifest; None if there is no store yet.

    Raises
    ------
    StorageError
        Something else lies there, another version of fotmem wrote it, or the file is damaged or
        states what cannot be true.
    """
    groups = [f"{kind}/zarr.json" for kind in KINDS]
    data, log, *others = storage.read([ByteRange(key, 0, LARGEST) for key in (ROOT, *groups)])
    if data is None:
        _require_empty(storage)
        return None
    attributes = _attributes(data, ROOT, storage)
    if attributes is None or attributes.get("format") != FORMAT:
        raise StorageError(
            f"{storage.name} holds other zarr data than a store of fotmem; choose another directory"
        )
    _check_version(attributes.get("version"), storage)
    for key, other in zip(groups[1:], others, strict=True):
        if other is not None and _attributes(other, key, storage) is not None:
            raise _damaged(key, storage, "it belongs elsewhere")
    store_id = (_attributes(log or b"", "log/zarr.json", storage) or {}).get("store")
    if not isinstance(store_id, str) or len(store_id) != 32:
        raise _damaged("log/zarr.json", storage, "it names no store")
    return ManifestFile(_manifest(attributes, store_id, storage), store_id)


def _manifest(attributes: dict[str, Any], store_id: str, storage: Storage) -> Manifest:
    """Check what the file states, and make a manifest of it."""
    content = {
        key: value
        for key, value in attributes.items()
        if key not in ("format", "version", "crc32c")
    }
    try:
        if attributes.get("crc32c") != checksum_of(content, store_id):
            # It covers the store's id, too, which stands in the other file.
            raise _damaged(f"{ROOT} or log/{ROOT}", storage, "their checksum differs")
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else first["msg"]
        raise _damaged(ROOT, storage, why.removeprefix("Value error, ")) from error


def _attributes(data: bytes, key: str, storage: Storage) -> dict[str, Any] | None:
    """Parse the ``zarr.json`` of a group; return fotmem's attributes."""
    if len(data) >= LARGEST:
        raise _damaged(key, storage, "it is too large")
    try:
        root = json.loads(data)
        attributes = root["attributes"].get("fotmem")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(key, storage, "it does not describe a zarr group") from error
    expected = {"zarr_format": 3, "node_type": "group", "attributes": root["attributes"]}
    if root != expected or not isinstance(attributes, (dict, NoneType)):
        raise _damaged(key, storage, "it does not describe a group of fotmem")
    return attributes


def _check_version(version: object, storage: Storage) -> None:
    if version == VERSION and isinstance(version, int):
        return
    newer = isinstance(version, int) and version > VERSION
    cure = "upgrade fotmem" if newer else "read the text again, into another directory"
    raise StorageError(
        f"{storage.name} has format version {version!r}, this fotmem knows {VERSION}; {cure}"
    )


def _require_empty(storage: Storage) -> None:
    """Raise `StorageError` if anything lies there but a store that was hardly begun."""
    others = [name for name in storage.names("") if name != LOCK and not name.endswith(PARTIAL)]
    if storage.read_only:
        found = ", ".join(others[:3]) or "nothing"
        raise StorageError(
            f"{storage.name} is not a zarr store of fotmem: it has no {ROOT}, but {found} (in a "
            f"zip file, {ROOT} must be at the root), and it {storage.read_only}"
        )
    if not all(_is_begun(storage, name) for name in others):
        raise StorageError(
            f"{storage.name} is not a zarr store of fotmem: it has no {ROOT}, but "
            f"{', '.join(others[:3])}; choose an empty directory or a store's own"
        )


def _is_begun(storage: Storage, name: str) -> bool:
    """Return whether this is a folder of a store whose writer was killed at its beginning."""
    return name in KINDS and all(
        each == ROOT or each.endswith(PARTIAL) for each in storage.names(name)
    )


def _damaged(key: str, storage: Storage, why: str) -> StorageError:
    return StorageError(f"{key} of {storage.name} is damaged ({why}); restore it from a copy")
