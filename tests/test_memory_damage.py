"""Random damage of a memory's directory: reported, or provably without effect."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem.directory import memory_directory
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from fotmem.stores import indexed_store
from tests import tiny
from tests.memory_rows import names
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

pytest.importorskip("hnswlib")
FEW, MANY = 25, 1000
PAGE = 512


class Original(NamedTuple):
    """A memory, an earlier commit of it, another memory, and what the first two hold."""

    memory: Path
    earlier: Path
    other: Path
    rows: dict[int, tuple[Tensor, Tensor]]
    rows_earlier: int


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", 64)
        patch.setattr(indexed_store, "EXACT_BELOW", 32)
        patch.setattr(os, "fsync", lambda handle: None)  # nobody waits for the disk
        memory = written(folder / "memory", 0)
        memory.close()
        shutil.copytree(folder / "memory", folder / "earlier")
        memory = fotmem.open_memory(folder / "memory", tiny.llama(), "hnsw", writable=True)
        memory.read(tiny.ids(60, seed=3), document="c")
        memory.close()
        written(folder / "other", 5).close()
        rows = contents(memory)
        yield Original(folder / "memory", folder / "earlier", folder / "other", rows, 140)


def written(path: Path, seed: int) -> fotmem.Memory:
    memory = fotmem.attach(tiny.llama(), "hnsw", LAYERS, window=WINDOW, top_k=4)
    memory.read(tiny.ids(100, seed=seed), document="a")
    memory.save(path)
    memory.read(tiny.ids(40, seed=seed + 1), document="b")
    return memory


def contents(memory: fotmem.Memory) -> dict[int, tuple[Tensor, Tensor]]:
    return {layer: tiny.contents(store) for layer, store in memory.stores.items()}


# The damages: each changes a directory, and returns the files that it has damaged


def flip(path: Path, name: str, random: Random) -> None:
    data = bytearray((path / name).read_bytes())
    for _ in range(random.choice((1, 1, 1, 5))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    (path / name).write_bytes(data)


def cut(path: Path, name: str, random: Random) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: random.randrange(len(data))])


def grow(path: Path, name: str, random: Random) -> None:
    with (path / name).open("ab") as file:
        file.write(random.randbytes(random.choice((1, 9, 4096))))


def zero(path: Path, name: str, random: Random) -> None:
    data = (path / name).read_bytes()
    at = random.randrange(len(data)) // PAGE * PAGE
    (path / name).write_bytes(data[:at] + bytes(len(data[at : at + PAGE])) + data[at + PAGE :])


def delete(path: Path, name: str, random: Random) -> None:
    (path / name).unlink()


def replace_by_folder(path: Path, name: str, random: Random) -> None:
    (path / name).unlink()
    (path / name).mkdir()


ONE: list[Callable[[Path, str, Random], None]] = [flip, cut, grow, zero, delete, replace_by_folder]


def swap_files(path: Path, original: Original, random: Random) -> list[str]:
    one = random.choice(changeable(path))
    alike = [name for name in changeable(path) if Path(name).name == Path(one).name != one]
    other = random.choice(alike or changeable(path))
    first, second = (path / one).read_bytes(), (path / other).read_bytes()
    (path / one).write_bytes(second)
    (path / other).write_bytes(first)
    return [] if first == second else [one, other]


def swap_chunks(path: Path, original: Original, random: Random) -> list[str]:
    name = random.choice([name for name in names(path) if "/c.0.0.0" in name])
    data = (path / name).read_bytes()
    size = len(data) // 5
    swapped = data[size : 2 * size] + data[:size] + data[2 * size :]
    (path / name).write_bytes(swapped)
    return [] if swapped == data else [name]


def take(source: Path, path: Path, random: Random) -> list[str]:
    shared = sorted(names(path) & names(source) - {".lock"})
    name = random.choice(shared)
    data, before = (source / name).read_bytes(), (path / name).read_bytes()
    (path / name).write_bytes(data)
    return [] if data == before else [name]


def take_from_other(path: Path, original: Original, random: Random) -> list[str]:
    return take(original.other, path, random)


def take_earlier(path: Path, original: Original, random: Random) -> list[str]:
    files = take(original.earlier, path, random)
    return [name for name in files if not name.startswith("indexes/")]  # it knows fewer tokens


def take_index_from_other(path: Path, original: Original, random: Random) -> list[str]:
    """It is whole, and of another memory."""
    name = f"indexes/hnsw/{random.choice(LAYERS):02}"
    shutil.copy(original.other / name, path / name)
    return [name]


def swap_indexes(path: Path, original: Original, random: Random) -> list[str]:
    one, other = (path / f"indexes/hnsw/{layer:02}" for layer in LAYERS)
    aside = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(aside)
    return ["indexes/hnsw/01", "indexes/hnsw/03"]


def take_earlier_manifest(path: Path, original: Original, random: Random) -> list[str]:
    shutil.copy(original.earlier / "zarr.json", path / "zarr.json")
    return ["zarr.json"]


def take_earlier_group(path: Path, original: Original, random: Random) -> list[str]:
    groups = sorted(path.glob("layers/*/0*"))
    group, source = (
        random.choice(groups),
        random.choice(
            sorted([*original.earlier.glob("layers/*/0*"), *original.other.glob("layers/*/0*")])
        ),
    )
    before = {name: (group / name).read_bytes() for name in names(group)}
    shutil.rmtree(group)
    shutil.copytree(source, group)
    after = {name: (group / name).read_bytes() for name in names(group)}
    return [] if after == before else [group.relative_to(path).as_posix()]


def add_stranger(path: Path, original: Original, random: Random) -> list[str]:
    folders = ["", *sorted({Path(name).parent.as_posix() for name in names(path)})]
    (path / random.choice(folders) / "letter.txt").write_text("dear")
    (path / ".lock").write_bytes(random.randbytes(20))
    return []


SEVERAL = [
    *(swap_files, swap_chunks, take_from_other, take_earlier),
    *(take_earlier_manifest, take_earlier_group, add_stranger),
    *(take_index_from_other, swap_indexes),
]


def changeable(path: Path) -> list[str]:
    return sorted(names(path) - {".lock"})


def damaged(path: Path, original: Original, random: Random) -> tuple[str, list[str]]:
    """Damage a directory; say how, and which files must be named."""
    if random.random() < 0.3:
        how = random.choice(SEVERAL)
        return how.__name__, how(path, original, random)
    change, name = random.choice(ONE), random.choice(changeable(path))
    before = (path / name).read_bytes()
    change(path, name, random)
    file = path / name
    if change is delete and name.startswith("indexes/"):
        return f"{change.__name__} {name}", []  # as if it had never been there
    same = file.is_file() and meaning(file.read_bytes(), name) == meaning(before, name)
    return f"{change.__name__} {name}", [] if same else [name]


def meaning(data: bytes, name: str) -> Any:
    """Return what a file says; in JSON, spaces and line ends say nothing."""
    if not name.endswith(".json"):
        return data
    try:
        return json.loads(data)
    except ValueError:
        return data


@pytest.mark.parametrize("number", [FEW, pytest.param(MANY, marks=pytest.mark.thorough)])
def test_damage_is_reported_or_without_effect(
    original: Original, tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    faults = list[str]()
    for seed in range(number):
        path = Path(shutil.copytree(original.memory, tmp_path / "memory"))
        how, files = damaged(path, original, Random(seed))
        listed = problems(path)
        caplog.clear()
        error = refusal(path, original)
        if fault := judged(how, files, listed, error, caplog.text):
            faults.append(f"{seed}: {how}: {fault}; listed {listed}; refused: {error}")
        shutil.rmtree(path)
    assert not faults


def problems(path: Path) -> list[str]:
    """Return what `verify` lists, or why there is nothing to verify."""
    try:
        return [each.problem for each in verify(path).damages]
    except StorageError as error:  # the manifest is of another program, or of a newer version
        return [str(error)]


def judged(
    how: str, files: list[str], listed: list[str], error: StorageError | None, log: str
) -> str:
    """Say what is wrong about the reports of damage; empty: nothing is."""
    if error is not None and not listed:
        return "refused, but not listed"
    rebuilt = [name for name in files if name.startswith("indexes/")]
    if error is None and rebuilt and "is built anew" not in log:
        return "an index is built again without a warning"
    if how == "take_earlier_manifest":  # it may be whole with all its files
        return ""
    if bool(files) != bool(listed):
        return "not listed" if files else "listed, but without effect"
    if files and not any(name in problem for name in files for problem in listed):
        return "its file is not named"
    return ""


def refusal(path: Path, original: Original) -> StorageError | None:
    """Open a memory, and read all of it; return the error that this raises, or expect all right."""
    try:
        with fotmem.open_memory(path, tiny.llama(), "hnsw") as memory:
            held = contents(memory)
            memory.close()
    except StorageError as error:
        return error
    rows = len(memory)
    assert rows in (200, original.rows_earlier)  # an earlier manifest was put back
    for layer, pair in held.items():
        for mine, right in zip(pair, original.rows[layer], strict=True):
            assert torch.equal(mine, right[:, :rows])
    return None
