"""Counts what is read from a storage."""

import threading


class Traffic:
    """Requests and bytes since a storage was opened. Several threads may count at a time."""

    def __init__(self) -> None:
        self.requests = 0
        """Reads of a file's part; in object storage, requests sent, without repeated ones."""
        self.bytes_read = 0
        self._lock = threading.Lock()

    def add(self, requests: int, size: int) -> None:
        """Count requests that brought `size` bytes in all."""
        with self._lock:
            self.requests += requests
            self.bytes_read += size
