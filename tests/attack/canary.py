"""A foreign folder that no store may read or change."""

import os
import shutil
from pathlib import Path

from tests.attack.target import files_of


class Canary:
    """Lies beside a store, and looks like a part of it, so that following a link to it works."""

    def __init__(self, folder: Path, part: Path) -> None:
        self.folder = folder
        shutil.copytree(part, folder)
        for number in range(3):
            shutil.copytree(part, folder / f"{number:08d}")
        self._before: dict[str, bytes] = {}

    def set_out(self) -> None:
        """Note what it holds, and that nobody has read it yet."""
        self._before = self._content()
        for name in self._before:
            os.utime(self.folder / name, (0, 0))  # reading sets the first, where disks keep it

    def harm(self) -> str:
        """Say what was done to it; nothing if it was left alone."""
        read = [name for name in self._before if self._was_read(name)]
        if self._content() != self._before:
            return "a foreign folder was changed"
        return f"a foreign file was read: {', '.join(read[:3])}" if read else ""

    def _was_read(self, name: str) -> bool:
        file = self.folder / name
        return file.exists() and file.stat().st_atime > 0

    def _content(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in files_of(self.folder)}
