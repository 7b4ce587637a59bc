"""Keyed facts, shared readings, intervals and reports."""

import functools
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.measure.evaluate import passkey as evaluated
from fotmem.measure.evaluate.alternatives.run import Answers
from fotmem.measure.evaluate.facts import (
    DIGITS,
    OTHER_QUESTIONS,
    OTHER_STATEMENTS,
    facts_rows,
    hide,
    make_facts,
)
from fotmem.measure.evaluate.intervals import wilson
from fotmem.measure.evaluate.passkey import PasskeyAnswer, measure_passkey
from fotmem.measure.evaluate.passkey_trials import make_trials
from fotmem.measure.reading import LOCAL, OVERLAP
from fotmem.tasks.facts import MORE_QUESTIONS, MORE_STATEMENTS, QUESTIONS, STATEMENTS
from fotmem.tasks.pass_key import NAME, fact
from recipes import hard_text
from tests import folders
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

TEXT = folders.PROSE[:6000]


@functools.cache
def tokenizer() -> Any:
    return folders.tokenizer()


@functools.cache
def tokens(text: str) -> list[int]:
    return list(tokenizer()(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize(
    ("right", "trials", "interval"),
    [(0, 20, (0.0, 0.161)), (20, 20, (0.839, 1.0)), (8, 20, (0.219, 0.613)), (1, 1, (0.207, 1.0))],
)
def test_intervals_of_the_literature(
    right: int, trials: int, interval: tuple[float, float]
) -> None:
    assert wilson(right, trials) == pytest.approx(interval, abs=5e-4)


# Shared readings


def test_trials_share_readings() -> None:
    make = functools.partial(
        make_trials, tokenizer(), TEXT, tokens=300, trials=6, seed=0, window=60
    )
    trials = make(readings=2)
    texts = [trial.shared for trial in trials]
    assert [texts.index(text) for text in texts] == [0, 0, 0, 3, 3, 3]
    for trial in trials:
        hidden = tokens(fact(NAME, trial.code))
        assert len(trial.read) <= 60 - OVERLAP
        [begin] = [i for i in range(len(trial.read)) if trial.read[i : i + len(hidden)] == hidden]
        around = trial.read[:begin] + trial.read[begin + len(hidden) :]
        assert trial.shared[trial.replaced.start : trial.replaced.stop] == around
        assert len(trial.shared) + len(hidden) + len(trial.local) == 300
        assert len(trial.local) == LOCAL
    assert len({trial.code for trial in trials}) == 6
    assert len({tuple(trial.read) for trial in trials}) == 6
    assert len({tuple(trial.local) for trial in trials}) == 6
    whole = " ".join(map(str, tokens(TEXT)))
    assert all(" ".join(map(str, trial.local)) in whole for trial in trials)


def test_a_longer_piece_begins_as_a_shorter_one_does() -> None:
    make = functools.partial(
        make_trials, tokenizer(), TEXT, trials=4, seed=1, window=60, readings=2, longest=300
    )
    short, long = make(tokens=100), make(tokens=300)
    for one, other in zip(short, long, strict=True):
        assert one.shared == other.shared[: len(one.shared)]
    assert short[0].shared != short[2].shared


def test_the_number_is_in_its_place_while_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = folders.model(), []
    trials = make_trials(tokenizer(), TEXT, tokens=200, trials=3, seed=0, window=64, readings=1)
    with fotmem.attach(model, window=64) as memory:
        plain = evaluated._ask

        def looked(model: Any, tokenizer: Any, trial: Any, *how: Any) -> evaluated.PasskeyAnswer:
            seen.append(memory.tokens.tolist())
            return plain(model, tokenizer, trial, *how)

        monkeypatch.setattr(evaluated, "_ask", looked)
        rows = list(measure_passkey(model, tokenizer(), trials, memory, "exact"))
    for trial, text in zip(trials, seen, strict=True):
        hidden = tokens(fact(NAME, trial.code))
        [place] = [i for i in range(200) if text[i : i + len(hidden)] == hidden]
        assert trial.replaced.start <= place <= trial.replaced.stop < 180
        assert text[:place] + text[place + len(hidden) :] == trial.shared
    assert {row.tokens for row in rows} == {200}


def test_a_longer_piece_continues_the_reading_of_a_shorter_one() -> None:
    made = {
        size: make_trials(
            tokenizer(), TEXT, tokens=size, trials=2, seed=0, window=32, readings=1, longest=300
        )
        for size in (100, 300)
    }
    with fotmem.attach(folders.model(), window=32) as memory:
        list(measure_passkey(folders.model(), tokenizer(), made[100], memory, "exact"))
        store = memory.store(memory.layers[0])
        list(measure_passkey(folders.model(), tokenizer(), made[300], memory, "exact"))
        assert memory.store(memory.layers[0]) is store
        assert memory.tokens.tolist() == made[300][0].shared


def test_a_shared_reading_is_read_once_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = folders.model()
    trials = make_trials(tokenizer(), TEXT, tokens=200, trials=4, seed=0, window=32, readings=2)
    read: list[int] = []
    with fotmem.attach(model, window=32) as memory:
        for name in ("read", "replace"):
            plain = getattr(memory, name)

            def counted(*args: Any, plain: Any = plain, **options: Any) -> None:
                read.append(len(args[-1]))
                plain(*args, **options)

            monkeypatch.setattr(memory, name, counted)
        rows = list(measure_passkey(model, tokenizer(), trials, memory, "exact"))
        assert memory.tokens.tolist() == trials[-1].shared
    long = [length for length in read if length > 100]
    assert long == [len(trials[0].shared), len(trials[2].shared)]
    assert len(read) == 6
    assert rows[-1].exact_match_interval == wilson(rows[-1].exact_match * 4, 4)


# Keyed facts


def test_half_of_the_facts_use_other_words() -> None:
    facts = make_facts(32, seed=0)
    assert [one.other_wording for one in facts] == [False, True] * 16
    assert len({one.fact.key for one in facts}) == 32
    assert {len(one.fact.answer) for one in facts} == set(DIGITS)
    for one in facts:
        statements = OTHER_STATEMENTS if one.other_wording else STATEMENTS
        assert one.statement in [one.fact.say(words) for words in statements]
        questions = OTHER_QUESTIONS if one.other_wording else QUESTIONS
        assert one.question in [one.fact.say(words) for words in questions]
    assert not {*OTHER_STATEMENTS} & {*STATEMENTS, *MORE_STATEMENTS}
    assert not {*OTHER_QUESTIONS} & {*QUESTIONS, *MORE_QUESTIONS, *hard_text.OTHER_QUESTIONS}
    assert make_facts(4, seed=0) == facts[:4]


def test_many_facts_do_not_contradict_each_other() -> None:
    """A person may be named in two ways: "Nora's locker code" and "the locker code of Nora"."""
    words = [
        " ".join(sorted({*one.fact.key.replace("'s ", " ").split()} - {"the", "of"}))
        for one in make_facts(5000, seed=0)
    ]
    assert len({*words}) == 5000


def test_facts_are_hidden_in_a_text_of_the_length_asked_for() -> None:
    facts = make_facts(8, seed=1)
    text = hide(tokenizer(), tokens(TEXT), facts, tokens=900, seed=1)
    assert len(text) == 900
    said = str(tokenizer().decode(text))
    assert all(one.statement in said for one in facts)
    assert all(one.fact.answer not in tokenizer().decode(text[-LOCAL:]) for one in facts)
    with pytest.raises(fotmem.errors.InputError, match="8 facts take more than 100 tokens"):
        hide(tokenizer(), tokens(TEXT), facts, tokens=100, seed=1)
    with pytest.raises(fotmem.errors.InputError, match="are needed: add text"):
        hide(tokenizer(), tokens(TEXT), facts, tokens=10**6, seed=1)


def test_rows_of_keyed_facts() -> None:
    facts = make_facts(6, seed=0)
    scores = [1.0 if number in (0, 3) else 0.0 for number in range(6)]
    rows = facts_rows(facts, Answers(scores=scores, seconds=9.0), tokens=50, store=None)
    assert {(row.tokens, row.memory, row.store, row.seconds) for row in rows} == {
        (50, False, None, 9.0)
    }
    shown = {row.kind: (row.exact_match, row.facts) for row in rows}
    assert {kind: shown[kind] for kind in ("all", "trained wording", "other wording")} == {
        "all": (2 / 6, 6),
        "trained wording": (1 / 3, 3),
        "other wording": (1 / 3, 3),
    }
    lengths = [shown[kind][1] for kind in shown if kind.endswith("digits")]
    assert sum(lengths) == 6
    [every] = [row for row in rows if row.kind == "all"]
    assert every.exact_match_interval == wilson(2, 6)


def test_a_row_has_the_length_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of five digits may take two tokens or three; trials share what is cut for one."""
    trials = make_trials(tokenizer(), TEXT, tokens=300, trials=2, seed=0, window=60, readings=1)
    trials[1] = replace(trials[1], read=[*trials[1].read, 5])
    monkeypatch.setattr(evaluated, "score", lambda *_, **__: PasskeyAnswer(1, True, [], ""))
    rows = [*measure_passkey(None, tokenizer(), trials, None, None)]
    assert {row.tokens for row in rows} == {300}


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("model"))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


EXPLAINED = {
    "facts": ("facts", "exact match", "number", "seconds"),
    "perplexity": (
        "window",
        "perplexity",
        "difference (nats)",
        "full attention",
        "share",
        "scored",
    ),
    "passkey": ("digits", "exact match", "seconds", "latency"),
}
COMMANDS = {
    "facts": ["--tokens", 600, "--facts", 3],
    "perplexity": ["--tokens", "64,128", "--scored", 64],
    "passkey": ["--tokens", "100,200", "--trials", 2, "--readings", 1],
}


@pytest.mark.parametrize("task", COMMANDS)
def test_tables_json_and_reports(
    task: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", task, folder, "--text", folder / "text.txt", "--window", 32, *COMMANDS[task]]
    table = call(capsys, *given)
    assert table.code == 0, table.err
    assert "exact" in table.out or "perplexity" in table.out
    for name in EXPLAINED[task]:
        assert f"\n{name}: " in table.out
    file = tmp_path / "deep" / "report.json"
    rows = json.loads(call(capsys, *given, "--json", "--report", file).out)["rows"]
    report = json.loads(file.read_text())
    assert (report["task"], report["options"]["window"]) == (task, 32)
    assert report["versions"]["torch"] == version("torch")
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert [{**row, "seconds": 0} for row in report["rows"]] == [
        {**row, "seconds": 0} for row in rows
    ]


def test_without_a_text_it_is_python_reference(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem.cli.loading.python_reference", lambda: TEXT)
    given = [
        "eval",
        "perplexity",
        folder,
        "--window",
        32,
        *COMMANDS["perplexity"],
        "--json",
    ]
    found, expected = (
        json.loads(call(capsys, *given, *text).out)["rows"]
        for text in ((), ("--text", folder / "text.txt"))
    )
    assert [row["perplexity"] for row in found] == [row["perplexity"] for row in expected]


@pytest.mark.parametrize(
    ("task", "given", "reason"),
    [
        ("facts", ["--tokens", "1k,2k"], "expected one size, such as 16k, got '1k,2k'"),
        (
            "perplexity",
            ["--tokens", "4K"],
            "expected sizes such as 4096 or 4k,16k, got '4K'",
        ),
        ("passkey", ["--tokens", ""], "expected sizes such as 4096 or 4k,16k, got ''"),
        (
            "facts",
            ["--tokens", "400", "--facts", "10000"],
            "'--facts': expected no more than tokens, 400, got 10,000",
        ),
        ("passkey", ["--trials", "1000000000"], "expected an integer from 1 to 10,000, got"),
        ("ruler", ["--trials", "1000000000"], "expected an integer from 1 to 10,000, got"),
    ],
)
def test_invalid_numbers_are_refused(
    task: str, given: list[str], reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 2, "eval", task, folder, "--text", folder / "text.txt", *given)
    assert reason in line


def test_a_text_that_is_too_short(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["eval", "perplexity", folder, "--text", folder / "text.txt", "--window", 32]
    assert "tokens, 20,480 are needed: add text" in refusal(capsys, 1, *given)
