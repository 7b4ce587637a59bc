"""Objects below a URL of object storage, reached through obstore."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.joined_ranges import LARGEST
from fotmem.disk.remote_errors import is_beyond_end, is_no_object, problem_of
from fotmem.disk.storage import UnreachableError
from fotmem.errors import StorageError

PROCESS = os.getpid()
"""The process that has opened a URL first."""
RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
"""Then a request is given up. By default, obstore waits 5 s to connect, and 30 s for an answer."""
Version = dict[str, str]
"""What tells an object from those that it replaced: ``e_tag``, and perhaps ``version``."""


class ObjectPart(NamedTuple):
    """The beginning of a part of an object."""

    data: bytes = b""
    size: int = 0
    """Of the whole object."""
    version: Version | None = None


class Objects:
    """Reads and writes objects by key; errors name what the server answered.

    Credentials, endpoint and region are taken from environment variables, as obstore does.

    Parameters
    ----------
    url : str

    Raises
    ------
    StorageError
        It is no URL of object storage. No request is sent yet.
    """

    def __init__(self, url: str) -> None:
        import obstore
        from obstore import exceptions, store

        self.url = url
        self.require_own_process()
        self._api: Any = obstore
        self._is_http = url.startswith("http")
        self._errors = (exceptions.BaseError, OSError)
        self._conditions = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
        options: Any = {"client_options": {"allow_http": True}} if url.startswith("http:") else {}
        try:
            self._store: Any = store.from_url(url, retry_config=RETRIES, **options)
        except (exceptions.BaseError, ValueError) as error:
            reason, cure = problem_of(error)
            raise StorageError(f"{url} cannot be opened: {reason}; {cure}") from error

    def require_own_process(self) -> None:
        """Raise `StorageError` in a fork of a process that has opened a URL.

        There it would wait for ever: the threads that take answers do not survive a fork.
        """
        if os.getpid() != PROCESS:
            raise StorageError(
                f"{self.url} cannot be reached in a forked process, because its parent has reached "
                'object storage; start processes by "spawn" '
                '(multiprocessing.set_start_method("spawn"))'
            )

    def get(self, part: ByteRange, version: Version | None = None) -> ObjectPart | None:
        """Read the beginning of a part, at most ``LARGEST`` bytes; None if there is no object.

        Raises
        ------
        UnreachableError
            The server does not answer, refuses, or has another `version` of the object now.
        """
        options: Any = {"range": _asked(part)}
        if version:
            options["if_match"] = version["e_tag"]
        try:
            got = self._api.get(self._store, part.key, options=options)
            return ObjectPart(got.bytes().to_bytes(), got.meta["size"], _version(got.meta))
        except self._errors as error:
            if is_no_object(error):
                return None
            if is_beyond_end(error):
                return ObjectPart()
            raise self._failed("read", part.key, error) from error

    def put(self, key: str, data: bytes, mode: Any = "overwrite") -> Version | None:
        """Write an object; None if the condition of `mode` does not hold.

        Parameters
        ----------
        key : str
        data : bytes
        mode : {"overwrite", "create"} or Version
            A version: only in place of this one.
        """
        with self._doing("write", key):
            try:
                put = self._api.put(self._store, key, data, mode=mode, use_multipart=False)
            except self._conditions:
                return None
        return _version(put)

    def names(self, path: str) -> list[str]:
        """List what lies directly below a path; nothing over HTTP, which has no way to."""
        if self._is_http:
            return []
        with self._doing("list", path):
            found = self._api.list_with_delimiter(self._store, path or None)
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted(each.rpartition("/")[2] for each in paths)

    def delete(self, path: str) -> None:
        """Remove an object, or all below a path."""
        with self._doing("remove", path):
            below = [each["path"] for some in self._api.list(self._store, path) for each in some]
            self._api.delete(self._store, below or [path])

    @contextmanager
    def _doing(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise self._failed(doing, key, error) from error

    def _failed(self, doing: str, key: str, error: BaseException) -> UnreachableError:
        reason, cure = problem_of(error)
        what = f"{key} of {self.url}" if key else self.url
        return UnreachableError(f"cannot {doing} {what}: {reason}; {cure}")


def _version(facts: Any) -> Version:
    return {name: facts[name] for name in ("e_tag", "version") if facts[name] is not None}


def _asked(part: ByteRange) -> Any:
    """Describe a part for obstore; a long one only to its first bytes, none as one byte."""
    if part.stop is None:
        return {"offset": part.start}
    return part.start, part.start + min(max(part.stop - part.start, 1), LARGEST)
