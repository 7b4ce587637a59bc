"""`fotmem demo`."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from fotmem import progress
from fotmem.cli import demo
from fotmem.measure.reading import LOCAL
from fotmem.tasks.answer import Answer
from tests import folders
from tests.commands import call
from tests.tiny import one_thread  # noqa: F401 - a fixture


@pytest.fixture
def tiny_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = folders.model(max_position_embeddings=1024), folders.tokenizer()
    monkeypatch.setattr(demo, "load_quietly", lambda name: loaded)
    monkeypatch.setattr(demo, "TOKENS", 700)
    monkeypatch.setenv("COLUMNS", "120")


def test_the_demo_shows_answers_and_sources(
    tiny_demo: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    ended = call(capsys, "demo")
    assert ended.code == 0
    assert ended.err.split()[0] == "reading:"
    parts = [part for part in ended.out.split("─── ") if part]
    titles = [part.partition(" ───")[0] for part in parts[1:]]
    assert titles == [
        "without memory",
        "reading into memory",
        "with memory, top-k 16",
        "with memory, all of it",
        "result",
    ]
    for _, _, truth in demo.FACTS:
        assert ended.out.count(f"(expected {truth})") == 3
    assert ended.out.count(" sources ") == 2 * len(demo.FACTS)
    assert ended.out.count("0 of 4 answers correct") == 3
    assert "in the memory of layers 1, 3: read in " in ended.out
    again = call(capsys, "demo", "--store", "zarr")
    assert (again.code, again.err) == (0, "")
    assert re.search(r"opened in [\d.]+ s; the first demo read it in [\d.]+ s", again.out)


def test_the_demo_reads_again_if_what_it_kept_is_of_no_use(
    tiny_demo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "fotmem/demo"
    for harm in (
        lambda: (kept / "memory/zarr.json").write_text("{}"),
        (kept / "reading.json").unlink,
        lambda: None,
    ):
        assert ": read in " in call(capsys, "demo").out
        harm()
    assert "opened in" in call(capsys, "demo").out


def test_the_demo_hides_its_facts_at_the_printed_places() -> None:
    tokenizer = folders.tokenizer()
    text, hidden = demo._text(tokenizer)
    assert len(text) > demo.TOKENS
    for fact, (statement, question, truth) in zip(hidden, demo.FACTS, strict=True):
        begin, end = fact.place.start, fact.place.stop
        assert tokenizer.decode(text[begin:end]) == f" {truth}"
        assert f" {statement.format(truth)} " in str(tokenizer.decode(text[begin - 99 : end + 9]))
        assert tokenizer.decode(fact.question) == f" {question}"
        assert end <= len(text) - LOCAL


def test_the_demo_counts_correct_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = folders.tokenizer()
    text, hidden = demo._text(tokenizer)
    said = iter(["hedgehog", "4821", "lighthouse", "a lighthouse"])
    monkeypatch.setattr(
        "fotmem.tasks.answer.answer_question", lambda *a, **b: Answer(next(said), [])
    )
    console = Console(quiet=True)
    right = demo._ask_all(console, folders.model(), tokenizer, text[-16:], hidden, None)
    assert right == 2
