"""The result of a training, and going on after it was stopped."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import TrainerCallback

import fotmem
from fotmem import TrainingOptions
from fotmem.models.load import load_model
from fotmem.training.checkpoints import BANK_FILE, last_checkpoint
from tests import folders
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture
from tests.training.tuned import Stop, tune


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
            assert memory.distance == 64 // 2  # half of the positions
            assert (memory.decay, memory.temperature) == (0.5, 1.0)
        learned = tuned.config.mem_head_temperatures
        assert {*learned} == {"1", "3"}
        assert all(len(heads) == 4 and set(heads) != {0.8} for heads in learned.values())
        assert sum(learned["1"]) / 4 == pytest.approx(0.8, abs=0.2)
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


@pytest.mark.parametrize("options", [{"windows": 6}, {"documents": 5, "windows": 3, "d": (5,)}])
def test_evaluation_has_whole_batches(
    folder: Path, text: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    few: dict[str, Any] = {"window": 8, "steps": 1, "bank_windows": (0,)}
    [evaluated] = evaluations(tune(folder, text, tmp_path / "out", **few | options).history)
    assert evaluated["eval_text_loss"] > 0


def test_evaluations_of_all_steps_are_comparable(folder: Path, text: Path, tmp_path: Path) -> None:
    """They score the same tokens at each step: with weights that stay, figures stay."""
    still: dict[str, Any] = {"learning_rate": 1e-12, "bank_windows": (0,), "steps": 3}
    found = evaluations(tune(folder, text, tmp_path / "out", **still, evaluate_every=1).history)
    figures = [(each["eval_text_loss"], each["eval_text_loss_alone"]) for each in found]
    assert figures == [pytest.approx(figures[0], abs=1e-5)] * 3
    assert figures[0][0] != pytest.approx(figures[0][1], abs=1e-5)


def test_a_tuned_model_is_tuned_further(folder: Path, text: Path, tmp_path: Path) -> None:
    tune(folder, text, tmp_path / "first", steps=1, learning_rate=0.1)
    trained = tune(tmp_path / "first", text, tmp_path / "second", steps=1, learning_rate=0.1)
    model, _ = load_model(str(tmp_path / "second"))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert difference(model(ids).logits, trained.model(ids).logits) <= 1e-4


def evaluations(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [each for each in history if "eval_loss" in each]


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


def test_d_weights_and_the_bank_change_in_equal_parts_of_the_training() -> None:
    options = TrainingOptions(
        steps=12,
        documents=4,
        d=(1, 2, 4),
        negative_weight=(1, 100),
        bank_windows=(0, 5),
        learning_rate_decay=2,
    )
    assert [options.d_at(step) for step in range(12)] == [1] * 4 + [2] * 4 + [4] * 4
    assert [options.negative_weight_at(step) for step in range(12)] == [1] * 6 + [100] * 6
    assert [options.bank_windows_at(step) for step in range(12)] == [0] * 6 + [5] * 6
    rates = [options.learning_rate_at(step) / options.learning_rate for step in range(10, 12)]
    assert rates == pytest.approx([(1 / 6) ** 2, (1 / 12) ** 2])
    with pytest.raises(ValueError, match="bank_windows must not be empty"):
        TrainingOptions(bank_windows=())
    with pytest.raises(ValueError, match="negative_weight must not be empty"):
        TrainingOptions(negative_weight=())


def test_negatives_weigh_more_in_their_part_of_the_training(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    still: dict[str, Any] = {"learning_rate": 1e-12, "bank_windows": (0,), "d": (2,)}
    still |= {"steps": 2, "evaluate_every": 1}
    alike, weighed = (
        tune(folder, text, tmp_path / name, **still, negative_weight=weights).history
        for name, weights in {"alike": (1.0, 1.0), "weighed": (1e6, 1.0)}.items()
    )
    losses, evaluations = (
        [
            entry[name] == pytest.approx(other[name], abs=1e-4)
            for entry, other in zip(alike, weighed, strict=True)
            if name in entry
        ]
        for name in ("loss", "eval_loss")
    )
    assert losses == [False, True]
    assert evaluations == [True, True]  # they are as at the end


def test_a_distance_beyond_the_models_positions_is_refused(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(fotmem.errors.OptionError, match="distance must be from 0 to 63, got 64"):
        tune(folder, text, tmp_path / "out", distance=64)
    assert not (tmp_path / "out").exists()


def test_a_decay_of_a_layer_without_memory_is_refused(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(fotmem.errors.LayerError, match="decay names layer 2, which has no memory"):
        tune(folder, text, tmp_path / "out", decay={1: 0.5, 2: 0.5})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("window", "distillation", "reason"),
    [(33, 1.0, "32, got 33: distillation reads 2 in one"), (65, 0.0, r"\(64\), got 65")],
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
        assert (memory.decay, memory.temperature) == (0.7, 1.0)
    assert sum(model.config.mem_head_temperatures["1"]) / 4 == pytest.approx(0.8, abs=0.2)


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
    one, two = (each.model.config.mem_head_temperatures for each in (resumed, whole))
    assert one == two


def test_an_incomplete_checkpoint_is_skipped(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}" / BANK_FILE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
