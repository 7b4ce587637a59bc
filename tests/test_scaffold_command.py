"""The command `fotmem plugin new`: names, libraries and folders."""

import shlex
from pathlib import Path

import pytest

from fotmem.errors import OptionError, StorageError
from fotmem.scaffold import LONGEST, Library, write_package
from tests.commands import call, refusal
from tests.test_scaffold import FILES, written


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


@pytest.mark.parametrize(
    "words, kind",
    [
        ([], "RowsStore"),
        (["--base", "rows"], "RowsStore"),
        (["--base", "graph"], "GraphStore"),
        (["--base", "index"], "IndexedStore"),
        (["--base", "store"], "MemoryStore"),
    ],
)
def test_the_command_takes_a_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], kind: str
) -> None:
    ended = call(capsys, "plugin", "new", "my-index", *words, "--path", tmp_path / "new")
    assert (ended.code, ended.err) == (0, "")
    text = (tmp_path / "new/fotmem_my_index/store.py").read_text("utf-8")
    assert f"class MyIndexStore({kind}):" in text


def test_the_command_writes_to_the_given_folder(
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
        ("exact", "there is already a store named 'exact', of plugin 'fotmem_exact'"),
        ("hnsw", "there is already a store named 'hnsw', of plugin 'fotmem_hnsw'"),
        ("faiss", "there is already a package named fotmem_faiss"),
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


@pytest.mark.parametrize(
    "library",
    ["", ":", "faiss-cpu:", ":faiss", "a b", "a:b c", "a:1b", "é", "a:é", "x" * 65],
)
def test_libraries_that_cannot_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    library: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal(capsys, 1, "plugin", "new", "my-index", "--library", library)
    if len(library) < 65:
        assert told.startswith("a library must be PACKAGE, or PACKAGE:MODULE")
        assert f"got {library!r}" in told
    else:
        assert "at most 64 letters" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "library, told",
    [
        ("usearch>=2", "without a version, got 'usearch>=2'; give usearch, and write the version"),
        ("a[b] == 1", "without a version, got 'a[b] == 1'; give a, and"),
        ("os", "must be a package from PyPI, got 'os', which comes with Python; leave it out"),
    ],
)
def test_what_is_wrong_with_a_library_is_said(library: str, told: str) -> None:
    with pytest.raises(OptionError) as raised:
        Library.parse(library)
    assert told in str(raised.value)


def test_a_module_that_was_guessed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "faiss-cpu is expected to be imported as faiss_cpu; if it is not, begin anew with"
    for library, guessed in (("faiss-cpu", True), ("faiss-cpu:faiss", False), ("usearch", False)):
        path = tmp_path / library
        ended = call(capsys, "plugin", "new", "my-index", "--library", library, "--path", path)
        assert (ended.code, told in ended.out) == (0, guessed)


def test_an_invalid_base_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal(capsys, 2, "plugin", "new", "my-index", "--base", "tree")
    assert "'--base': 'tree' is not one of 'rows', 'graph', 'index', 'store'" in told
    with pytest.raises(OptionError, match="one of rows, graph, index, store, got 'tree'"):
        write_package("my-index", tmp_path / "new", base="tree")  # type: ignore[arg-type]
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
