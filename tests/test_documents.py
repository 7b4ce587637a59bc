"""Documents of any usual kind: texts, lines, folders and datasets."""

import json
import os
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from fotmem.documents import Document, load_documents
from fotmem.documents import lines as lines_module
from fotmem.errors import InputError


def load(source: Path | str, **options: Any) -> list[tuple[str, str]]:
    return [(document.name, document.text) for document in load_documents(source, **options)]


def refusal(source: Path | str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(load_documents(source, **options))
    return str(caught.value)


def lines(*items: Any) -> str:
    return "".join(f"{json.dumps(item)}\n" for item in items)


def test_a_document_has_a_name_and_a_hash() -> None:
    document = Document("a.txt", "é\n")
    assert document.sha256 == sha256("é\n".encode()).hexdigest()
    assert document == Document("a.txt", "é\n") != Document("a.txt", "e")
    with pytest.raises(AttributeError):
        document.text = "other"
    with pytest.raises(InputError, match=r"^a\.txt: character 1 is half of a surrogate pair"):
        Document("a.txt", "a\ud800")


@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "a.md", "a.py", "README"])
def test_text_and_markdown_stay_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes("\ufeff# Title\r\n\r\n*One* `two`\n\n\n".encode())
    assert load(name) == [(name, "# Title\n\n*One* `two`\n\n\n")]
    assert load(tmp_path / name)[0][0] == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.md", b" \n", "is empty"),
        ("binary.txt", b"a\0b", "is binary, not text"),
        ("late.txt", b"a" * 2**21 + b"\0", "is binary, not text"),
        ("latin.txt", "é".encode("latin-1"), r"is not UTF-8 text \(byte 0\); convert it first"),
        ("missing.txt", None, "cannot be read: No such file"),
        ("null\0byte.txt", None, "cannot be read: embedded null byte"),
        ("empty.jsonl", b"\n \n", "is empty"),
        ("mark.jsonl", b"\xef\xbb\xbf\n", "is empty"),
        ("binary.jsonl", b"\0", "line 1: expected an object such as"),
        ("latin.jsonl", b'\n{"text": "\xe9"}', r"line 2 is not UTF-8 text \(byte 10\)"),
        ("missing.jsonl", None, "cannot be read: No such file"),
        ("deep.jsonl", b"[" * 10**6, "line 1: expected an object such as"),
        ("half.jsonl", b'\n\n{"text": "\\ud800"}', "half.jsonl#3: character 0 is half of"),
        ("other.jsonl", b'{"words": "a"}', 'line 1: expected an object such as {"text": "..."}'),
        ("null.jsonl", b'{"text": "a"}\n{"text": null}', "line 2: text must be a string, got None"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        list(load_documents(path))
    assert str(path) in str(caught.value)


def test_a_device_is_refused_and_a_pipe_is_read(tmp_path: Path) -> None:
    assert "is binary" in refusal("/dev/zero")
    assert "is not UTF-8" in refusal("/dev/urandom")
    assert "is empty" in refusal(os.devnull)
    end, other = os.pipe()
    os.write(other, b"A captain.")
    os.close(other)
    assert load(f"/dev/fd/{end}") == [(f"/dev/fd/{end}", "A captain.")]
    os.close(end)


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 2**21)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + lines({"text": "a" * 100}))
    for module in ("files", "documents.lines"):
        monkeypatch.setattr(f"fotmem.{module}.LARGEST_TEXT", 2**21)
    load(tmp_path / "a.txt")
    monkeypatch.setattr("fotmem.files.LARGEST_TEXT", 2**21 - 1)
    assert "a.txt is larger than 2,097,151 bytes: split it" in refusal(tmp_path / "a.txt")
    monkeypatch.setattr(lines_module, "LARGEST_TEXT", 99)
    assert "a.jsonl, line 2 is larger than 99 bytes: split it" in refusal(tmp_path / "a.jsonl")


# Lines


def test_lines_are_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n{"text": "two\\u2028"}\n{"text": ""}')
    assert load(path) == [(f"{path}#1", "one"), (f"{path}#3", "two\u2028"), (f"{path}#4", "")]


def test_another_field(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text(lines({"body": "one", "text": "two"}))
    assert load(path, field="body") == [(f"{path}#1", "one")]
    assert '{"title": "..."}' in refusal(path, field="title")


def test_lines_are_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"text": "a" * 1000}) * 20_000)
    tracemalloc.start()
    assert sum(len(document.text) for document in load_documents(path)) == 20_000_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_a_long_line_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"a" * 2**24)
    monkeypatch.setattr(lines_module, "LARGEST_TEXT", 99)
    tracemalloc.start()
    assert "line 1 is larger than 99 bytes: split it" in refusal(tmp_path / "a.jsonl")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_a_bad_line_comes_after_the_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n[]')
    found = load_documents(path)
    assert next(found).text == "one"
    with pytest.raises(InputError, match="line 2"):
        next(found)


