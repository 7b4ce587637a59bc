"""A system call that fails, whichever: what a memory says, holds and leaves on the disk."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.directory import memory_directory
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.disk.storage import LOCK
from tests import tiny
from tests.faults import FAULTS, Fault
from tests.memory_rows import assert_equal_rows, names
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

BLOCK, MOST = 16, 60
EITHER = "either may be on the disk"


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Use small blocks, and do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", BLOCK)
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def model() -> Any:
    return tiny.llama()


def moments(call: str) -> Iterator[int]:
    """Yield the numbers of the calls that fail."""
    yield from range(1, MOST, 1 if call == "mkdir" else 7)


def calls(*fast: str) -> pytest.MarkDecorator:
    """Let each system call fail; only some of them in fast tests."""
    slow = pytest.mark.thorough
    params = [pytest.param(call, marks=[] if call in fast else slow) for call in FAULTS]
    return pytest.mark.parametrize("call", params)


def state(path: Path) -> tuple[Any, ...]:
    """Return what the last commit holds, as another process finds it."""
    manifest = MemoryDirectory.open(path).manifest
    return manifest.rows, manifest.documents


def assert_on_disk(memory: fotmem.Memory, path: Path) -> None:
    """Expect a directory to hold what a memory does, bit for bit."""
    text = memory.attached_model.contents.text
    assert state(path) == (len(text), tuple(text.documents))
    layers = {n: tiny.contents(store) for n, store in memory.stores.items()}
    assert_equal_rows(MemoryDirectory.open(path), (*text.rows(0, len(text)), layers))


def begun(model: Any, path: Path) -> fotmem.Memory:
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=4)
    memory.read(tiny.ids(40), document="a")
    memory.save(path)
    return memory


def read(memory: fotmem.Memory, number: int) -> None:
    memory.read(tiny.ids(23, seed=number), document=f"{number}")


def replace(memory: fotmem.Memory, number: int) -> None:
    memory.read(tiny.ids(19, seed=number), document="same")


def remove(memory: fotmem.Memory, number: int) -> None:
    memory.remove(f"{number}")


@calls("write", "fsync")
@pytest.mark.parametrize(
    "change", [read, pytest.param(replace, marks=pytest.mark.thorough), remove]
)
def test_a_change_that_fails_can_be_repeated(
    model: Any, tmp_path: Path, change: Callable[[fotmem.Memory, int], None], call: str
) -> None:
    """The directory is as of its last commit, or the message says that it may not be."""
    path = tmp_path / "memory"
    memory = begun(model, path)
    for at in moments(call):
        if change is remove:
            read(memory, at)
        before = state(path)
        fault = Fault(call, at)
        if error := fault.error_of(lambda: change(memory, at)):  # noqa: B023 - called at once
            assert str(path) in str(error), f"{call} {at}"
            assert ";" in str(error), f"{call} {at}"  # before the cure
            assert state(path) == before or EITHER in str(error), f"{call} {at}"
            assert model(tiny.ids(5)).logits.isfinite().all()
            change(memory, at)
        assert_on_disk(memory, path)
        if not fault.came:
            break
    memory.close()
    again = fotmem.open_memory(path, model, writable=True)
    kept = again.attached_model.contents.directory
    assert kept is not None
    assert names(path) == {*kept.files(), LOCK}
    again.close()


@calls("write")
def test_a_memory_that_cannot_be_saved_leaves_nothing_and_can_be_saved_again(
    model: Any, tmp_path: Path, call: str
) -> None:
    memory = begun(model, tmp_path / "memory")
    for at in moments(call):
        path, fault = tmp_path / f"{at}" / "copy", Fault(call, at)
        if error := fault.error_of(lambda: memory.save(path)):  # noqa: B023
            assert str(path.parent) in str(error), f"{call} {at}"
            memory.save(path)
        assert_on_disk(memory, path)
        if not fault.came:
            break
    memory.close()


@calls("write")
def test_a_repair_that_fails_leaves_the_directory_as_it_was(
    model: Any, tmp_path: Path, call: str
) -> None:
    original = tmp_path / "original"
    memory = begun(model, original)
    read(memory, 1)
    memory.close()
    file = next(original.glob("layers/01/*/keys/c.0.0.0"))
    file.write_bytes(b"x" + file.read_bytes()[1:])
    for at in moments(call):
        path, fault = Path(shutil.copytree(original, tmp_path / f"{at}")), Fault(call, at)
        before = verify(path)
        if error := fault.error_of(lambda: repair(path)):  # noqa: B023
            assert str(path) in str(error), f"{call} {at}"
            assert verify(path) == before or EITHER in str(error), f"{call} {at}"
            repair(path)
        assert verify(path).damages == ()
        removed = {each.first for each in state(path)[1] if each.is_removed}
        assert removed == {each.first for each in before.lost}
        if not fault.came:
            break


def opened(path: Path, model: Any) -> fotmem.Memory:
    return fotmem.open_memory(path, model, "hnsw", writable=True)


@calls("write")
def test_a_memory_that_cannot_be_opened_or_closed_is_as_it_was(
    model: Any, tmp_path: Path, call: str
) -> None:
    """With an index, which is written when it is opened, and when it is closed."""
    pytest.importorskip("hnswlib")
    original = tmp_path / "original"
    begun(model, original).close()
    for at in moments(call):
        path, fault = Path(shutil.copytree(original, tmp_path / f"{at}")), Fault(call, at)
        before = state(path)
        error = fault.error_of(lambda: opened(path, model).close())  # noqa: B023
        assert error is None or str(path) in str(error), f"{call} {at}"
        assert state(path) == before
        memory = opened(path, model)
        assert torch.equal(memory.tokens, tiny.ids(40)[0])
        memory.close()
        if not fault.came:
            break
