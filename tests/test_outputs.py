"""What cannot be written is refused before anything is computed; what fails leaves nothing."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fotmem.errors import InputError, StorageError
from fotmem.measure.capture import capture_arrays, capture_random
from fotmem.outputs import check_file, check_folder, filling, write_bytes
from tests.commands import call, refusal

NOWHERE = {
    "folder": "it is a folder",
    "file/below": "Not a directory",
    "/proc/report": "No such file or directory",
    "/sys/report": "",
    "loop": "Symlink loop",
    "x" * 300: "File name too long",
    "null\0byte": "null",
    "read": "it is an input",
    "folder/../read": "it is an input",
}
NO_FOLDER = {
    "file": "it is not a folder",
    "dangling": "it is not a folder",
    "loop": "it is not a folder",
    "file/below": "Not a directory",
    "/proc/report": "No such file or directory",
    "x" * 300: "File name too long",
    "null\0byte": "null",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for name in ("file", "read"):
        (tmp_path / name).write_text("text")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    return tmp_path


def content(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


@pytest.mark.parametrize("name", NOWHERE)
def test_a_file_that_cannot_be_written(name: str, place: Path) -> None:
    before = content(place)
    with pytest.raises(StorageError, match=f"cannot write .*{NOWHERE[name]}.*name another file"):
        check_file(place / name, inputs=[None, place / "read"])
    assert content(place) == before


@pytest.mark.parametrize("name", NO_FOLDER)
def test_a_folder_that_cannot_be_written_to(name: str, place: Path) -> None:
    before = content(place)
    with pytest.raises(StorageError, match=f"cannot write .*{NO_FOLDER[name]}.*another folder"):
        check_folder(place / name)
    assert content(place) == before


def test_checking_an_output_neither_creates_nor_changes_it(place: Path) -> None:
    before = content(place)
    for name in ("file", "new", "new/er/report.json", "dangling", "/dev/null", "x" * 255):
        check_file(place / name, inputs=[place / "read", place / "nothing"])
    for name in ("folder", "new", "new/er", "full", "."):
        check_folder(place / name)
    check_folder(place / "folder", empty=True)
    with pytest.raises(StorageError, match="it is not empty"):
        check_folder(place / "full", empty=True)
    with pytest.raises(StorageError, match="it is an input"):
        check_folder(place / "folder", inputs=[place / "full/../folder"])
    assert content(place) == before
    assert (place / "file").read_text() == "text"


def test_a_file_that_may_not_be_opened(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(StorageError, match="Read-only file system"):
        check_file(place / "new")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(StorageError, match="Read-only file system"):
        check_file(place / "file")


def test_a_file_is_written_whole_or_not_at_all(place: Path) -> None:
    before = content(place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .* \(File too large\)"):
            write_bytes(place / "file", b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(place) == before
    assert (place / "file").read_text() == "text"


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["new", "new/er", "folder"])
def test_a_folder_that_could_not_be_filled_is_as_it_was(
    name: str, error: BaseException, place: Path
) -> None:
    before = content(place)

    def fill() -> None:
        with filling(place / name):
            (place / name / "part").mkdir()
            (place / name / "part" / "file").write_text("half")
            (place / name / "link").symlink_to(place / "full")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert content(place) == before


# Every command

FILES = [
    "eval passkey any --report",
    "eval facts any --report",
    "eval ruler any --report",
    "eval questions any --text read --questions asked --report",
    "eval perplexity any --report",
    "eval dictionary any --report",
    "eval distraction any --report",
    "eval passkey any --stores exact --report",
    "eval curve read --png",
    "select any --tokens 1M --text read --out",
]
FOLDERS = [
    "capture any --out",
    "capture-random --out",
    "capture-arrays --keys keys.npy --queries keys.npy --out",
    "train any --data read --output",
    "train-dictionary --output",
    "bench capture --stores exact --out",
]


@pytest.fixture
def commands(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.save(place / "keys.npy", np.ones((3000, 4), dtype=np.float32))
    capture_random(place / "capture", tokens=2, queries=1, num_heads=1, head_dim=1)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("name", ["folder", "file/below", "/proc/report"])
@pytest.mark.parametrize("command", FILES)
def test_a_report_that_cannot_be_written_is_refused_first(
    command: str, name: str, commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model, which is not there, is not asked for."""
    before = content(commands)
    line = refusal(capsys, 1, *command.split(), name)
    assert line.startswith(f"cannot write {name} (")
    assert content(commands) == before


