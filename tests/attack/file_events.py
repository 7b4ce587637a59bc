"""Calls a function before a file is opened, made, renamed, listed or removed."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir"}

Happening = Callable[[str, str], None]
"""Gets the event (``open``, ``write``, ``os.rename``, ...) and the path."""


@contextmanager
def at_files(happening: Happening) -> Iterator[None]:
    """Call `happening` before each event of a file: an audit hook, and `os.fsync`."""
    global _hooked  # noqa: PLW0603 - hooks stay for as long as the process lives
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    fsync = os.fsync

    def audited(handle: int) -> None:
        if _happenings:
            _tell("os.fsync", os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    _happenings.append(happening)
    try:
        with patch("os.fsync", audited):
            yield
    finally:
        _happenings.remove(happening)


_hooked = False
_happenings: list[Happening] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _happenings or event not in EVENTS:
        return
    path = arguments[0]
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        event = "write"
    if isinstance(path, bytes | os.PathLike):
        path = os.fsdecode(path)
    if isinstance(path, str):
        _tell(event, path)


def _tell(event: str, path: str) -> None:
    happenings = list(_happenings)
    _happenings.clear()  # their own events do not count
    try:
        for happening in happenings:
            happening(event, path)
    finally:
        _happenings[:] = happenings


def below(path: str, directory: object) -> bool:
    """Whether a path is a directory or in it; a path relative to an open folder always is."""
    return not os.path.isabs(path) or f"{path}/".startswith(f"{directory}/")
