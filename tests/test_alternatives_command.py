"""`fotmem eval ... --beside`: other ways to answer in tables, JSON and reports."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from fotmem.measure.evaluate.alternatives import attached_memory
from fotmem.measure.evaluate.alternatives.asked_texts import (
    of_facts,
    of_passkeys,
    of_pieces,
    of_samples,
)
from fotmem.measure.evaluate.facts import hide, make_facts
from fotmem.measure.evaluate.passkey_trials import make_trials
from fotmem.measure.evaluate.questions.prompt import PROMPT
from fotmem.measure.evaluate.questions.question_file import Question as NaturalQuestion
from fotmem.measure.evaluate.questions.text_pieces import cut
from fotmem.measure.evaluate.ruler import needles
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.tasks import make_samples
from fotmem.measure.reading import LOCAL, remember
from fotmem.memory.memory import Memory
from tests import folders
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

TOKENIZER: Any = folders.tokenizer()
TEXT = folders.PROSE[:40_000]
PASSAGE = next(line for line in TEXT.split("\n")[40:] if len(line) > 50 and TEXT.count(line) == 1)
ASKED_OF = NaturalQuestion(question="Where is it?", answers=[PASSAGE.split()[0]], passage=PASSAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "asked.jsonl").write_text(ASKED_OF.model_dump_json(), encoding="utf-8")
    return folder


GIVEN: dict[str, list[Any]] = {
    "facts": ["--tokens", 300, "--facts", 2],
    "questions": ["--tokens", 600, "--questions", "asked.jsonl"],
    "passkey": ["--tokens", "250,300", "--trials", 1, "--readings", 1],
    "ruler": ["--tokens", 1000, "--tasks", "qa", "--trials", 1],
}
ASKED = {"facts": [("facts", 300)], "passkey": [("pass key", 250), ("pass key", 300)]} | {
    "questions": [("questions", 600)],
    "ruler": [("qa", 1000)],
}


@pytest.mark.parametrize("task", GIVEN)
def test_tables_json_and_reports(
    task: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    ways = "window,context,bm25,sinks" if task == "facts" else "sinks"
    read: list[list[int]] = []

    def remembered(memory: Memory, tokens: list[int], **options: bool) -> None:
        read.append(tokens)
        remember(memory, tokens, **options)

    monkeypatch.setattr(attached_memory, "remember", remembered)
    given = ["eval", task, folder, "--text", folder / "text.txt", "--window", 512, *GIVEN[task]]
    file = tmp_path / "report.json"
    table = call(capsys, *given, "--beside", ways, "--report", file)
    assert table.code == 0, table.err
    report = json.loads(file.read_text())
    found = [(row["task"], row["tokens"], row["way"]) for row in report["beside"]]
    names = ["memory", *ways.split(",")]
    assert found == [(*about, way) for about in ASKED[task] for way in names]
    for row in report["beside"]:
        assert min(row["first_seconds"], row["further_seconds"]) > 0
        assert row["kept_bytes"] > 0
        assert row["questions"] == (2 if task == "facts" else 1)
        assert f"│ {row['way']}" in table.out
    assert "\nsinks: StreamingLLM: " in table.out
    assert len(read) == len(ASKED[task])  # once for all rows


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["eval", "facts", folder, "--text", folder / "text.txt", "--tokens", 200, "--facts", 1]
    found = json.loads(call(capsys, *given, "--json", "--beside", "window").out)
    assert [row["way"] for row in found["beside"]] == ["memory", "window"]
    assert "beside" not in json.loads(call(capsys, *given, "--json").out)


@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        (["--beside", "rag"], 1, "beside must be some of window, context, bm25, sinks, got 'rag'"),
        (["--beside", "sinks,sinks"], 2, "'--beside': expected each once, got sinks more than"),
        (["--beside", "sinks", "--stores", "exact"], 2, "'--beside': expected one store, got"),
        (["--beside", "window", "--window", "8"], 1, "a window of 8 tokens has no room for text"),
    ],
)
def test_wrong_usage(
    given: list[str], code: int, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "passkey", folder, "--text", folder / "text.txt", "--tokens", 200]
    assert reason in refusal(capsys, code, *words, "--trials", 1, *given)


def test_a_window_without_room_is_refused_before_anything_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem.cli.evaluate.ruler.ask_in_three_ways", None)
    words = ["eval", "ruler", folder, "--text", folder / "text.txt", "--tokens", 1000]
    given = ["--tasks", "fwe,vt", "--window", 200, "--beside", "bm25"]
    reason = "a window of 200 tokens has no room for text"
    assert reason in refusal(capsys, 1, *words, *given)


@pytest.mark.parametrize("readings", [None, 1])
def test_pass_keys_are_asked_for_in_their_text(readings: int | None) -> None:
    trials = make_trials(
        TOKENIZER, TEXT, tokens=300, trials=2, seed=0, window=64, readings=readings
    )
    for trial, text in zip(trials, of_passkeys(TOKENIZER, trials), strict=True):
        [asked] = text.questions
        assert len(text.tokens) == 300
        assert f"{trial.code}" in TOKENIZER.decode(text.tokens[: -len(text.local)])
        assert text.local == trial.local
        assert text.read is (trial.shared if readings else trial.read)
        assert asked.new_tokens == len(TOKENIZER(trial.code).input_ids) or asked.new_tokens == 6
        assert [asked.score(said) for said in (trial.code, trial.code[:-1])] == [1, 0]


@pytest.mark.parametrize("to_end", [False, True])
def test_answers_to_ruler_end_where_they_are_right_or_not_at_all(to_end: bool) -> None:
    source = Source(TOKENIZER, folders.PROSE[:20_000])
    [sample] = make_samples(source, "niah_single_2", tokens=900, trials=1, seed=0)
    [text] = of_samples([sample], to_end=to_end)
    [asked] = text.questions
    assert (asked.until is None) == to_end
    assert to_end or (asked.until is not None and asked.until(sample.answers[0]))


def test_facts_are_asked_for_in_one_text() -> None:
    facts = make_facts(4, seed=0)
    piece = hide(TOKENIZER, TOKENIZER(TEXT).input_ids, facts, tokens=700, seed=0)
    [text] = of_facts(TOKENIZER, piece, facts)
    assert text.tokens == piece
    assert len(text.local) == LOCAL
    for one, question in zip(facts, text.questions, strict=True):
        assert TOKENIZER.decode(question.prompt).strip() == one.question
        assert [question.score(said) for said in (one.fact.answer, "1")] == [1, 0]


def test_natural_questions_end_with_the_first_line() -> None:
    pieces = cut(TOKENIZER, TEXT, [ASKED_OF], tokens=600, seed=0)
    [text] = of_pieces(TOKENIZER, pieces)
    [asked] = text.questions
    assert (text.read, text.local) == (pieces[0].read, pieces[0].local)
    assert len(text.tokens) == 600
    assert asked.evidence == pieces[0].asked[0].evidence
    assert TOKENIZER.decode(asked.prompt) == PROMPT.format(question="Where is it?")
    assert asked.query == "Where is it?"
    [right] = ASKED_OF.answers
    assert [asked.score(said) for said in (f"a {right}.", f"no\n{right}")] == [1, 0]
    assert asked.until
    assert [asked.until(said) for said in (f"a {right}", f"{right}\n.")] == [False, True]


def test_samples_are_asked_for_their_answers() -> None:
    samples = make_samples(Source(TOKENIZER, TEXT), "vt", tokens=1500, trials=2, seed=0)
    for sample, text in zip(samples, of_samples(samples), strict=True):
        [asked] = text.questions
        assert (text.read, text.local) == (sample.read, sample.local)
        assert (asked.prompt, asked.new_tokens) == (sample.question, sample.new_tokens)
        assert asked.evidence == sample.evidence
        some = " ".join(sample.answers[:2])
        assert asked.score(some) == 2 / 5
        assert asked.until
        assert not asked.until(some)
        assert asked.until(" ".join(sample.answers))


def test_samples_that_share_a_text() -> None:
    """Different needles in it are different texts; questions about the same text are not."""
    make = functools.partial(make_samples, Source(TOKENIZER, TEXT), tokens=3000, seed=0, window=64)
    for task, lengths in (("niah_single_2", [1, 1, 1]), ("niah_multikey_2", [3]), ("fwe", [1] * 3)):
        samples = make(task, trials=3, readings=1)
        texts = of_samples(samples)
        assert [len(text.questions) for text in texts] == lengths
        asked = [question for text in texts for question in text.questions]
        assert [question.prompt for question in asked] == [sample.question for sample in samples]
        assert [text.tokens for text in texts] == [sample.text for sample in samples[: len(texts)]]


def test_ruler_reads_a_text_once_for_all_trials(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def remembered(memory: Memory, tokens: list[int], **options: bool) -> None:
        read.append(len(tokens))
        remember(memory, tokens, **options)

    monkeypatch.setattr(attached_memory, "remember", remembered)
    monkeypatch.setattr(needles, "NEW_TOKENS", 2)
    words = ["eval", "ruler", folder, "--text", folder / "text.txt", "--window", 64, "--json"]
    given = ["--tasks", "niah_multiquery,niah_multikey_2", "--tokens", 900, "--trials", 3]
    rows = json.loads(call(capsys, *words, *given, "--readings", 1).out)["rows"]
    assert [row["trials"] for row in rows] == [3, 3]
    assert len(read) == 2
    assert min(read) > 600
