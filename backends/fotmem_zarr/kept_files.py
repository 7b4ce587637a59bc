"""Files of an index that was kept: parts of one file, which are read when they are needed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fotmem.disk import ByteRange, Storage, UnreachableError, UnreadBytes, read_parts
from fotmem.errors import StorageError

Bytes = NDArray[np.uint8]


class KeptFiles(Storage):
    """Files that are arrays of bytes, or unread parts of a file. They are only read.

    Parameters
    ----------
    files : mapping of str to ndarray or UnreadBytes
        By key.
    """

    def __init__(self, files: Mapping[str, Bytes | UnreadBytes]) -> None:
        super().__init__(
            "the index that was kept", read_only="is only read", durable=True, local=True
        )
        self.cure = "remove the folder indexes of the memory, and open it again: it is built anew"
        self.files = files

    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(ranges)
        unread = list[tuple[int, tuple[UnreadBytes, int, int]]]()
        for place, (key, start, stop) in enumerate(ranges):
            file = self.files.get(key)
            if isinstance(file, UnreadBytes):
                unread.append((place, (file, start, file.size if stop is None else stop)))
            elif file is not None:
                found[place] = file[start:stop].tobytes()
        for (place, _), data in zip(unread, _read([part for _, part in unread]), strict=True):
            found[place] = data
        return found

    def names(self, path: str) -> list[str]:
        below = f"{path}/"
        keys = [key.removeprefix(below) for key in self.files if key.startswith(below)]
        return sorted({key.partition("/")[0] for key in keys})

    def whole(self, key: str) -> Bytes | None:
        """Return a file; None: there is none."""
        file = self.files.get(key)
        return np.frombuffer(file.read(), np.uint8) if isinstance(file, UnreadBytes) else file

    def refuse(self, problem: str) -> None:
        """Report damage, so that the file is not used again."""
        unread = [file for file in self.files.values() if isinstance(file, UnreadBytes)]
        if unread:
            unread[0].refuse(problem.removesuffix(f"; {self.cure}"))


def _read(parts: Sequence[tuple[UnreadBytes, int, int]]) -> list[bytes | None]:
    """Read parts of files; None where that is impossible, such as on a broken disk."""
    try:
        return read_parts(parts)
    except UnreachableError:
        raise
    except StorageError:
        return [None] * len(parts)
