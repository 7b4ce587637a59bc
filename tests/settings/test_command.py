"""Settings side by side: `fotmem eval --stores`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fotmem.measure.evaluate.ruler import needles, rows, variables
from fotmem.training.dictionary_model import new_model, new_tokenizer
from tests import folders
from tests.commands import call, refusal
from tests.settings.sparse import TEXT
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


def save_lookup(folder: Path) -> Path:
    """Save an untrained model for dictionary lookup."""
    new_model(0).save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    return folder


TASKS: dict[str, list[Any]] = {
    "passkey": ["--tokens", "100,200", "--trials", 2, "--readings", 1],
    "perplexity": ["--tokens", "100,200", "--scored", 64],
    "dictionary": ["--tokens", "100,200", "--queries", 9],
    "ruler": ["--tokens", "1200,1300", "--tasks", "vt", "--trials", 1],
}


NEW = "name a new file"

QUALITIES = {
    "passkey": "exact match",
    "perplexity": "difference (nats)",
    "dictionary": "exact match",
    "ruler": "with memory",
}


@pytest.mark.parametrize("task", TASKS)
def test_tables_json_and_reports(
    task: str,
    folder: Path,
    built: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(variables, "NEW_TOKENS", 3)
    grid, file = tmp_path / "grid.toml", tmp_path / "deep" / "report.json"
    grid.write_text("[sparse]\nevery = [1, 3, 13]\n")
    given = ["eval", task, folder, *TASKS[task]]
    if task == "dictionary":
        given[2] = save_lookup(tmp_path / "lookup")
    else:
        given += ["--text", folder / "text.txt", "--window", 64]
    given += ["--stores", "exact,sparse", "--grid", grid, "--report", file]
    table = call(capsys, *given)
    assert table.code == 0, table.err
    assert re.search(r"│ sparse every=3 +│.* to .*│ 0\.[34]\d\d +│", table.out)
    assert re.search(r"│ sparse every=13 +│ .* │ RuntimeError: no luck +│", table.out)
    for name in (QUALITIES[task], "recall", "attention-mass recall", "error", "excess error"):
        assert f"\n{name}: " in table.out
    report = json.loads(file.read_text())
    printed = json.loads(call(capsys, *given, "--json").out)
    assert printed["rows"] == report["rows"]
    assert (report["options"]["store"], report["options"]["stores"]) == (None, "exact,sparse")
    assert report["options"].get("passages", 0) == 0  # answers attend to the stores
    third = [row for row in report["rows"] if row["options"] == {"every": 3}]
    assert len({row["tokens"] for row in third}) == 2
    for row in third:
        low, value, high = (row["store_quality"]["recall"][i] for i in (1, 0, 2))
        assert low <= value <= high < 0.6
    assert all((row["store_quality"] is None) == (row["store"] is None) for row in report["rows"])


@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        (["--stores", "exact", "--store", "exact"], 2, "it replaces --store, --option and"),
        (["--stores", "zarr", "--option", "nprobe=3"], 2, "it replaces --store, --option and"),
        (["--grid", "grid.toml"], 2, "'--grid': expected --stores beside it, got none"),
        (["--stores", "exact", "--top-k", "all"], 2, "expected a number beside --stores"),
        (["--stores", "exat"], 1, "no store is named 'exat'; did you mean 'exact'?"),
        (["--stores", "exact", "--grid", "none.toml"], 1, "none.toml cannot be read: No such"),
    ],
)
def test_wrong_usage_is_described_in_one_line(
    given: list[str], code: int, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in TASKS:
        text = [] if task == "dictionary" else ["--text", folder / "text.txt"]
        assert reason in refusal(capsys, code, "eval", task, folder, *text, *given)


def test_needed_packages_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fotmem.errors.find_spec", lambda name: None)
    given = ["eval", "passkey", folder, "--text", folder / "text.txt", "--stores", "exact"]
    assert refusal(capsys, 1, *given) == (
        "'fotmem eval --stores' is not available here: needs scipy, not installed: "
        "pip install 'fotmem[bench]'"
    )


def test_tasks_of_ruler_with_several_stores(
    folder: Path, built: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each has a row and a mean for each setting; what has a row is not asked again."""
    monkeypatch.setattr(needles, "NEW_TOKENS", 2)
    monkeypatch.setattr(rows, "NEEDLES", ("niah_single_2", "niah_multikey_2"))
    grid, file = tmp_path / "grid.toml", tmp_path / "report.json"
    given = ["eval", "ruler", folder, "--text", folder / "text.txt", "--window", 64, "--trials", 1]
    given += ["--tokens", 700, "--tasks", "niah_single_2,niah_multikey_2", "--report", file]
    stores = ["--stores", "sparse", "--grid", grid]
    grid.write_text("[sparse]\nevery = [1, 13]\n")
    call(capsys, *given, *stores)
    first = json.loads(file.read_text())
    assert [(each["task"], each["options"]) for each in first["rows"]] == [
        ("niah_single_2", {"every": 1}),
        ("niah_multikey_2", {"every": 1}),
        ("needles", {"every": 1}),
    ]
    assert [(each["task"], each["options"]) for each in first["failures"]] == [
        ("niah_single_2", {"every": 13}),
        ("niah_multikey_2", {"every": 13}),
    ]
    grid.write_text("[sparse]\nevery = [1, 3]\n")
    table = call(capsys, *given, *stores).out
    found = json.loads(file.read_text())["rows"]
    assert found[:3] == first["rows"]
    assert [(each["task"], each["options"]["every"]) for each in found[3:]] == [
        ("niah_single_2", 3),
        ("niah_multikey_2", 3),
        ("needles", 3),
    ]
    assert all(re.search(rf"│ {each['task']} +│ 700 +│ sparse every=3 +│", table) for each in found)


