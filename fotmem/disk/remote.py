"""Object stores, through zarr's own stores."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, ObjectStore

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.storage import Data, Storage
from fotmem.errors import MissingPackageError, StorageError


class RemoteStorage(Storage):
    """Files of a zarr store. The files of one call are read at the same time."""

    def __init__(self, store: Store, name: str) -> None:
        read_only = "is read-only; open a copy that can be written to" if store.read_only else ""
        super().__init__(name, read_only=read_only, durable=True, local=False)
        self._zarr = store

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        async def together() -> list[Any]:
            await self._zarr._ensure_open()
            return await asyncio.gather(*map(self._get, ranges))

        cure = "is the URL right, and is the storage reachable?"
        return self._wait(together(), "read", ranges[0].key if ranges else "", cure)  # type: ignore[no-any-return]

    async def _get(self, part: ByteRange) -> bytes | None:
        request: ByteRequest
        if part.stop is None:
            request = OffsetByteRequest(part.start)
        else:
            request = RangeByteRequest(part.start, part.stop)
        found = await self._zarr.get(part.key, default_buffer_prototype(), request)
        return None if found is None else found.to_bytes()

    def write(self, key: str, data: Data, *, synced: bool = False) -> None:
        buffer = default_buffer_prototype().buffer.from_bytes(
            data if isinstance(data, bytes) else b"".join(data)
        )
        cure = "nothing was lost: try again when the storage can be written to"
        self._wait(self._zarr.set(key, buffer), "write", key, cure)

    def remove(self, path: str) -> None:
        self._wait(self._zarr.delete_dir(path), "remove", path, "remove it yourself")

    def names(self, path: str) -> list[str]:
        async def listed() -> list[str]:
            await self._zarr._ensure_open()
            return sorted({name async for name in self._zarr.list_dir(path)})

        return self._wait(listed(), "list", path, "is the URL right?")  # type: ignore[no-any-return]

    def close(self, *, unused: bool = False) -> None:
        self._zarr.close()

    def _wait(self, doing: Coroutine[Any, Any, Any], verb: str, key: str, cure: str) -> Any:
        try:
            return sync(doing)
        except Exception as error:  # each kind of storage has its own
            raise self.failure(verb, key, error, cure) from error


def remote_storage(url: str) -> Storage:
    """Open a URL by fsspec, or by obstore where fsspec cannot."""
    try:
        return RemoteStorage(FsspecStore.from_url(url), url)
    except (ImportError, ValueError) as error:
        try:
            from obstore.store import from_url

            return RemoteStorage(ObjectStore(from_url(url)), url)
        except ImportError:
            raise MissingPackageError(
                "zarr", f"{url} needs a package: {error}; or pip install obstore"
            ) from error
        except Exception as unknown:  # obstore's own
            raise StorageError(f"{url} cannot be opened: {unknown}") from unknown
