"""`fotmem plugin new`: the package that it writes works, and a refusal leaves nothing behind."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fotmem.errors import OptionError, StorageError
from fotmem.scaffold import LONGEST, write_package
from tests import plugins
from tests.commands import ONE_THREAD, call, refusal
from tests.public_names import PUBLIC, names_used

FILES = [
    ".github/workflows/ci.yml",
    ".gitignore",
    "README.md",
    "fotmem_my_index/__init__.py",
    "fotmem_my_index/plugin.py",
    "fotmem_my_index/py.typed",
    "fotmem_my_index/store.py",
    "pyproject.toml",
    "tests/test_my_index.py",
]
NAMES = ["a", "my-index", "k2-tree-3", f"{'w' * 15}-{'m' * 16}"]


def written(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )


def run(folder: Path, *command: str, path: Path | None = None) -> None:
    """Run a tool as its author would in this folder, with the package installed from `path`."""
    packages = os.pathsep.join(map(str, [path, folder])) if path else ""
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": packages},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def install(folder: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    plugins.write_metadata(into, project)


def test_its_tests_pass_as_written(tmp_path: Path) -> None:
    """Its types are those of the template, which `make lint` checks."""
    folder, site = tmp_path / "package", tmp_path / "site"
    write_package("my-index", folder)
    install(folder, site)
    run(folder, "pytest", "-q", "-p", "no:cacheprovider", path=site)


@pytest.mark.parametrize("name", NAMES)
def test_its_style_is_right_for_names_of_any_length(tmp_path: Path, name: str) -> None:
    assert max(map(len, NAMES)) == LONGEST
    write_package(name, tmp_path / "package")
    run(tmp_path / "package", "ruff", "check", "--no-cache", ".")
    run(tmp_path / "package", "ruff", "format", "--no-cache", "--check", ".")


def test_it_is_complete_and_bears_its_name(tmp_path: Path) -> None:
    assert [path.as_posix() for path in write_package("my-index", tmp_path)] == FILES
    assert written(tmp_path) == FILES
    for file in FILES:
        text = (tmp_path / file).read_text("utf-8")
        assert "sample" not in text.lower(), file
    declared = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]
    assert declared["name"] == "fotmem-my-index"
    assert declared["entry-points"] == {"fotmem": {"fotmem_my_index": "fotmem_my_index.plugin"}}
    assert {"fotmem[testing]"} == set(declared["optional-dependencies"]["test"])
    assert "class MyIndexStore(" in (tmp_path / "fotmem_my_index/store.py").read_text("utf-8")
    assert 'name="my-index"' in (tmp_path / "fotmem_my_index/plugin.py").read_text("utf-8")


def test_it_uses_public_names_only(tmp_path: Path) -> None:
    write_package("my-index", tmp_path)
    used = {
        name for source in tmp_path.rglob("*.py") for name in names_used(source.read_text("utf-8"))
    }
    assert "stores.RowsStore" in used
    assert used <= PUBLIC


def test_the_command_says_what_it_wrote_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(capsys, "plugin", "new", "my-index")
    lines = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert lines[1:-1] == [f"  {file}" for file in FILES]
    assert lines[-1] == "next: cd fotmem-my-index && pip install -e '.[dev]' && pytest"
    assert written(tmp_path / "fotmem-my-index") == FILES


def test_the_command_writes_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "here and" / "there"
    ended = call(capsys, "plugin", "new", "my-index", "--path", folder)
    assert ended.code == 0
    assert f"cd {shlex.quote(str(folder))} &&" in ended.out
    assert written(folder) == FILES
    (tmp_path / "empty").mkdir()
    assert call(capsys, "plugin", "new", "my-index", "--path", tmp_path / "empty").code == 0
    assert written(tmp_path / "empty") == FILES


@pytest.mark.parametrize(
    "name, told",
    [
        ("My_Index", "got 'My_Index'; did you mean 'my-index'?"),
        ("fotmem index", "did you mean 'fotmem-index'?"),
        ("2nd", "the first beginning with a letter, got '2nd'; did you mean 'nd'?"),
        ("a--b", "did you mean 'a-b'?"),
        ("../up", "did you mean 'up'?"),
        ("a\n", "did you mean 'a'?"),
        ("", "got ''"),
        ("é", "got 'é'"),
        ("a" * (LONGEST + 1), "at most 32 letters, got 33"),
        ("exact", "there is a store named 'exact' already, of plugin 'fotmem_exact'"),
        ("hnsw", "there is a store named 'hnsw' already, of plugin 'fotmem_hnsw'"),
        ("faiss", "there is a package named fotmem_faiss already"),
    ],
)
def test_names_that_cannot_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError):
        write_package(name, tmp_path / "new")
    assert told in refusal(capsys, 1, "plugin", "new", name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").write_text("dear", "utf-8")
    told = refusal(capsys, 1, "plugin", "new", "my-index", "--path", tmp_path)
    assert told == f"{tmp_path} is not empty; choose another folder by --path"
    assert written(tmp_path) == ["letter.txt"]


def test_a_file_in_its_place_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear", "utf-8")
    for folder in (letter, letter / "below"):
        told = refusal(capsys, 1, "plugin", "new", "my-index", "--path", folder)
        assert told.startswith(f"cannot write {folder} (")
        assert letter.read_text("utf-8") == "dear"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["made", "with/parents", "empty"])
def test_what_fails_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    (tmp_path / "empty").mkdir()
    write_text = Path.write_text
    files: list[Path] = []

    def write(file: Path, *arguments: str, **options: str) -> int:
        if len(files) == 5:
            raise error
        files.append(file)
        return write_text(file, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write)
    kind = StorageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind) as raised:
        write_package("my-index", tmp_path / place)
    assert kind is KeyboardInterrupt or "No space left on device" in str(raised.value)
    assert len(files) == 5
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]