def test_no_report_is_continued_about_another_text_or_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = folders.write(tmp_path / "model"), tmp_path / "text.txt"
    file = tmp_path / "report.json"
    text.write_text(TEXT, encoding="utf-8")
    given = ["eval", "perplexity", model, "--text", text, "--window", 32, "--tokens", 64]
    given += ["--scored", 64, "--report", file, "--stores"]
    assert not call(capsys, *given, "exact").code
    before = file.read_text()
    assert sorted(json.loads(before)["inputs"]) == ["model", "text"]
    text.write_text(TEXT.replace("e", "i"), encoding="utf-8")
    line = refusal(capsys, 1, *given, "exact,faiss-flat")
    assert line == f"{file} is the report of another text: name a new file"
    text.write_text(TEXT, encoding="utf-8")
    trained = folders.model(seed=1)
    trained.save_pretrained(model)
    line = refusal(capsys, 1, *given, "exact,faiss-flat")
    assert line == f"{file} is the report of another model: name a new file"
    assert file.read_text() == before
    folders.write(model)
    assert not call(capsys, *given, "exact,faiss-flat").code
    assert [row["store"] for row in json.loads(file.read_text())["rows"]] == [
        *(None, "exact", "faiss-flat"),
    ]


def test_a_report_is_replaced_by_that_of_the_same_command_only(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    given = ["eval", "perplexity", folder, "--text", folder / "text.txt", "--window", 32]
    given += ["--tokens", 64, "--scored", 64, "--report", file]
    assert not call(capsys, *given, "--stores", "exact").code
    before = file.read_text()
    line = refusal(capsys, 1, *given)
    assert line == f"{file} is the report of another run, with store None, not 'exact': {NEW}"
    passkey = ["eval", "passkey", folder, "--text", folder / "text.txt", "--report", file]
    line = refusal(capsys, 1, *passkey)
    assert line.startswith(f"{file} is the report of another run, with task 'perplexity', not ")
    assert file.read_text() == before
    file.unlink()
    for _ in range(2):
        assert not call(capsys, *given).code
    line = refusal(capsys, 1, *given, "--sliding", 16)
    assert line == f"{file} is the report of another run, with sliding None, not '16': {NEW}"
