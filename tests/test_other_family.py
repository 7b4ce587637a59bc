"""A tiny Qwen2 is made, tuned by the commands, and measured; its page gets the figures."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

import fotmem
from fotmem.cli.commands import app
from fotmem.models.load import load_model
from recipes import other_family, other_family_model
from recipes.other_family import FIGURES
from recipes.other_family_model import Documents, Stage, fit, make_model, train_tokenizer
from tests.folders import PROSE
from tests.tiny import one_thread  # noqa: F401 - a fixture

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
STAGES = (Stage(16, 2, 1), Stage(256, 1, 1, (128,)))
MEASURED = {
    "facts-context": "facts {} --tokens 320 --facts 1 --window 192 --beside context",
    "facts-4k": "facts {} --tokens 256 --facts 1 --window 192",
    "facts-16k": "facts {} --tokens 512 --facts 1 --window 192",
    "facts-64k": "facts {} --tokens 768 --facts 1 --window 192",
    "passkey-context": "passkey {} --tokens 320 --trials 1 --window 192 --beside context",
    "passkey": "passkey {} --tokens 256,512 --trials 1 --window 192",
    "perplexity": "perplexity {} --tokens 256,512 --scored 128 --window 64",
}
TRAIN = (
    "--window 64 --distance 128 --windows 2 --documents 2 --steps 1 --evaluate-every 1 "
    "--bank-windows 0"
)
ROWS = [
    *("facts, 320 tokens in the context", "pass key, 320 tokens in the context"),
    *(
        f"{task}, {tokens} tokens in memory"
        for task in ("facts", "pass key", "perplexity")
        for tokens in (256, 512)
    ),
    "facts, 768 tokens in memory",
    "perplexity, no memory",
]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run commands in this process; return them."""
    run: list[str] = []
    others: Callable[..., Any] = subprocess.run

    def run_here(command: list[str], **options: Any) -> Any:
        if command[1:3] != ["-m", "fotmem"]:
            return others(command, **options)
        run.append(" ".join(command[3:5]))
        ended = CliRunner().invoke(app, command[3:], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return subprocess.CompletedProcess(command, 0, stdout=ended.stdout)

    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return run


def test_another_family_is_made_tuned_and_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    for name, text in {"training/book.txt": PROSE[:30_000], "test/narrative.txt": PROSE}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    page, build = tmp_path / "page.md", tmp_path / "build"
    page.write_text(f"before\n{FIGURES}old\n{FIGURES}after\n")
    made = partial(make_model, stages=STAGES, **SIZES)
    for name, value in {
        "BUILD": build,
        "PAGE": page,
        "TRAIN": TRAIN,
        "ALIKE": "--distance 128",
        "MEASURED": MEASURED,
        "make_model": made,
    }.items():
        monkeypatch.setattr(other_family, name, value)
    other_family.main(tmp_path)
    written = page.read_text()
    _, figures, _ = written.split(FIGURES)
    _, head, _, *rows, _ = figures.split("\n")
    assert head == "|  | untuned | tuned |"
    assert sorted(row.split(" | ")[0] for row in rows if row) == sorted(f"| {row}" for row in ROWS)
    model, _ = load_model(str(build / "tuned"))
    assert type(model) is Qwen2ForCausalLM
    with fotmem.attach(model, window=64) as memory:
        assert memory.distance == 128
    once = [*commands]
    assert once[:2] == [f"layers {build}/base", f"train {build}/base"]
    other_family.main(tmp_path)
    assert (commands, page.read_text()) == (once, written)


@pytest.fixture(scope="module")
def documents() -> Documents:
    tokenizer = train_tokenizer([PROSE], SIZES["vocab_size"])
    return Documents(tokenizer, [tokenizer(PROSE).input_ids], seed=0)


def test_what_is_asked_stands_before(documents: Documents) -> None:
    tokens, answers = documents.make(0, Stage(32, 1, 1))
    assert len({*tokens[:16]}) == 16
    assert tokens[16:] == tokens[:16]
    assert answers == [False] * 17 + [True] * 15
    tokenizer = train_tokenizer([PROSE], SIZES["vocab_size"])
    asked = 0
    for number in range(5):
        tokens, answers = documents.make(number, Stage(256, 1, 1, (64,)))
        assert len(tokens) == len(answers) == 256
        for place in range(1, 256):
            if answers[place] and not answers[place - 1]:
                stop = answers.index(False, place)
                answer = tokenizer.decode(tokens[place:stop])
                assert answer.strip() in tokenizer.decode(tokens[:place])
                asked += 1
    assert asked >= 5


def test_a_stopped_training_goes_on(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_family_model, "KEPT", 2)
    stages = [Stage(16, 2, 2), Stage(256, 1, 2, (64,))]

    def trained(name: str) -> Qwen2ForCausalLM:
        torch.manual_seed(0)
        config = Qwen2Config(**{**other_family_model.SIZES, **SIZES})
        model = Qwen2ForCausalLM(config)
        fit(model, documents, stages, tmp_path / name)
        return model

    whole = trained("whole.pt").state_dict()
    rates = other_family_model.learning_rate_at

    def stop(step: int, steps: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return rates(step, steps)

    monkeypatch.setattr(other_family_model, "learning_rate_at", stop)
    with pytest.raises(KeyboardInterrupt):
        trained("stopped.pt")
    monkeypatch.setattr(other_family_model, "learning_rate_at", rates)
    for name, weight in trained("stopped.pt").state_dict().items():
        assert torch.equal(weight, whole[name]), name
