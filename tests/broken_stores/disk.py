"""Stores of which what is on disk is wrong."""

from pathlib import Path

import torch

from fotmem import MemoryStore
from fotmem.errors import OptionError
from tests.broken_stores.registry import PERSISTENT, OnPurposeError, caught_by
from tests.plain_stores import DiskStore


@caught_by("reopening", PERSISTENT)
class LosesTheLastKey(DiskStore):
    def read(self, file: Path) -> None:
        super().read(file)
        if self.size:
            self.rows[:, :, self.size - 1] = 0


@caught_by("reopening", PERSISTENT)
class ForgottenKeysComeBack(DiskStore):
    def read(self, file: Path) -> None:
        super().read(file)
        self._forgotten = 0


@caught_by("reopening", PERSISTENT)
class IdsStartAgainOnReopening(DiskStore):
    def read(self, file: Path) -> None:
        super().read(file)
        self._offset = 0


@caught_by("reopening", PERSISTENT)
class NothingIsThereAgain(DiskStore):
    def read(self, file: Path) -> None:
        pass


@caught_by("flushing_without_closing", PERSISTENT)
class WritesOnlyWhenClosed(DiskStore):
    def flush(self) -> None:
        pass

    def close(self) -> None:
        super().flush()


@caught_by("opening_as_another_layer", PERSISTENT)
class OpensAsAnyLayer(DiskStore):
    def read(self, file: Path) -> None:
        try:
            super().read(file)
        except OptionError:
            self.size = 0


@caught_by("opening_as_another_layer", PERSISTENT)
class ConvertsSilently(DiskStore):
    def read(self, file: Path) -> None:
        dtype, self.dtype = self.dtype, torch.float32
        try:
            super().read(file)
        finally:
            self.dtype = dtype
        self.rows = self.rows.to(dtype)


@caught_by("directories_are_apart", PERSISTENT)
class CopyWritesIntoTheDirectory(DiskStore):
    def _copy(self) -> MemoryStore:
        twin = super()._copy()
        assert isinstance(twin, DiskStore)
        twin.file = self.file
        return twin


@caught_by("an_empty_directory", PERSISTENT)
class CannotOpenNothing(DiskStore):
    def read(self, file: Path) -> None:
        super().read(file)
        if not self.size:
            raise OnPurposeError("the directory is empty")


@caught_by("flushing_often", PERSISTENT)
class FlushingTwiceWritesTwice(DiskStore):
    flushed = 0

    def flush(self) -> None:
        if self.flushed == self.size > 60:
            self.rows[:, :, 0] = 0
        self.flushed = self.size
        super().flush()
