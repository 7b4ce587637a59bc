"""Training: its data, its result, and going on after it was stopped."""

import json
import random
import re
import signal
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from torch import Tensor
from transformers import TrainerCallback

import fotmem
from fotmem import TrainingOptions, progress
from fotmem.memory.decay import OLDEST
from fotmem.models.load import load_model
from fotmem.tasks.facts import Facts
from fotmem.training.checkpoints import BANK_FILE, last_checkpoint
from fotmem.training.documents import read_documents, split_off
from fotmem.training.fit import TrainingResult
from fotmem.training.pairs import Pairs
from tests import folders
from tests.commands import PROGRAM, call, refusal
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture

WORDS = ["captain", "sailed", "island", "pass", "key", "What", "number", "Remember", "the", "of"]
SMALL: dict[str, Any] = {
    "layers": (1, 3),
    "window": 32,
    "documents": 2,
    "steps": 6,
    "d": (1, 2),
    "bank_windows": (0, 1, 3),
    "facts": 0.0,
    "lora_rank": 2,
    "layers_below": 0,
    "evaluate_every": 2,
}


def prose(words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(prose(2000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("model"))


def tune(folder: Path, text: Path, output: Path, **options: Any) -> TrainingResult:
    resume, callbacks = options.pop("resume", False), options.pop("callbacks", ())
    model, tokenizer = load_model(str(folder))
    chosen = TrainingOptions(**SMALL | options)
    return fotmem.train(
        model, tokenizer, [text], output, options=chosen, resume=resume, callbacks=callbacks
    )


# Documents


def test_documents_of_every_kind(tmp_path: Path, text: Path) -> None:
    tokenizer = folders.tokenizer()
    long, short = prose(100, 1), prose(10, 2)
    lines = tmp_path / "documents.jsonl"
    lines.write_text("\n".join(json.dumps({"text": t}) for t in [short, long, short, short] * 3))
    dataset = tmp_path / "dataset"
    Dataset.from_dict({"text": [long, long]}).save_to_disk(str(dataset))
    runs = read_documents([text, lines, dataset], tokenizer, least=60)

    def tokens(given: str) -> list[int]:
        return list(tokenizer(given, add_special_tokens=False).input_ids)

    assert runs[0].tolist() == tokens(text.read_text())
    assert runs[1].tolist() == tokens(long)
    joined = runs[2].tolist() if len(runs[2]) != len(tokens(long)) else runs[3].tolist()
    assert joined[: len(tokens(short)) + 1] == [*tokens(short), tokenizer.eos_token_id]
    assert [run.tolist() for run in runs[-2:]] == [tokens(long)] * 2
    assert all(len(run) >= 60 for run in runs)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("short.txt", b"too short", "has .* tokens, two windows take 64: add text"),
        ("empty.txt", b" \n", "is empty"),
        ("binary.txt", b"a\0b" * 90, "is binary, not text"),
        ("latin.txt", "é".encode("latin-1") * 90, "is not UTF-8 text"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"', "line 2: expected an object such as"),
        ("list.jsonl", b'["text"]', "line 1: expected an object such as"),
        ("number.jsonl", b'{"text": 3}', "line 1: text must be a string, got 3"),
        ("missing.txt", None, "cannot be read: No such file"),
    ],
)
def test_bad_data_is_named(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(fotmem.errors.InputError, match=f"{name}.*{reason}"):
        read_documents([path], folders.tokenizer(), least=64)


def test_a_folder_that_is_not_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fotmem.errors.InputError, match="is not a dataset on disk"):
        read_documents([tmp_path], folders.tokenizer(), least=64)
    Dataset.from_dict({"words": ["a"]}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(fotmem.errors.InputError, match="must be a dataset with a text column"):
        read_documents([tmp_path / "set"], folders.tokenizer(), least=64)


def test_the_ends_of_documents_are_split_off() -> None:
    runs = [torch.arange(1000), torch.arange(30)]
    kept, ends = split_off(runs, 0.05, least=20)
    assert torch.equal(torch.cat([kept[0], ends[0]]), runs[0])
    assert (len(ends), len(ends[0])) == (1, 50)
    assert kept[1] is runs[1]
    with pytest.raises(fotmem.errors.InputError, match="the longest document has 30 tokens"):
        split_off(runs[1:], 0.05, least=20)


# Pairs


def test_facts_of_the_previous_window_are_asked_in_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fotmem.training.pairs.TOKENS_PER_FACT", 66)  # a token is a character here
    tokenizer = folders.tokenizer()
    run = torch.tensor(tokenizer(prose(4000)).input_ids)
    pairs = Pairs([run], tokenizer, window=400, facts=1.0, size=20, seed=3)
    for index in range(20):
        pair = pairs[index]
        assert {name: tensor.shape for name, tensor in pair.items()} == {
            "previous": (400,),
            "current": (400,),
            "answers": (400,),
            "age": (),
        }
        previous, current = (str(tokenizer.decode(pair[name])) for name in ("previous", "current"))
        facts = [Facts(3)[index * 6 + place] for place in range(6)]
        assert all(fact.key.lower() in previous.lower() for fact in facts)
        assert all(fact.answer in previous for fact in facts)
        asked = [fact for fact in facts if fact.key.lower() in current.lower()]
        assert len(asked) == 5
        said = str(tokenizer.decode(pair["current"][pair["answers"]]))
        assert sorted(said.split()) == sorted(fact.answer for fact in asked)
        again = Pairs([run], tokenizer, window=400, facts=1.0, size=20, seed=3)[index]
        assert all(torch.equal(pair[name], again[name]) for name in pair)


def test_facts_get_a_random_age_and_text_does_not() -> None:
    run = folders.tokenizer()(prose(900), return_tensors="pt").input_ids[0]
    pairs = Pairs([run], folders.tokenizer(), window=200, facts=0.7, size=300, seed=0)
    drawn = [pairs[index] for index in range(300)]
    told = torch.stack([pair["answers"].any() for pair in drawn])
    ages = torch.stack([pair["age"] for pair in drawn])
    assert bool((ages[~told] == 1).all())
    logarithms = ages[told].log() / torch.tensor(OLDEST).log()
    assert float(logarithms.min()) >= 0
    assert float(logarithms.max()) <= 1
    assert logarithms.quantile(torch.tensor([0.25, 0.75])).tolist() == pytest.approx(
        [0.25, 0.75], abs=0.1
    )


def test_the_current_window_continues_the_previous_one() -> None:
    run = torch.arange(1000)
    pairs = Pairs([run], folders.tokenizer(), window=50, facts=0.0, size=9, seed=0)
    for index in range(9):
        pair = pairs[index]
        both = torch.cat([pair["previous"], pair["current"]])
        assert torch.equal(both.diff(), torch.ones(99, dtype=torch.long))
        assert not pair["answers"].any()
    with pytest.raises(IndexError):
        pairs[9]


def test_facts_do_not_contradict_each_other() -> None:
    facts = [Facts(0)[number] for number in range(1000)]
    assert len({fact.key for fact in facts}) == 1000


# Training


def test_lora_is_saved_and_loaded(folder: Path, text: Path, tmp_path: Path) -> None:
    weighing: dict[str, Any] = {"decay": 0.5, "temperature": 0.8}
    trained = tune(folder, text, tmp_path / "out", steps=3, window=16, **weighing)
    model, _ = load_model(str(tmp_path / "out"))
    base, _ = load_model(str(folder))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        logits = model(ids).logits
        assert difference(logits, trained.model(ids).logits) <= 1e-4
        assert difference(logits, base(ids).logits) > 1e-4
    for tuned in (model, trained.model):
        with fotmem.attach(tuned, window=16) as memory:
            assert memory.layers == (1, 3)
            assert memory.distance == 64 - 2 * 16  # all positions that are left
            assert (memory.decay, memory.temperature) == (0.5, 0.8)
    changed = {
        name
        for (name, one), two in zip(
            model.state_dict().items(), base.state_dict().values(), strict=True
        )
        if not torch.equal(one, two)
    }
    layers = {int(name.split(".")[2]) for name in changed}
    assert layers == {1, 2, 3}
    assert {name.split(".")[4] for name in changed} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert (tmp_path / "out" / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("below", "first"), [(0, 2), (1, 1), (9, 0)])
def test_layers_below_are_trained_too(
    folder: Path, text: Path, tmp_path: Path, below: int, first: int
) -> None:
    tune(folder, text, tmp_path / "out", layers=(2, 3), layers_below=below, steps=1)
    with safe_open(str(tmp_path / "out" / "adapter_model.safetensors"), "pt") as weights:
        layers = {int(name.split(".layers.")[1].split(".")[0]) for name in list(weights.keys())}
    assert layers == set(range(first, 4))


class Weights(TrainerCallback):
    """Keeps the trained weights after each step."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = kwargs["model"].named_parameters()
        self.kept.append({name: weight.clone() for name, weight in weights if "lora" in name})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_below_are_frozen_while_the_bank_is_in_use(
    folder: Path, text: Path, tmp_path: Path, checkpointing: bool
) -> None:
    weights = Weights()
    tune(
        folder,
        text,
        tmp_path / "out",
        layers=(2, 3),
        layers_below=2,
        bank_windows=(0, 2),
        steps=4,
        gradient_checkpointing=checkpointing,
        callbacks=[weights],
    )
    changed = [
        {
            int(name.split(".layers.")[1].split(".")[0])
            for name, weight in before.items()
            if not torch.equal(weight, after[name])
        }
        for before, after in pairwise(weights.kept)
    ]
    assert changed == [{0, 1, 2, 3}, {2, 3}, {2, 3}]


def test_d_and_the_bank_change_in_equal_parts_of_the_training() -> None:
    options = TrainingOptions(steps=12, d=(1, 2, 4), bank_windows=(0, 5), learning_rate_decay=2)
    assert [options.d_at(step) for step in range(12)] == [1] * 4 + [2] * 4 + [4] * 4
    assert [options.bank_windows_at(step) for step in range(12)] == [0] * 6 + [5] * 6
    rates = [options.learning_rate_at(step) / options.learning_rate for step in range(10, 12)]
    assert rates == pytest.approx([(1 / 6) ** 2, (1 / 12) ** 2])
    with pytest.raises(ValueError, match="bank_windows must not be empty"):
        TrainingOptions(bank_windows=())


def test_a_distance_beyond_the_models_positions_is_refused(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(fotmem.errors.OptionError, match="distance must be from 0 to 32, got 33"):
        tune(folder, text, tmp_path / "out", distance=33)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("window", "distillation", "reason"),
    [(33, 1.0, "32, got 33: distillation reads two in one"), (65, 0.0, r"\(64\), got 65")],
)
def test_windows_that_are_too_long_are_refused(
    folder: Path, text: Path, tmp_path: Path, window: int, distillation: float, reason: str
) -> None:
    weights = {"text_weight": 1.0, "distillation": distillation}
    with pytest.raises(fotmem.errors.OptionError, match=f"window must be at most .*{reason}"):
        tune(folder, text, tmp_path / "out", window=window, **weights)
    assert not (tmp_path / "out").exists()


def test_full_training_saves_a_plain_checkpoint(folder: Path, text: Path, tmp_path: Path) -> None:
    trained = tune(
        folder, text, tmp_path / "out", method="full", steps=2, distance=20, temperature=0.8
    )
    model, _ = load_model(str(tmp_path / "out"))
    ids = torch.arange(3, 40)[None]
    assert difference(model(ids).logits, trained.model(ids).logits) <= 1e-5
    with fotmem.attach(model, window=32) as memory:
        assert memory.layers == (1, 3)
        assert memory.distance == 20
        assert (memory.decay, memory.temperature) == (0.7, 0.8)


@pytest.mark.parametrize(
    "weights",
    [
        {"text_weight": 1.0, "distillation": 0.0},
        pytest.param({"distillation": 1.0}, marks=pytest.mark.thorough),
    ],
    ids=["text", "distillation"],
)
def test_training_improves_answers(folder: Path, tmp_path: Path, weights: dict[str, float]) -> None:
    path = tmp_path / "pattern.txt"
    path.write_text("captain sailed the island of pass key " * 300)
    alike = {"d": (1,), "bank_windows": (0,)}  # one task all the time
    long = {"steps": 120, "evaluate_every": 20, "learning_rate": 0.01}
    trained = tune(folder, path, tmp_path / "out", method="full", **long, **alike, **weights)
    losses = [entry["eval_loss"] for entry in trained.history if "eval_loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("facts", "alike"), [pytest.param(0.0, True, marks=pytest.mark.thorough), (1.0, False)]
)
def test_decay_applies_to_windows_with_facts(
    text: Path, tmp_path: Path, facts: float, alike: bool
) -> None:
    """Windows without facts have age 1 and keep their full weight."""
    folder = folders.write(tmp_path / "model", max_position_embeddings=200)
    weights = {"text_weight": 1.0, "distillation": 0.0}
    options: dict[str, Any] = weights | {"window": 200, "facts": facts, "steps": 2}
    found = [
        losses(tune(folder, text, tmp_path / str(decay), decay=decay, **options).history)
        for decay in (0.0, 0.7)
    ]
    assert (found[0] == found[1]) == alike


class Stop(TrainerCallback):
    """Ends a training in the middle, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


def losses(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [
        (entry["step"], entry[name])
        for entry in history
        for name in ("loss", "eval_loss")
        if name in entry
    ]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"method": "full"}, marks=pytest.mark.thorough),
        pytest.param({"gradient_accumulation": 2}, marks=pytest.mark.thorough),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    folder: Path, text: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = tune(folder, text, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        tune(folder, text, tmp_path / "parts", callbacks=[Stop(5)], **options)
    with pytest.raises(fotmem.errors.InputError, match="holds a training already: resume it"):
        tune(folder, text, tmp_path / "parts", **options)
    resumed = tune(folder, text, tmp_path / "parts", resume=True, **options)
    assert losses(resumed.history) == losses(whole.history)
    assert len(losses(whole.history)) == 6
    for one, two in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_incomplete_checkpoint_is_skipped(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}" / BANK_FILE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


# The command line

COMMAND = (
    "--layers 1,3 --window 32 --documents 2 --d 1,2 --bank-windows 0,1,3 --facts 0 --lora-rank 2"
)


@pytest.mark.thorough
def test_a_killed_training_resumes(folder: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [*PROGRAM, "train", folder, "--data", text, "--output", output, *COMMAND.split()]
    command += ["--steps", "300", "--evaluate-every", "2"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while last_checkpoint(output) is None:
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = int(str(last_checkpoint(output)).rpartition("-")[2])
    ended = subprocess.run(
        [*map(str, command), "--steps", str(step + 4), "--resume"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    history = json.loads((output / "history.json").read_text())
    assert history[-1]["step"] == step + 4


def test_the_command(
    folder: Path, text: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    given = ["train", folder, "--data", text, "--output", tmp_path / "out", *COMMAND.split()]
    ended = call(capsys, *given, "--steps", 2, "--evaluate-every", 1)
    assert ended.code == 0, ended.err
    assert "loss on text" in ended.out
    assert re.search("training: 1 of 2 steps, .* left, loss [0-9.]+\n", ended.err)
    assert f"saved in {tmp_path / 'out'}" in ended.out
    again = refusal(capsys, 1, *given)
    assert again.endswith("holds a training already: resume it, or choose another folder")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("--d 1,9", "d must be from 1 to documents (4), got (1, 9)"),
        ("--d one", "expected numbers such as 1,2,4, got 'one'"),
        ("--learning-rate 0", "'--learning-rate': expected a number greater than 0, got 0.0"),
        ("--bank-weight inf", "'--bank-weight': expected at most 4,294,967,296, got inf"),
        ("--facts 2", "'--facts'"),
    ],
)
def test_wrong_options(
    given: str, reason: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "any", "--data", text, "--output", tmp_path / "out", *given.split()]
    assert reason in refusal(capsys, 2, *command)
