"""`fotmem train`: killed and resumed, its output, and wrong options."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fotmem import progress
from fotmem.models.load import load_model
from fotmem.training.checkpoints import last_checkpoint
from tests.commands import PROGRAM, call, refusal
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture

COMMAND = (
    "--layers 1,3 --window 32 --windows 2 --d 1,2 --bank-windows 0,1,3 --facts 0 --lora-rank 2"
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


@pytest.mark.parametrize("method", [(), ("--full",)], ids=["lora", "full"])
def test_in_bfloat16(
    folder: Path, text: Path, tmp_path: Path, capsys: Any, method: tuple[str, ...]
) -> None:
    """With documents to tell apart, whose windows are seen by other queries than a row's own."""
    given = ["train", folder, "--data", text, "--output", tmp_path / "out", *COMMAND.split()]
    ended = call(capsys, *given, "--steps", 2, "--bf16", "--documents", 2, *method)
    assert ended.code == 0, ended.err
    model, _ = load_model(str(tmp_path / "out"))
    assert model.dtype == torch.float32


def test_a_tuned_model_finds_its_base_from_other_folders(
    folder: Path, text: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    given = ["train", folder.name, "--data", text, "--output", tmp_path / "out"]
    assert not call(capsys, *given, *COMMAND.split(), "--steps", 1).code
    about = json.loads((tmp_path / "out/memory.json").read_text())
    assert about["base"] == str(folder.resolve())
    monkeypatch.chdir(tmp_path)
    load_model("out")


def test_a_training_that_was_killed_in_its_first_checkpoint(
    folder: Path, text: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "out/checkpoint-90").mkdir(parents=True)
    given = ["train", folder, "--data", text, "--output", tmp_path / "out", *COMMAND.split()]
    for resume in ([], ["--resume"]):
        reason = refusal(capsys, 1, *given, *resume)
        assert "out holds no complete checkpoint: a training was killed while it wrote" in reason
        assert "checkpoint-90, or another program wrote that; remove the folder" in reason


def test_a_loss_that_is_not_finite_ends_a_training(
    folder: Path, text: Path, tmp_path: Path, capsys: Any
) -> None:
    given = ["train", folder, "--data", text, "--output", tmp_path / "out", *COMMAND.split()]
    reason = refusal(capsys, 1, *given, "--steps", 40, "--learning-rate", "4e9")
    assert re.search(r"the loss of step \d+ is (nan|inf): choose a smaller learning rate", reason)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("--d 1,9", "d must be from 1 to documents (2), got (1, 9)"),
        ("--d one", "expected numbers such as 1,2,4, got 'one'"),
        ("--learning-rate 0", "'--learning-rate': expected a number greater than 0, got 0.0"),
        ("--negative-weight 1,x", "expected numbers such as 1,10,100, got '1,x'"),
        ("--negative-weight 1,0", "'--negative-weight': expected"),
        ("--negative-weight 1,1e300", "'--negative-weight': expected"),
        ("--bank-weight 1e300", "'--bank-weight': expected"),
        ("--bank-weight inf", "'--bank-weight': expected at most 4,294,967,296, got inf"),
        ("--facts 2", "'--facts'"),
    ],
)
def test_wrong_options(
    given: str, reason: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "any", "--data", text, "--output", tmp_path / "out", *given.split()]
    assert reason in refusal(capsys, 2, *command)
