"""The file that holds a manifest: the ``zarr.json`` of the root group."""

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import google_crc32c
from pydantic import ValidationError

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.group_description import (
    LARGEST,
    DamagedFileError,
    damaged,
    group_attributes,
)
from fotmem.disk.log_entries import Number, Strict
from fotmem.disk.storage import LOCK, NO_FILE, PARTIAL, Storage
from fotmem.disk.zarr_metadata import group_json
from fotmem.errors import StorageError

ROOT = "zarr.json"


class GroupManifest(Strict, ABC):
    """What a directory holds. Facts that cannot be true raise `ValidationError`."""

    next_name: Number = 0
    """The next group gets this number as its name."""

    @abstractmethod
    def folders(self) -> tuple[str, ...]:
        """Return the folders that groups lie in, and those above."""

    @abstractmethod
    def paths(self) -> set[str]:
        """Return the paths of the groups that it names."""


M = TypeVar("M", bound=GroupManifest)


class ManifestFile(NamedTuple, Generic[M]):
    """A manifest and the id of its directory."""

    manifest: M
    directory_id: str
    """Drawn at random when the directory was begun; also in the first folder's ``zarr.json``."""


@dataclass(frozen=True)
class ManifestFormat(Generic[M]):
    """Reads and writes manifests of one kind."""

    name: str
    """In every file, such as ``fotmem zarr store``."""
    version: int
    kind: type[M]
    title: str
    """What the directory is, for messages, such as ``a zarr store of fotmem``."""
    own_folders: re.Pattern[str]
    """The folders that it makes."""
    id_folder: str
    """The folder whose ``zarr.json`` has the id of the directory."""
    noun: str
    """What the directory holds, such as ``store``."""

    def begin(self, storage: Storage, manifest: M) -> ManifestFile[M]:
        """Write an empty directory."""
        identity = secrets.token_hex(16)
        try:
            for folder in manifest.folders():
                if folder != self.id_folder:
                    storage.write(f"{folder}/{ROOT}", group_json())
            key = f"{self.id_folder}/{ROOT}"
            if not storage.create(key, group_json(**{self.noun: identity})):
                [data] = storage.read([ByteRange(key, 0, LARGEST)])
                identity = self._identity(data, storage)  # of a writer that may have been killed
            file = ManifestFile(manifest, identity)
            self.write(storage, file)
        except BaseException:
            with suppress(StorageError):
                # The manifest first: without it, the rest is a directory that was hardly begun.
                for path in () if storage.shared else (ROOT, *manifest.folders()):
                    storage.remove(path)
            raise
        return file

    def write(self, storage: Storage, file: ManifestFile[M]) -> None:
        """Replace the manifest, after all that it names has become durable."""
        storage.sync()
        content = file.manifest.model_dump(mode="json")
        checksum = checksum_of(content, file.directory_id)
        data = group_json(format=self.name, version=self.version, crc32c=checksum, **content)
        if len(data) >= LARGEST:
            raise StorageError(
                f"the manifest of {storage.name} would have {len(data):,} bytes, and only "
                f"{LARGEST - 1:,} can be read again; use a {self.noun} for each part"
            )
        storage.replace(ROOT, data)
        storage.sync("as it was before, or as it is now: either may be on the disk")

    def read(self, storage: Storage) -> ManifestFile[M] | None:
        """Read the manifest; None if nothing has been written yet.

        Raises
        ------
        StorageError
            Something else lies there, another version of fotmem wrote it, or the file is damaged or
            states what cannot be true.
        """
        file = self.read_alone(storage)
        if file is not None:
            self.check_folders(file.manifest.folders(), storage)
        return file

    def read_alone(self, storage: Storage) -> ManifestFile[M] | None:
        """Read the manifest as `read` does, whatever the ``zarr.json`` of other folders say."""
        keys = (ROOT, f"{self.id_folder}/{ROOT}")
        data, first = self._read(keys, storage)
        if data is None:
            self._require_empty(storage)
            return None
        attributes = group_attributes(data, ROOT, storage)
        if attributes is None or attributes.get("format") != self.name:
            raise StorageError(
                f"{storage.name} holds other zarr data than {self.title}, as its {ROOT} says; "
                "choose another directory"
            )
        self._check_version(attributes.get("version"), storage)
        identity = self._identity(first, storage)
        return ManifestFile(self._manifest(attributes, identity, storage), identity)

    def _identity(self, data: bytes | None, storage: Storage) -> str:
        """Take the id of the directory from the ``zarr.json`` of its first folder."""
        key = f"{self.id_folder}/{ROOT}"
        identity = (group_attributes(data or b"", key, storage) or {}).get(self.noun)
        if not isinstance(identity, str) or len(identity) != 32:
            raise damaged(key, storage, f"it names no {self.noun}")
        return identity

    def _read(self, keys: Sequence[str], storage: Storage) -> list[bytes | None]:
        try:
            return storage.read([ByteRange(key, 0, LARGEST) for key in keys])
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) in NO_FILE:
                raise DamagedFileError(str(error)) from error
            raise

    def load(self, storage: Storage, *, alone: bool = False) -> ManifestFile[M]:
        """Read the manifest of a directory that exists; `alone`: as `read_alone` does.

        Raises
        ------
        StorageError
            There is none, or it cannot be read.
        """
        file = self.read_alone(storage) if alone else self.read(storage)
        if file is None:
            raise StorageError(f"there is no {self.noun} in {storage.name}; is the path right?")
        return file

    def _manifest(self, attributes: dict[str, Any], identity: str, storage: Storage) -> M:
        """Check what the file states, and make a manifest of it."""
        content = {
            key: value
            for key, value in attributes.items()
            if key not in ("format", "version", "crc32c")
        }
        try:
            if attributes.get("crc32c") != checksum_of(content, identity):
                # It covers the id, too, which stands in the other file.
                where = f"{ROOT} or {self.id_folder}/{ROOT}"
                raise damaged(where, storage, "their checksum differs")
            return self.kind.model_validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            why = f"{where}: {first['msg']}" if where else first["msg"]
            raise damaged(ROOT, storage, why.removeprefix("Value error, ")) from error

    def check_folders(
        self, folders: Sequence[str], storage: Storage, *, needed: bool = False
    ) -> None:
        """Raise `StorageError` if the ``zarr.json`` of a folder was put there from elsewhere.

        `needed`: also if it is missing, which only other programs notice.
        """
        keys = [f"{name}/{ROOT}" for name in folders if name != self.id_folder]
        found = storage.read([ByteRange(key, 0, LARGEST) for key in keys])
        for key, data in zip(keys, found, strict=True):
            if data is not None and group_attributes(data, key, storage) is not None:
                raise damaged(key, storage, "it belongs elsewhere")
            if data is None and needed:
                raise damaged(key, storage, "it is missing")

    def _check_version(self, version: object, storage: Storage) -> None:
        if version == self.version and isinstance(version, int):
            return
        newer = isinstance(version, int) and version > self.version
        cure = "upgrade fotmem" if newer else "read the text again, into another directory"
        raise StorageError(
            f"{storage.name} has format version {version!r} in {ROOT}, this fotmem knows "
            f"{self.version}; {cure}"
        )

    def _require_empty(self, storage: Storage) -> None:
        """Raise `StorageError` if anything lies there but a directory that was hardly begun."""
        others = [name for name in storage.names("") if name != LOCK and not name.endswith(PARTIAL)]
        if self.id_folder in others and any(map(_is_number, storage.names(self.id_folder))):
            raise damaged(ROOT, storage, "it is missing")
        if storage.read_only:
            found = ", ".join(others[:3]) or "nothing"
            raise StorageError(
                f"{storage.name} is not {self.title}: it has no {ROOT}, but {found} (in a "
                f"zip file, {ROOT} must be at the root); is the path right?"
            )
        if not all(self._is_begun(storage, name) for name in others):
            raise StorageError(
                f"{storage.name} is not {self.title}: it has no {ROOT}, but "
                f"{', '.join(others[:3])}; choose an empty directory or a {self.noun}'s own"
            )

    def _is_begun(self, storage: Storage, name: str) -> bool:
        """Return whether this is a folder whose writer was killed at its beginning."""
        return bool(self.own_folders.fullmatch(name)) and all(
            each == ROOT or each.endswith(PARTIAL) or self._is_begun(storage, f"{name}/{each}")
            for each in storage.names(name)
        )


def checksum_of(content: dict[str, Any], identity: str) -> int:
    """Compute the crc32c of a manifest's content and the id of its directory."""
    text = identity + json.dumps(content, sort_keys=True)
    return int(google_crc32c.value(text.encode()))


def _is_number(name: str) -> bool:
    return len(name) >= 8 and name.isdigit()  # as groups are named
