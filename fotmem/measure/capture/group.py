"""The zarr group of a capture: opened, checked and locked, with errors that name the cure."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from fotmem.errors import StorageError
from fotmem.measure.capture.info import CaptureInfo

VERSION = 1
LOCK = ".lock"
LONGEST = 2**20
"""Most bytes of metadata."""
_CURES = dict.fromkeys((errno.EMFILE, errno.ENFILE), "; close some, or raise the limit (ulimit -n)")
ANEW = "delete the folder and capture anew"


class CaptureProgress(BaseModel):
    """How much is written."""

    parts: int = Field(ge=0)
    asked: int = Field(ge=0)


def attributes_of(facts: dict[str, Any], **written: int) -> dict[str, Any]:
    """Return the attributes of a group."""
    return {"fotmem_capture": VERSION, **facts, "written": written}


def check_plain(directory: Path) -> None:
    """Refuse links, pipes and other special files, and metadata that is too long.

    Raises
    ------
    StorageError
    """
    for folder, folders, files in os.walk(directory, onerror=_raise):
        for name in (*folders, *files):
            place = Path(folder, name)
            found = place.lstat()
            if not (stat.S_ISREG if name in files else stat.S_ISDIR)(found.st_mode):
                raise StorageError(f"{place} is neither a file nor a folder: {ANEW}")
            if name == "zarr.json" and found.st_size > LONGEST:
                raise StorageError(f"{place} is damaged ({found.st_size:,} bytes): {ANEW}")


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise damaged(Path(error.filename), error) from error


def open_group(directory: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open the group of a capture; damage is a `StorageError`."""
    try:
        return zarr.open_group(directory, mode=mode, use_consolidated=False)
    except FileNotFoundError:
        raise StorageError(
            f"there is no capture at {directory}: make one with fotmem capture"
        ) from None
    except Exception as error:  # damaged files raise all kinds of exceptions
        raise damaged(directory / "zarr.json", error) from error


def stored_as(array: Any) -> tuple[str, bool, tuple[str, ...]]:
    """Return the separator in names of chunks, whether the fill value is NaN, and the codecs."""
    metadata = array.metadata
    codecs = tuple(codec.to_dict()["name"] for codec in metadata.codecs)
    return metadata.chunk_key_encoding.separator, bool(np.isnan(metadata.fill_value)), codecs


def damaged(place: Path, error: Exception) -> StorageError:
    """Return the error about a file: it is damaged, or the system cannot read it."""
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.ENOTDIR):
        return StorageError(f"cannot read {place} ({error.strerror}){_CURES.get(error.errno, '')}")
    return StorageError(f"{place} is damaged ({error}): {ANEW}")


def read_attributes(
    directory: Path, attributes: dict[str, Any]
) -> tuple[CaptureInfo, CaptureProgress]:
    """Check the attributes of a group."""
    version = attributes.pop("fotmem_capture", None)
    if version != VERSION:
        raise StorageError(
            f"{directory} is a zarr group, but not a capture of version {VERSION} that this "
            f"fotmem reads ({f'its version is {version}' if version else 'it has no version'}): "
            "name a folder that fotmem capture wrote"
        )
    try:
        written = CaptureProgress.model_validate(attributes.pop("written", None))
        return CaptureInfo.model_validate_json(json.dumps(attributes)), written
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise damaged(directory / "zarr.json", error) from error
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StorageError(f"{directory / 'zarr.json'} is damaged ({reason}): {ANEW}") from error


def content(directory: Path) -> set[str]:
    """Name the files in a folder, if it exists, without the lock."""
    return {each.name for each in directory.iterdir()} - {LOCK} if directory.is_dir() else set()


class CaptureBusyError(StorageError):
    """Another process writes to the folder."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a folder; another process that has it locked is a `CaptureBusyError`."""
    try:
        with FileLock(directory / LOCK, timeout=0):
            yield
    except Timeout:
        raise CaptureBusyError(f"{directory} is being captured by another process") from None


@contextmanager
def named_problems(directory: Path) -> Iterator[None]:
    """Turn an error of the system into a `StorageError` with the cure."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        cure = _CURES.get(error.errno or 0, "; make room there, or name another folder")
        raise StorageError(f"cannot write {directory} ({error.strerror or error}){cure}") from error


def difference(found: CaptureInfo, wanted: CaptureInfo) -> str:
    """Describe the first difference."""
    for here, there in ((dict(found), dict(wanted)), (found.source, wanted.source)):
        for name in {**here, **there}:
            if name != "source" and here.get(name) != there.get(name):
                return f"{name} is {here.get(name)}, not {there.get(name)}"
    raise AssertionError("both are the same")
