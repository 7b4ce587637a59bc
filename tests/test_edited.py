"""Reports and captures that were edited by a stranger: refused by name, or the same as before."""

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from rich.console import Console

from fotmem import FotmemError
from fotmem.errors import StorageError
from fotmem.measure.bench.page import write_page
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.bench.run import Bench, Plan
from fotmem.measure.bench.table import tables
from fotmem.measure.capture import Capture, capture_random
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.report import TaskReport
from fotmem.measure.grid import settings
from tests import test_curves
from tests.commands import call

TRIES = 60
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 1e308, -1e308, 5e-324, 10**30, float("nan"), float("inf")),
    *("", "x", "[/bold]", "9" * 10, [], {}, [1], {"a": 1}, [0, 0, 0], [1, 1, 1], [1e308] * 3),
]


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to everything in JSON."""
    pairs = content.items() if isinstance(content, dict) else ()
    for key, value in enumerate(content) if isinstance(content, list) else pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def edited(content: Any, seed: int) -> Any:
    """Change, remove or add something."""
    draw = random.Random(seed)
    content = copy.deepcopy(content)
    for _ in range(draw.choice([1, 1, 2])):
        *path, last = draw.choice(list(places(content)))
        part = content
        for key in path:
            part = part[key]
        kind = draw.random()
        if kind < 0.2:
            del part[last]
        elif kind < 0.3 and isinstance(part, dict):
            part[draw.choice(["more", "store", "layer"])] = draw.choice(VALUES)
        else:
            part[last] = copy.deepcopy(draw.choice(VALUES))
    return content


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("captures") / "capture"
    return capture_random(folder, tokens=1100, queries=4, num_heads=2, head_dim=4)


@pytest.fixture(scope="module")
def measured(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("report") / "report.json"
    plan = Plan(top_k=(1, 4), queries=4, rounds=2, threads=1)
    for _ in Bench(capture, settings(["exact", "zarr"]), [0], file, plan).run():
        pass
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def one_line(code: int, err: str) -> None:
    if code:
        [line] = err.splitlines()
        assert line.startswith("fotmem: ")


def test_reports_of_bench(measured: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(measured))
    refused = 0
    for seed in range(TRIES):
        after.write_text(json.dumps(edited(measured, seed)))
        ended = call(capsys, "bench", "compare", before, after)
        one_line(ended.code, ended.err)
        refused += ended.code
    assert TRIES / 2 < refused < TRIES


@pytest.mark.thorough
def test_reports_that_bench_continues(measured: dict[str, Any], tmp_path: Path) -> None:
    file, shown = tmp_path / "report.json", 0
    for seed in range(4 * TRIES):
        content = edited({name: measured[name] for name in ("rows", "growth", "failures")}, seed)
        file.write_text(json.dumps(measured | content))
        try:
            report = BenchReport.read(file)
        except FotmemError:
            continue
        shown += 1
        for table in tables(report):
            Console(quiet=True).print(table)
        write_page(report, tmp_path / "page.html")
    assert shown


@pytest.mark.thorough
def test_reports_of_eval(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "report.json"
    content = json.loads(test_curves.write(file, test_curves.LINE).read_text())
    refused = named = 0
    for seed in range(TRIES):
        file.write_text(json.dumps(edited(content, seed)))
        ended = call(capsys, "eval", "curve", file)
        one_line(ended.code, ended.err)
        refused += ended.code
        try:
            TaskReport(content["task"], content["options"], PasskeyRow, file)
        except FotmemError as error:
            named += str(file) in str(error)
        else:
            named += 1
    assert named == TRIES
    assert 0 < refused < TRIES


@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"a": NaN}', "{}", "[]", "null", "\0"])
@pytest.mark.parametrize("command", ["bench compare {0} {0}", "eval curve {0}"])
def test_other_files_are_refused(command: str, content: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    ended = call(capsys, *command.format(file).split())
    assert ended.code == 1
    one_line(ended.code, ended.err)
    assert str(file) in ended.err


# Captures


def contents(capture: Capture) -> list[torch.Tensor]:
    return [*capture.rows(0), capture.queries(0), capture.queries(0, 1024)]


@pytest.fixture
def copied(capture: Capture, tmp_path: Path) -> Path:
    return Path(shutil.copytree(capture.directory, tmp_path / "copied"))


def test_metadata_of_captures(capture: Capture, copied: Path) -> None:
    known = contents(capture)
    files = sorted(copied.rglob("zarr.json"))
    refused = same = 0
    for seed in range(2 * TRIES):
        file = files[seed % len(files)]
        before = file.read_text()
        file.write_text(json.dumps(edited(json.loads(before), seed)))
        try:
            found = contents(Capture.open(copied))
        except FotmemError as error:
            refused += str(copied) in str(error)
        else:
            assert all(map(torch.equal, found, known)), seed
            same += 1
        file.write_text(before)
    assert refused + same == 2 * TRIES
    assert min(refused, same) > TRIES / 4


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def as_link(folder: Path, place: str) -> None:
    outside = folder.parent / "outside"
    shutil.move(folder / place, outside)
    (folder / place).symlink_to(outside)


def as_huge(folder: Path) -> None:
    content = json.loads((folder / "zarr.json").read_text())
    content["attributes"] |= {"num_heads": 10**6, "head_dim": 10**6}
    (folder / "zarr.json").write_text(json.dumps(content))
    for name in ("keys", "values", "queries"):
        file = folder / "layers" / "00" / name / "zarr.json"
        shape = [10**6, 1100, 10**6] if name != "queries" else [2, 10**6, 4, 10**6]
        chunks = shape if name != "queries" else [1, *shape[1:]]
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
        change(file, shape=shape, chunk_grid=grid)


def with_pickle(folder: Path) -> None:
    codecs = [{"name": "numcodecs.pickle", "configuration": {"id": "pickle"}}]
    change(folder / "layers" / "00" / "keys" / "zarr.json", codecs=codecs)


def as_pipe(folder: Path) -> None:
    (folder / "layers" / "00" / "keys" / "zarr.json").unlink()
    os.mkfifo(folder / "layers" / "00" / "keys" / "zarr.json")


def too_long(folder: Path) -> None:
    with (folder / "zarr.json").open("a") as file:
        file.write(" " * 2**21)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "layers as a link": lambda folder: as_link(folder, "layers"),
    "keys as a link": lambda folder: as_link(folder, "layers/00/keys"),
    "a chunk as a link": lambda folder: as_link(folder, "layers/00/keys/c/0/0/0"),
    "a pipe": as_pipe,
    "huge": as_huge,
    "a codec that unpickles": with_pickle,
    "long metadata": too_long,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_captures(attack: str, copied: Path) -> None:
    ATTACKS[attack](copied)
    with pytest.raises(StorageError, match=r"(is damaged|is neither a file nor a folder).*anew"):
        contents(Capture.open(copied))


@pytest.mark.parametrize("place", ["layers", "layers/00", "layers/00/keys/c"])
def test_going_on_with_a_capture_writes_nothing_elsewhere(place: str, copied: Path) -> None:
    capture = Capture.open(copied)
    group = zarr.open_group(copied, mode="r+")
    group.attrs["written"] = {"parts": 0, "asked": 2}
    as_link(copied, place)
    outside = copied.parent / "outside"
    before = {file: file.stat().st_mtime_ns for file in outside.rglob("*")}
    with (
        pytest.raises(StorageError, match="is neither a file nor a folder"),
        Capture.writing(copied, capture.info),
    ):
        pass
    assert {file: file.stat().st_mtime_ns for file in outside.rglob("*")} == before