@pytest.mark.parametrize("command", [c for c in FILES if c.endswith("--report")])
def test_a_report_replaces_nothing_but_reports(
    command: str, commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 1, *command.split(), "file")
    assert line.startswith("file is not a report of fotmem eval: ")
    assert (commands / "file").read_text() == "text"


@pytest.mark.parametrize("command", [c for c in FILES if "read" in c])
def test_an_input_is_not_overwritten(
    command: str, commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "it is an input" in refusal(capsys, 1, *command.split(), "read")
    assert (commands / "read").read_text() == "text"


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/report", "full"])
@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_cannot_be_written_to_is_refused_first(
    command: str, name: str, commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "full" and command.startswith("bench"):
        return  # a report goes beside whatever is there
    before = content(commands)
    line = refusal(capsys, 1, *command.split(), name)
    assert name in line
    assert "any" not in line.split()
    assert content(commands) == before


@pytest.mark.parametrize("name", ["report.json", "report.png", "report.html"])
def test_a_folder_where_bench_would_write_is_refused_first(
    name: str, commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (commands / "out" / name).mkdir(parents=True)
    line = refusal(capsys, 1, "bench", "capture", "--stores", "exact", "--out", "out")
    assert line == f"cannot write out/{name} (it is a folder); name another file"
    assert "it is an input" in refusal(capsys, 1, "bench", "capture", "--out", "capture")


# Captures


@pytest.mark.parametrize("name", ["new", "new/er", "folder"])
def test_arrays_that_turn_out_bad_leave_nothing(name: str, place: Path) -> None:
    before = content(place)
    keys = np.ones((20_000, 4), dtype=np.float32)
    keys[-1] = np.nan  # in the last of three parts
    with pytest.raises(InputError, match="keys must be finite"):
        capture_arrays(place / name, keys, np.ones((3, 4)))
    assert content(place) == before


def random(folder: Path) -> None:
    capture_random(folder, tokens=20_000, queries=2, num_heads=1, head_dim=4)


def of_arrays(folder: Path) -> None:
    capture_arrays(folder, np.ones((20_000, 4)), np.ones((3, 4)))


@pytest.mark.parametrize("make", [random, of_arrays])
def test_a_full_disk_leaves_nothing(make: Callable[[Path], None], place: Path) -> None:
    before = content(place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*\(File too large\); make room"):
            make(place / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(place) == before


TOO_MANY = """
import os, resource, sys
from fotmem.measure.capture import capture_random, Capture
from fotmem.errors import StorageError

place = sys.argv[1]
capture_random(place + "/whole", tokens=2, queries=1, num_heads=1, head_dim=1)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/", os.O_RDONLY))
except OSError:
    pass
for left in range(12):
    for what in (lambda: capture_random(f"{place}/new{left}", tokens=2, num_heads=1, head_dim=1),
                 lambda: Capture.open(place + "/whole")):
        try:
            what()
        except StorageError as error:
            assert "Too many open files" in str(error), error
    os.close(held.pop())
for number in held:
    os.close(number)
for left in range(12):
    if os.path.exists(f"{place}/new{left}"):
        Capture.open(f"{place}/new{left}")
"""


def test_too_many_open_files_are_named_and_leave_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TOO_MANY, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def test_standard_output_that_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "fotmem", "stores"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "fotmem: No space left on device\n")


def test_a_new_plugin_in_a_place_that_cannot_be_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("file", "file/below", "/proc/new"):
        ended = call(capsys, "plugin", "new", "mine", "--path", place / name)
        assert ended.code == 1
        assert "cannot write" in ended.err
