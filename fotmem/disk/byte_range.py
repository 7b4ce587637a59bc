"""Bytes of one file."""

from typing import IO, NamedTuple


class ByteRange(NamedTuple):
    """Bytes of one file; `stop` None: to its end."""

    key: str
    start: int = 0
    stop: int | None = None

    def read(self, file: IO[bytes], size: int) -> bytes:
        """Read them from a file of `size` bytes, as far as it goes."""
        left = (size if self.stop is None else min(self.stop, size)) - self.start
        if left <= 0:
            return b""
        file.seek(self.start)
        data = file.read(left) or b""
        while len(data) < left and (more := file.read(left - len(data))):
            data += more
        return data
