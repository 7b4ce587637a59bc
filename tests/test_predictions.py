"""A model whose predictions are not numbers is refused, in one line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fotmem.errors import InputError
from fotmem.models.predictions import check_predictions
from fotmem.training.dictionary_model import new_model, new_tokenizer
from tests import folders
from tests.commands import refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture

CURE = "its weights are damaged, or its dtype overflows: take --dtype float32"


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Save a model, and a text beside it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "text.txt").write_text(folders.PROSE[:6000], encoding="utf-8")
    return folder


def spoiled(folder: Path, spoil: Callable[[torch.Tensor], object]) -> Path:
    """Save a model with a damaged last layer, which no memory sees."""
    model = folders.model(max_position_embeddings=512)
    with torch.no_grad():
        spoil(model.lm_head.weight)
    return save(folder, model, folders.tokenizer())


def test_scores_must_be_numbers_or_minus_infinity() -> None:
    check_predictions(torch.tensor([-math.inf, 0, 1]))
    for wrong in (math.nan, math.inf):
        with pytest.raises(InputError, match=f"the model predicts nan or inf, not numbers: {CURE}"):
            check_predictions(torch.tensor([0, wrong], dtype=torch.float16))


COMMANDS = {
    "perplexity": ["--tokens", 64, "--scored", 64],
    "passkey": ["--tokens", 200, "--trials", 1],
    "facts": ["--tokens", 200, "--facts", 1],
    "ruler": ["--tokens", 700, "--trials", 1, "--tasks", "niah_single_2"],
}


@pytest.mark.parametrize("task", COMMANDS)
def test_damaged_weights(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = spoiled(tmp_path / "model", lambda weight: weight[7].fill_(math.nan)), "report"
    given = ["eval", task, folder, "--text", folder / "text.txt", "--window", 64, *COMMANDS[task]]
    line = refusal(capsys, 1, *given, "--report", tmp_path / file)
    assert line == f"the model predicts nan or inf, not numbers: {CURE}"
    assert not (tmp_path / file).exists()


def test_damaged_weights_of_a_dictionary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = new_model(0)
    with torch.no_grad():
        model.model.norm.weight[7] = math.nan
    folder = save(tmp_path / "model", model, new_tokenizer())
    line = refusal(capsys, 1, "eval", "dictionary", folder, "--tokens", 100)
    assert line.endswith(CURE)


def test_a_loss_that_has_no_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = spoiled(tmp_path / "model", lambda weight: weight.mul_(1e4))
    given = ["eval", "perplexity", folder, "--text", folder / "text.txt", "--window", 32]
    line = refusal(capsys, 1, *given, "--tokens", 64, "--scored", 64)
    assert line.startswith("the model's mean loss is ")
    assert line.endswith(f" nats: {CURE}")
