"""Faults of persistent stores."""

import json
import pickle
import zlib
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError

from fotmem.errors import OptionError, StorageError
from fotmem.stores import MemoryStore
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
        if self.file is not None:
            self.write(self.file)
        super().close()


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
    def copy_rows(self) -> MemoryStore:
        twin = super().copy_rows()
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


WRONG_AFTER = "the store must raise StorageError, or still hold all keys"


@caught_by("damaged_files", PERSISTENT, message=rf"was altered .* {WRONG_AFTER}: .* as stored")
class DamageIsNotNoticed(DiskStore):
    def checked(self, file: Path) -> bytes:
        try:
            return super().checked(file)
        except StorageError:
            if not file.exists() or file.stat().st_size < 4_000:
                raise
            return file.read_bytes()[4:]

    def read(self, file: Path) -> None:
        try:
            super().read(file)
        except SafetensorError as error:
            raise StorageError(f"{file} is damaged") from error


@caught_by("damaged_files", PERSISTENT, message=rf"store\.bin was removed, {WRONG_AFTER}: next_id")
class NoFileIsAnEmptyStore(DiskStore):
    def read(self, file: Path) -> None:
        if file.exists():
            super().read(file)


@caught_by("damaged_files", PERSISTENT, message=rf"{WRONG_AFTER}: next_id must be 60, got 0")
class DamageIsAnEmptyStore(DiskStore):
    def read(self, file: Path) -> None:
        with suppress(StorageError):
            super().read(file)


@caught_by("damaged_files", PERSISTENT, message="FileNotFoundError: ")
class ErrorsAreRaw(DiskStore):
    def checked(self, file: Path) -> bytes:
        return file.read_bytes()[4:]


@caught_by(
    "torn_directories", PERSISTENT, message="must raise StorageError, or still hold all keys"
)
class TwoFilesThatMustAgree(DiskStore):
    """Keeps ids in a second file; each file has its checksum."""

    def write(self, file: Path) -> None:
        super().write(file)
        content = json.dumps([self._offset, self._added, self._forgotten]).encode()
        other = file.with_name("ids.json")
        other.write_bytes(zlib.crc32(content).to_bytes(4) + content)

    def read(self, file: Path) -> None:
        super().read(file)
        self.resume_at(*json.loads(self.checked(file.with_name("ids.json"))))


UNPICKLES = "everybody who can write there can run any code"


@caught_by("nothing_is_unpickled", PERSISTENT, message=rf"unpickles its files .*{UNPICKLES}")
class UnpicklesWhatIsChecked(DiskStore):
    """Anyone can compute the checksum of a pickle."""

    def write(self, file: Path) -> None:
        super().write(file)
        content = file.read_bytes()[4:]
        wrapped = pickle.dumps({"content": content})
        file.write_bytes(zlib.crc32(wrapped).to_bytes(4) + wrapped)

    def checked(self, file: Path) -> bytes:
        content: bytes = pickle.loads(super().checked(file))["content"]
        return content


@caught_by("nothing_is_unpickled", PERSISTENT, message="opening a directory unpickles")
class LoadsWithTorch(DiskStore):
    def write(self, file: Path) -> None:
        super().write(file)
        torch.save({"size": self.size}, file.with_name("size.pt"))

    def read(self, file: Path) -> None:
        super().read(file)
        torch.load(file.with_name("size.pt"), weights_only=False)


@caught_by("nothing_is_unpickled", PERSISTENT, message="unpickles a pickle in place of size.npy")
class LoadsWithNumpy(DiskStore):
    """Unpickles arrays of objects only."""

    def write(self, file: Path) -> None:
        super().write(file)
        np.save(file.with_name("size.npy"), np.array(self.size))

    def read(self, file: Path) -> None:
        super().read(file)
        np.load(file.with_name("size.npy"), allow_pickle=True)


SECOND = "a directory that another store has open must be refused by FotmemError, but was accepted"


@caught_by("a_second_store_in_the_same_directory", PERSISTENT, message=SECOND)
class AnyoneMayWrite(DiskStore):
    def open(self, directory: Path) -> None:
        super().open(directory)
        assert self.lock is not None
        self.lock.release()


@caught_by(
    "a_second_process_in_the_same_directory",
    PERSISTENT,
    message="another process could open a directory that a store has open: lock it",
)
class LocksOutThisProcessOnly(DiskStore):
    opened: ClassVar[set[Path]] = set()

    def open(self, directory: Path) -> None:
        if directory in self.opened:
            raise StorageError(f"{directory} is in use")
        super().open(directory)
        assert self.lock is not None
        self.lock.release()
        self.opened.add(directory)

    def close(self) -> None:
        super().close()
        if self.file is not None:
            self.opened.discard(self.file.parent)
