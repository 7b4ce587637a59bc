"""The ``zarr.json`` of a group, as fotmem writes it."""

import json
from types import NoneType
from typing import Any

from fotmem.disk.storage import Storage
from fotmem.errors import StorageError

LARGEST = 2**26
"""Most bytes of a manifest."""
CURE = "restore it from a copy"


class DamagedFileError(StorageError):
    """A manifest, or the ``zarr.json`` of a folder, is not as it was written."""


def group_attributes(data: bytes, key: str, storage: Storage) -> dict[str, Any] | None:
    """Parse the ``zarr.json`` of a group; return fotmem's attributes."""
    if len(data) >= LARGEST:
        raise damaged(key, storage, "it is too large")
    try:
        root = json.loads(data)
        attributes = root["attributes"].get("fotmem")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise damaged(key, storage, "it does not describe a zarr group") from error
    expected = {"zarr_format": 3, "node_type": "group", "attributes": root["attributes"]}
    if root != expected or not isinstance(attributes, (dict, NoneType)):
        raise damaged(key, storage, "it does not describe a group of fotmem")
    return attributes


def damaged(key: str, storage: Storage, why: str) -> DamagedFileError:
    """Build the error for a file that is not as it was written."""
    return DamagedFileError(f"{key} of {storage.name} is damaged ({why}); {CURE}")
