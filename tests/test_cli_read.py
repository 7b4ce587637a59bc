"""``fotmem read`` into a directory, and ``fotmem ask`` from it."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fotmem
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import StorageError
from fotmem.models.load import load_model
from tests import folders
from tests.commands import PROGRAM, STOPPED, call, refusal
from tests.memory_rows import names
from tests.tiny import one_thread  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.s3_server import S3Server

WINDOW = ("--window", "32")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"), chat=True)
    (folder / "one.txt").write_text(folders.PROSE[:600], encoding="utf-8")
    (folder / "two.md").write_text(folders.PROSE[1000:1600], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a memory of both texts, read by the command."""
    where = tmp_path_factory.mktemp("kept") / "memory"
    texts = [folder / "one.txt", folder / "two.md"]
    run = [*PROGRAM, "read", str(folder), *map(str, texts), "--into", str(where), "--window", "32"]
    subprocess.run(run, check=True, capture_output=True)
    return where


def test_what_is_read_is_kept(kept: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    directory = MemoryDirectory.open(kept)
    manifest = directory.manifest
    found = [document.name for document in manifest.documents]
    assert found == [str(folder / "one.txt"), str(folder / "two.md")]
    assert manifest.facts.window == 32
    before = (kept / "zarr.json").read_bytes()
    texts = [folder / "one.txt", folder / "two.md"]
    ended = call(capsys, "read", folder, *texts, "--into", kept)
    assert ended.code == 0
    assert ended.err.count("not changed") == 2
    assert f"holds {manifest.rows:,} tokens of 2 documents" in " ".join(ended.out.split())
    assert json.loads(before) == json.loads((kept / "zarr.json").read_bytes())


def test_no_model_is_loaded_for_what_has_not_changed(
    kept: Path, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem.cli.read.load_model_of", None)
    one, two = folder / "one.txt", folder / "two.md"
    ended = call(capsys, "read", folder, two, one, two, "--into", kept)
    assert (ended.code, ended.err.count("not changed")) == (0, 3)
    assert "tokens of 2 documents" in " ".join(ended.out.split())


def test_what_a_killed_reading_left_goes_though_nothing_is_to_be_read(
    kept: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    where = tmp_path / "memory"
    shutil.copytree(kept, where)
    files = names(where)
    for stray in ("tokens/00000999/ids/c.0.0", f"zarr.json.{'0' * 32}.partial"):
        (where / stray).parent.mkdir(parents=True, exist_ok=True)
        (where / stray).touch()
    writer = MemoryDirectory.open(kept, writable=True)  # the other process is not disturbed
    for into in (where, kept):
        ended = call(capsys, "read", folder, folder / "one.txt", "--into", into)
        assert (ended.code, ended.err.count("not changed")) == (0, 1)
    writer.close()
    assert names(where) == files


def test_options_that_the_directory_has_may_be_given_again(
    kept: Path, folder: Path, capsys: Capture
) -> None:
    again = [*WINDOW, "--layers", "3,1", "--top-k", "32", "--temperature", "1", "--decay", "0"]
    ended = call(capsys, "read", folder, folder / "one.txt", "--into", kept, *again)
    assert (ended.code, ended.err.count("not changed")) == (0, 1)


def test_a_changed_text_is_read_again(
    kept: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    where, text = tmp_path / "memory", tmp_path / "text.txt"
    for content in (folders.PROSE[:300], folders.PROSE[300:700]):
        text.write_text(content, encoding="utf-8")
        ended = call(capsys, "read", folder, text, folder / "one.txt", "--into", where, *WINDOW)
        assert ended.code == 0
    model, _ = load_model(str(folder))
    with fotmem.open_memory(where, model) as memory:
        found = [each.name for each in memory.documents]
        assert found == [str(folder / "one.txt"), str(text)]
        assert memory.documents[1].characters == 400


def test_a_file_is_one_document_however_its_path_is_written(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*sources: object) -> list[tuple[str, str]]:
        ended = call(capsys, "read", folder, *sources, "--into", tmp_path / "memory", *WINDOW)
        assert ended.code == 0
        return re.findall(r"^(\S+): (.+)$", ended.err, re.MULTILINE)

    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text(folders.PROSE[:300], encoding="utf-8")
    lines = [json.dumps({"text": folders.PROSE[start : start + 200]}) for start in (400, 600)]
    (notes / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = [name for name, _ in read("notes", notes)]
    assert found == 2 * ["notes/a.txt", "notes/b.jsonl#1", "notes/b.jsonl#2"]
    assert {said for _, said in read("./notes/a.txt", notes / "b.jsonl")} == {"not changed"}
    (notes / "a.txt").write_text(folders.PROSE[300:700], encoding="utf-8")
    [(name, said)] = read(notes / "a.txt")
    assert name == "notes/a.txt"
    assert said.endswith(" tokens")
    monkeypatch.chdir(notes)
    [(name, said)] = read("a.txt")
    assert name == "a.txt"
    assert said.endswith(" tokens, the same text as notes/a.txt")
    documents = MemoryDirectory.open(tmp_path / "memory").manifest.documents
    kept = [each.name for each in documents if not each.is_removed]
    assert kept == ["notes/b.jsonl#1", "notes/b.jsonl#2", "notes/a.txt", "a.txt"]


def test_ask_a_directory(kept: Path, folder: Path, capsys: Capture) -> None:
    texts = ["--text", folder / "one.txt", "--text", folder / "two.md"]
    options = ["--max-new-tokens", 4, "--json"]
    by_texts = call(capsys, "ask", folder, "Who?", *texts, "--window", 32, *options)
    for store in ("exact", "zarr"):
        asked = call(capsys, "ask", kept, "Who?", "--store", store, *options)
        assert (asked.code, asked.err) == (0, "")
        assert json.loads(asked.out)["answer"] == json.loads(by_texts.out)["answer"]
    name = str(folder / "two.md")
    only = json.loads(call(capsys, "ask", kept, "Who?", "--only", name, *options).out)
    assert {source["document"] for source in only["sources"]} == {name}


def test_wrong_use_is_refused(kept: Path, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    one = folder / "one.txt"
    line = refusal(capsys, 2, "ask", folder, "Who?")
    assert "expected texts for a model, or the directory of a memory" in line
    assert "has its texts" in refusal(capsys, 2, "ask", kept, "Who?", "--text", one)
    assert "has its layers" in refusal(capsys, 2, "ask", kept, "Who?", "--layers", "1")
    config = tmp_path / "fotmem.toml"
    config.write_text('[memory]\nstore = "exact"\nlast_context_length = 9\n')
    assert "half the window" in refusal(capsys, 2, "ask", kept, "Who?", "--config", config)
    line = refusal(capsys, 1, "ask", kept, "Who?", "--only", "one.txt")
    assert "the memory has no document 'one.txt'; did you mean" in line
    other = folders.write(tmp_path / "other", rms_norm_eps=1e-3, num_key_value_heads=4)
    line = refusal(capsys, 1, "read", other, one, "--into", kept)
    assert "was filled by another model" in line
    assert "architecture: the memory has" in line
    for option, has, wanted in (
        ("window", "32", "64"),
        ("layers", "1,3", "0-1"),
        ("top-k", "32", "all"),
        ("decay", "0.0", "0.5"),
        ("decay", "0.0", "1:0.5"),
        ("quantization", "none", "int8"),
    ):
        line = refusal(capsys, 1, "read", folder, one, "--into", kept, f"--{option}", wanted)
        said = "0,1" if option == "layers" else wanted
        assert f"{option.replace('-', '_')} is chosen when a directory is begun: " in line
        assert f" has {has}, wanted {said}; leave it out" in line
    moved = Path(shutil.copytree(kept, tmp_path / "moved"))
    (moved / "zarr.json").write_text("{}")
    assert "is damaged" in refusal(capsys, 1, "ask", moved, "Who?")
    line = refusal(capsys, 1, "read", folder, tmp_path / "no.txt", "--into", tmp_path / "new")
    assert "no.txt cannot be read" in line
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    line = refusal(capsys, 1, "read", folder, one, "--into", tmp_path / "full", *WINDOW)
    assert "letter.txt; choose an empty directory" in line


def test_a_file_that_cannot_be_read_ends_the_reading_but_what_was_read_is_kept(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text(folders.PROSE[:300], encoding="utf-8")
    (notes / "b.txt").write_bytes(b"\xff")
    ended = call(capsys, "read", folder, notes, "--into", tmp_path / "memory", *WINDOW)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1] == (
        f"fotmem: {notes / 'b.txt'} is not UTF-8 text (byte 0); convert it first; "
        "what was read before it is kept: call again to go on"
    )
    [document] = MemoryDirectory.open(tmp_path / "memory").manifest.documents
    assert (document.name, document.is_complete) == (str(notes / "a.txt"), True)
    (notes / "a.txt").unlink()
    assert "is kept" not in refusal(capsys, 1, "read", folder, notes, "--into", tmp_path / "other")


def test_ask_object_storage(kept: Path, folder: Path, s3: "S3Server", capsys: Capture) -> None:
    url, options = s3.upload(kept), ("--max-new-tokens", 4)
    local = json.loads(call(capsys, "ask", kept, "Who?", "--json", *options).out)
    s3.asked.clear()
    found = json.loads(call(capsys, "ask", url, "Who?", "--json", *options).out)
    assert (found["answer"], found["sources"]) == (local["answer"], local["sources"])
    assert found["requests"] == len(s3.asked) > 0
    assert found["bytes_read"] > 1000
    asked = call(capsys, "ask", url, "Who?", *options)
    assert re.fullmatch(r"read [0-9.]+ kB in [0-9]+ requests\n", asked.err)
    assert "nothing is damaged" in call(capsys, "memory", "verify", url).out
    line = refusal(capsys, 1, "ask", s3.url("nothing"), "Who?")
    assert "it has no zarr.json, but nothing" in line
    line = refusal(capsys, 1, "memory", "repair", s3.url("nothing"))
    assert "there is no memory in" in line


def test_indexes_are_trusted_if_that_is_said(
    kept: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def opened(*given: Any, **options: Any) -> Any:
        said.append(options["trusted"])
        raise StorageError("enough")

    monkeypatch.setattr(MemoryDirectory, "open", opened)
    for more in ((), ("--trusted",)):
        assert "enough" in refusal(capsys, 1, "ask", kept, "Who?", *more)
    assert said == [False, True]


def test_read_into_object_storage(folder: Path, s3: "S3Server", capsys: Capture) -> None:
    url, one, two = s3.url("written"), folder / "one.txt", folder / "two.md"
    for texts, unchanged in (([one], 0), ([one, two], 1), ([one, two], 2)):
        ended = call(capsys, "read", folder, *texts, "--into", url, *WINDOW)
        assert (ended.code, ended.err.count("not changed")) == (0, unchanged)
        assert f"tokens of {len(texts)} documents" in " ".join(ended.out.split())
    asked = call(capsys, "ask", url, "Who?", "--max-new-tokens", 4, "--json")
    assert {source["document"] for source in json.loads(asked.out)["sources"]} <= {
        str(one),
        str(two),
    }


@pytest.mark.thorough
def test_a_reading_that_is_stopped_goes_on(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """Stopped by Ctrl-C: what was committed stays, and the lock is free."""
    text, where = tmp_path / "long.txt", tmp_path / "memory"
    text.write_text(folders.PROSE, encoding="utf-8")
    run = [*PROGRAM, "read", str(folder), str(text), "--into", str(where), "--window", "32"]
    reading = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while reading.poll() is None and not committed(where):
        pass
    reading.send_signal(signal.SIGINT)
    reading.communicate()
    assert reading.returncode in STOPPED
    before = committed(where)
    assert before > 0
    ended = call(capsys, "read", folder, text, "--into", where)
    assert ended.code == 0
    assert committed(where) > before
    assert [each.is_complete for each in MemoryDirectory.open(where).manifest.documents] == [True]


def committed(where: Path) -> int:
    try:
        return MemoryDirectory.open(where).manifest.rows
    except OSError:
        return 0
