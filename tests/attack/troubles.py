"""Troubles of a system: no room, no more open files, a broken or read-only disk."""

import ctypes
import errno
import functools
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.attack.file_events import at_files, below

WRITING = {"write", "os.mkdir", "os.fsync"}
CHANGING = WRITING | {"os.rename", "os.remove", "os.rmdir"}
OPENING = {"open", "write", "os.listdir", "os.scandir"}
CODES = {
    "ENOSPC": WRITING,
    "EDQUOT": WRITING,
    "EIO": CHANGING | OPENING,
    "EMFILE": OPENING,
    "EROFS": CHANGING,
    "EACCES": CHANGING,
}
"""Events that fail with each error."""


class Trouble(NamedTuple):
    """From some event on, all events of a kind fail; or a limit of the system is reached."""

    code: str
    after: int
    """Events that still succeed; for a limit: how much is left."""
    real: bool = False
    """Whether the system itself fails; otherwise the error is simulated."""

    @property
    def readable(self) -> bool:
        """Whether all files can still be read."""
        return self.code not in ("EIO", "EMFILE")

    @property
    def reason(self) -> str:
        """The system's message."""
        return os.strerror(getattr(errno, self.code))

    def __str__(self) -> str:
        """Describe it."""
        return f"{'real ' * self.real}{self.code} after {self.after}"

    @contextmanager
    def begun(self, directory: Path) -> Iterator[None]:
        """Begin the trouble, and end it."""
        how = {"EMFILE": _few_files, "EFBIG": _small_files, "ENOSPC": _small_disk}
        with how[self.code](self.after, directory) if self.real else self._simulated(directory):
            yield

    @contextmanager
    def _simulated(self, directory: Path) -> Iterator[None]:
        left, failing = self.after, CODES[self.code]

        def fail(event: str, path: str) -> None:
            nonlocal left
            if event in failing and below(path, directory):
                left -= 1
                if left < 0:
                    code = getattr(errno, self.code)
                    raise OSError(code, os.strerror(code), path)

        with at_files(fail):
            yield


def draw(random: Random, events: int, *, disk: bool) -> Trouble:
    """Draw a trouble after at most `events` events; `disk`: whether the store has its own disk."""
    if random.random() < 0.3:
        limits = [("EMFILE", 4), ("EFBIG", 3000), ("ENOSPC", 60_000)]
        code, most = random.choice(limits if disk else limits[:2])
        return Trouble(code, random.randrange(most), real=True)
    return Trouble(random.choice(list(CODES)), int(events ** random.random()) - 1)


@contextmanager
def _few_files(more: int, directory: Path) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    handles = [int(name) for name in os.listdir("/proc/self/fd")]
    free = [number for number in range(max(handles) + 10) if number not in handles]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[more], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _small_files(size: int, directory: Path) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _small_disk(left: int, directory: Path) -> Iterator[None]:
    """Fill the disk of a directory, which must be its own (`own_disk`)."""
    filler = directory.parent / "filler"
    free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    with filler.open("wb") as file:
        file.write(bytes(max(0, free - left)))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk at a folder, if the system allows it; yield whether it does."""
    folder.mkdir()
    mounted = _mounts_are_ours() and _done("mount", "-t", "tmpfs", "-o", "size=8m", "-", folder)
    try:
        yield mounted
    finally:
        if mounted:
            _done("umount", "--lazy", folder)


@functools.cache
def _mounts_are_ours() -> bool:
    """Make the mounts of this process end with it; return whether that is possible."""
    new_namespace = 0x20000  # CLONE_NEWNS
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    return (
        unshare is not None
        and not unshare(new_namespace)
        and _done("mount", "--make-rprivate", "/")
    )


def _done(*command: object) -> bool:
    return not subprocess.run([*map(str, command)], capture_output=True, check=False).returncode
