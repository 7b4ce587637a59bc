"""Object storage (S3, Google Cloud, Azure, plain HTTP), reached by URL through obstore."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.joined_ranges import LARGEST, cut_out, joined
from fotmem.disk.remote_errors import is_beyond_end, is_no_object, problem_of
from fotmem.disk.storage import Data, Storage
from fotmem.errors import StorageError, require_packages

AT_ONCE = 32
"""Requests that are under way at the same time."""
RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
"""Then a request is given up. By default, obstore waits 5 s to connect, and 30 s for an answer."""
SCHEMES = ("s3", "gs", "az", "http", "https")


class _Found(NamedTuple):
    data: bytes = b""
    size: int = 0
    """Of the whole object."""
    tag: str | None = None
    """The object's version."""


class RemoteStorage(Storage):
    """Objects below a URL. Parts that lie near one another are read at once, others together.

    Parameters
    ----------
    url : str
        For messages.
    store : obstore store
        Of this URL.
    read_only : str
        Why nothing can be written, and the cure; empty if writing is possible.
    """

    def __init__(self, url: str, store: Any, *, read_only: str) -> None:
        super().__init__(url, read_only=read_only, durable=True, local=False)
        self._store = store
        self._threads = ThreadPoolExecutor(AT_ONCE, "fotmem-storage")

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        requests, numbers = joined(ranges)
        found = super().read(requests)
        return [
            cut_out(part, requests[n], found[n]) for part, n in zip(ranges, numbers, strict=True)
        ]

    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        self._require_own()
        firsts = list(self._threads.map(self._get, ranges))
        rests = [_rest(part, first) for part, first in zip(ranges, firsts, strict=True)]
        more = [each for rest in rests for each in rest]
        self.traffic.add(len(more), 0)
        tags = [first.tag for first, rest in zip(firsts, rests, strict=True) if first for _ in rest]
        parts = iter(list(self._threads.map(self._get, more, tags)))
        return [
            first and b"".join([first.data, *((next(parts) or _Found()).data for _ in rest)])
            for first, rest in zip(firsts, rests, strict=True)
        ]

    def _get(self, part: ByteRange, tag: str | None = None) -> _Found | None:
        """Read the beginning of a part; `tag`: only if the object is still of this version."""
        import obstore
        from obstore.exceptions import BaseError

        options: Any = {"range": _asked(part), **({"if_match": tag} if tag else {})}
        try:
            got = obstore.get(self._store, part.key, options=options)
            return _Found(bytes(got.bytes()), got.meta["size"], got.meta["e_tag"])
        except (BaseError, OSError) as error:
            if is_no_object(error):
                return None
            if is_beyond_end(error):
                return _Found()
            raise self._failed("read", part.key, error) from error

    def names(self, path: str) -> list[str]:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import HTTPStore

        self._require_own()
        if isinstance(self._store, HTTPStore):
            return []  # plain HTTP lists nothing
        self.traffic.add(1, 0)
        try:
            found = obstore.list_with_delimiter(self._store, path or None)
        except (BaseError, OSError) as error:
            raise self._failed("list", path, error) from error
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted(each.rpartition("/")[2] for each in paths)

    def write(self, key: str, data: Data, *, synced: bool = False) -> None:
        import obstore
        from obstore.exceptions import BaseError

        self._require_own()
        try:
            obstore.put(self._store, key, data if isinstance(data, bytes) else b"".join(data))
        except (BaseError, OSError) as error:
            raise self._failed("write", key, error) from error

    def remove(self, path: str) -> None:
        import obstore
        from obstore.exceptions import BaseError

        self._require_own()
        try:
            below = [each["path"] for some in obstore.list(self._store, path) for each in some]
            obstore.delete(self._store, below or [path])
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise self._failed("remove", path, error) from error

    def close(self, *, unused: bool = False) -> None:
        if not self.inherited:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _require_own(self) -> None:
        if self.inherited:  # threads do not survive a fork
            raise StorageError(
                f"{self.name} belongs to the process that opened it; open it again in this one"
            )

    def _failed(self, doing: str, key: str, error: BaseException) -> StorageError:
        reason, cure = problem_of(error)
        return self.failure(doing, key, OSError(0, reason), cure)


def _asked(part: ByteRange) -> Any:
    """Describe a part for obstore; a long one only to its first bytes, none as one byte."""
    if part.stop is None:
        return {"offset": part.start}
    return part.start, part.start + min(max(part.stop - part.start, 1), LARGEST)


def _rest(part: ByteRange, first: _Found | None) -> list[ByteRange]:
    """List what is left to ask for of a long part."""
    if first is None or part.stop is None:
        return []
    stop = min(part.stop, first.size)
    starts = range(part.start + LARGEST, stop, LARGEST)
    return [ByteRange(part.key, start, min(start + LARGEST, stop)) for start in starts]


def remote_storage(url: str, *, writable: bool) -> Storage:
    """Open a URL.

    Credentials, endpoint and region are taken from environment variables, as obstore does.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise StorageError(
            f"{url} cannot be opened: expected a URL of {', '.join(SCHEMES)}, got {scheme}"
        )
    require_packages(url, "obstore", extra="object-store")
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    read_only = "" if writable else "was opened for reading; open it for writing"
    if scheme.startswith("http"):
        read_only = "can only be read over HTTP; open it by a URL of s3, gs or az"
    options: Any = {"client_options": {"allow_http": True}} if scheme == "http" else {}
    try:
        store = from_url(url, retry_config=RETRIES, **options)
        return RemoteStorage(url, store, read_only=read_only)
    except (BaseError, ValueError) as error:
        reason, cure = problem_of(error)
        raise StorageError(f"{url} cannot be opened: {reason}; {cure}") from error
