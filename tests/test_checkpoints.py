"""What a training begins in, and what it goes on from."""

import json
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.errors import CheckpointError, InputError, StorageError
from fotmem.training import checkpoints
from fotmem.training.checkpoints import last_checkpoint
from tests import folders
from tests.commands import call, refusal
from tests.tiny import one_thread  # noqa: F401 - a fixture
from tests.training.tuned import Stop, prose, tune


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(prose(2000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def stopped(folder: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was stopped after its second checkpoint."""
    output = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.raises(KeyboardInterrupt):
        tune(folder, text, output, callbacks=[Stop(5)])
    return output


@pytest.fixture
def output(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "out"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"learning_rate": 0.5}, "learning_rate 0.002, not 0.5"),
        ({"seed": 3}, "seed 0, not 3"),
        ({"layers": (1,)}, r"layers \[1, 3\], not \[1\]"),
        ({"evaluate_every": 3, "facts": 0.5, "window": 32}, "facts 0.0, not 0.5; evaluate_every 2"),
    ],
)
def test_other_options_are_refused_by_name(
    changed: dict[str, Any], reason: str, folder: Path, text: Path, output: Path
) -> None:
    before = content(output)
    with pytest.raises(InputError, match=f"checkpoint-4 is of another training, with {reason}"):
        tune(folder, text, output, resume=True, **changed)
    assert content(output) == before


def test_other_data_and_models_are_refused(
    folder: Path, text: Path, output: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(prose(2000, seed=1), encoding="utf-8")
    with pytest.raises(InputError, match="of another training, with another data: "):
        tune(folder, other, output, resume=True)
    larger = folders.write(tmp_path / "model", num_key_value_heads=4)
    with pytest.raises(InputError, match="of another training, with another model: "):
        tune(larger, text, output, resume=True)


def test_resume_needs_a_checkpoint(
    folder: Path, text: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="holds no complete checkpoint to resume: begin"):
            tune(folder, text, each, resume=True)
    (output / "checkpoint-4" / checkpoints.BANK_FILE).unlink()
    (output / "checkpoint-x").mkdir()
    (output / "checkpoint-x" / checkpoints.BANK_FILE).touch()
    assert last_checkpoint(output) == output / "checkpoint-2"
    shutil.rmtree(output / "checkpoint-2")
    for resume in (True, False):
        with pytest.raises(InputError, match="a training was killed while it wrote checkpoint-"):
            tune(folder, text, output, resume=resume)
    given = ["train-dictionary", "--output", tmp_path / "none", "--resume"]
    assert "holds no complete checkpoint" in refusal(capsys, 1, *given)
    assert not (tmp_path / "none").exists()


def every_file(stopped: Path) -> list[str]:
    return [file.name for file in (stopped / "checkpoint-4").iterdir()]


def test_every_damaged_file_is_named(folder: Path, text: Path, output: Path) -> None:
    checkpoint = output / "checkpoint-4"
    names = every_file(output)
    assert {"optimizer.pt", "rng_state.pth", "training.json", "trainer_state.json"} <= {*names}
    for name in names:
        file = checkpoint / name
        kept = file.read_bytes()
        for damaged in (kept[:-1], kept[:-1] + b"\xff"):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=f"{name} is damaged .*remove checkpoint-4"):
                tune(folder, text, output, resume=True)
        if name != checkpoints.BANK_FILE:  # without it there is no checkpoint
            file.unlink()
            with pytest.raises(CheckpointError, match=f"{name} is damaged"):
                tune(folder, text, output, resume=True)
        file.write_bytes(kept)
    shutil.rmtree(checkpoint)
    assert tune(folder, text, output, resume=True).history[-1]["step"] == 6


class Harm:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_harmful_pickles_are_not_loaded(
    name: str, folder: Path, text: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the checksum is right."""
    monkeypatch.chdir(output.parent)
    checkpoint = output / "checkpoint-4"
    torch.save(Harm(), checkpoint / name)
    about = json.loads((checkpoint / checkpoints.ABOUT_FILE).read_text())
    about["files"][name] = checkpoints._checksum(checkpoint / name)
    (checkpoint / checkpoints.ABOUT_FILE).write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="checkpoint-4 is damaged"):
        tune(folder, text, output, resume=True)
    assert not Path("harm").exists()
    pickle.loads(pickle.dumps(Harm()))
    assert Path("harm").exists()


@pytest.mark.parametrize(
    "about",
    [
        {"files": {"../../book.txt": "00000000"}},
        {"files": {}},
        {"fotmem_training": 2},
        {"more": 1},
        {"training": {}},
    ],
    ids=str,
)
def test_the_info_of_a_checkpoint_is_checked(
    about: dict[str, Any], folder: Path, text: Path, output: Path
) -> None:
    file = output / "checkpoint-4" / checkpoints.ABOUT_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | about))
    with pytest.raises(CheckpointError, match=r"checkpoint-4.* is damaged"):
        tune(folder, text, output, resume=True)


@pytest.mark.parametrize("size", [1000, 30_000, 60_000])
def test_a_full_disk_leaves_no_half_checkpoint(
    size: int, folder: Path, text: Path, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*make room there"):
            tune(folder, text, tmp_path / "with" / "out", method="full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "with").exists()


def test_the_saved_model_is_complete_or_absent(
    folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("fotmem.training.fit.draw_losses", full)
    with pytest.raises(StorageError, match="No space left on device"):
        tune(folder, text, tmp_path / "out", steps=2)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    tune(folder, text, tmp_path / "out", steps=2, resume=True)
    assert (tmp_path / "out" / "losses.png").is_file()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_training_that_fails_at_once_leaves_nothing(
    folder: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(folder, text, tmp_path / "with" / "out", callbacks=[Stop(1)])
    assert not (tmp_path / "with").exists()


def test_d_is_at_most_documents() -> None:
    assert fotmem.TrainingOptions(documents=2).d == (1, 2, 2, 2)
    assert fotmem.TrainingOptions(documents=1).d == (1, 1, 1, 1)
    assert fotmem.TrainingOptions().d == fotmem.TrainingOptions(documents=9).d == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="d must be from 1 to documents"):
        fotmem.TrainingOptions(documents=2, d=(1, 4))
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="seed"):
            fotmem.TrainingOptions(seed=seed)


def test_one_document_by_the_command(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--documents", 1, "--layers", "1,3", "--window", 32, "--windows", 2, "--steps", 1]
    words += ["--evaluate-every", 1, "--facts", 0]
    ended = call(capsys, "train", folder, "--data", text, "--output", tmp_path / "out", *words)
    assert ended.code == 0, ended.err
    about = json.loads((tmp_path / "out" / "checkpoint-1" / checkpoints.ABOUT_FILE).read_text())
    assert about["training"]["options"]["d"] == [1, 1, 1, 1]