# Folders


def test_a_folder_is_loaded_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = ["docs/a/b/y.txt", "docs/a/c.JSONL#1", "docs/a/z.md", "docs/b.txt", "docs/c/a.txt"]
    others = ["docs/.hidden.txt", "docs/.git/x.txt", "docs/a/table.csv"]
    for name in (*seen[2:], *seen[:2], *others):
        path = Path(name.partition("#")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines({"text": name}))
    Path("outside.txt").write_text("outside")
    Path("docs/link.txt").symlink_to(Path("outside.txt").resolve())
    Path("docs/loop").symlink_to(".")
    os.mkfifo("docs/pipe.txt")
    assert [name for name, _ in load("docs")] == seen
    Path("docs/a/empty.txt").touch()
    assert refusal("docs") == "docs/a/empty.txt is empty; name a file that has text"


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text("text")
    scandir = os.scandir

    def refuse(folder: str) -> Any:
        if Path(folder).name == "inner":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(tmp_path) == f"{tmp_path / 'inner'} cannot be read: Permission denied"


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert "is not a dataset on disk, and has no documents; expected files that end in .txt" in (
        refusal(tmp_path)
    )


# Datasets


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "set"
    Dataset.from_dict({"text": ["one", "two"], "words": ["a", None]}).save_to_disk(str(path))
    assert load(path) == [(f"{path}#1", "one"), (f"{path}#2", "two")]
    assert "row 2: words must be a string, got None" in refusal(path, field="words")
    assert "must be a dataset with a title column, got text, words" in refusal(path, field="title")
    next(path.glob("*.arrow")).write_bytes(b"damaged")
    assert f"{path} is a damaged or empty dataset (" in refusal(path)


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["one"], "other": ["a" * 2**24]}).save_to_disk(str(tmp_path))
    tracemalloc.start()
    assert load(tmp_path) == [(f"{tmp_path}#1", "one")]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**23


def test_a_dataset_without_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dataset.from_dict({"text": []}).save_to_disk(str(tmp_path))
    assert "is a damaged or empty dataset (" in refusal(tmp_path)
    found = IterableDataset.from_generator(lambda: iter(()))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)
    assert refusal("hub:texts:train") == "hub:texts:train is empty; name a dataset that has texts"


def test_a_connection_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise ConnectionError("lost")

    found = IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)
    some = load_documents("hub:texts:train")
    assert next(some).text == "one"
    with pytest.raises(InputError, match=r"hub:texts:train cannot be read .*ConnectionError: lost"):
        next(some)


def test_a_dataset_with_splits(tmp_path: Path) -> None:
    path = tmp_path / "set"
    DatasetDict({"train": Dataset.from_dict({"text": ["one"]})}).save_to_disk(str(path))
    assert f"{path} has several splits; choose one of {path / 'train'}" in refusal(path)
    assert load(path / "train") == [(f"{path / 'train'}#1", "one")]


def test_a_dataset_of_the_hub_is_refused_offline() -> None:
    message = refusal("hub:someone/texts")
    assert message.startswith("hub:someone/texts cannot be loaded (")
    assert "a dataset saved by datasets' save_to_disk" in message


@pytest.mark.parametrize("name", ["hub:", "hub:/etc", "hub:../a", "hub:a/b/c", "hub:a:b:c"])
def test_a_strange_name_of_the_hub_is_refused(name: str) -> None:
    assert refusal(name) == f"expected hub:NAME or hub:NAME:SPLIT, got {name!r}"


def test_a_local_folder_does_not_stand_in_for_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    assert refusal("hub:texts").startswith("texts is a local folder, too")


def test_a_dataset_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's: without end, and without known columns."""

    def rows() -> Iterator[dict[str, str]]:
        number = 0
        while True:
            yield {"text": f"text {number}"}
            number += 1

    def load_dataset(name: str, *, split: str | None, streaming: bool) -> Any:
        assert streaming
        found = IterableDataset.from_generator(rows)
        splits = {"train": found} if name == "texts" else {"train": found, "test": found}
        return found if split else IterableDatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    some = list(islice(load_documents("hub:someone/texts:train"), 3))
    assert [(each.name, each.text) for each in some] == [
        (f"hub:someone/texts:train#{number}", f"text {number - 1}") for number in (1, 2, 3)
    ]
    assert next(load_documents("hub:texts")).name == "hub:texts#1"
    assert "choose one of hub:someone/texts:train, hub:someone/texts:test" in (
        refusal("hub:someone/texts")
    )
