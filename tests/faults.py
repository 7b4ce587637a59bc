"""System calls that fail: each in turn, at its first, second, ... call."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any
from unittest.mock import patch

from fotmem.disk import file_tree
from fotmem.errors import StorageError

FAULTS = {
    "write": errno.ENOSPC,
    "short write": errno.ENOSPC,
    "fsync": errno.EIO,
    "replace": errno.EIO,
    "mkdir": errno.ENOSPC,
    "unlink": errno.EIO,
    "rmdir": errno.EACCES,
    "open": errno.EMFILE,
    "close": errno.EIO,
    "stat": errno.EIO,
    "fstat": errno.EIO,
    "listdir": errno.EACCES,
}
"""Calls, and the error of each."""


class Fault:
    """The `at`-th call of a function of the system fails, such as ``fsync``."""

    def __init__(self, call: str, at: int) -> None:
        self.call, self.at = call, at
        self.calls = 0
        """How often it was called."""

    @property
    def came(self) -> bool:
        """Whether a call has failed."""
        return self.calls >= self.at

    def count(self) -> None:
        """Fail if it is time to."""
        self.calls += 1
        if self.calls == self.at:
            raise OSError(FAULTS[self.call], os.strerror(FAULTS[self.call]))

    def error_of(self, work: Callable[[], object]) -> StorageError | None:
        """Fail in a piece of work; return the error that it raises, if any."""
        try:
            with self.begun():
                work()
        except StorageError as error:
            return error
        return None

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Fail in this block."""
        if "write" in self.call:
            with patch.object(file_tree, "FileIO", self._failing_file()):
                yield
            return
        plain = getattr(os, self.call)

        def call(*arguments: Any, **named: Any) -> Any:
            self.count()
            return plain(*arguments, **named)

        with patch.object(os, self.call, call), _as_able(plain, call):
            yield

    def _failing_file(self) -> type[FileIO]:
        fault = self

        class Failing(FileIO):
            def write(self, data: Any) -> int:
                if fault.call == "short write" and fault.calls == fault.at - 2:
                    fault.count()
                    return super().write(data[: len(data) // 2])
                fault.count()
                return super().write(data)

        return Failing


@contextmanager
def _as_able(plain: Any, call: Any) -> Iterator[None]:
    """Let Python take a function for one with the abilities of another (``os.supports_dir_fd``)."""
    sets = [each for each in (os.supports_dir_fd, os.supports_fd) if plain in each]
    for each in sets:
        each.add(call)
    try:
        yield
    finally:
        for each in sets:
            each.discard(call)
