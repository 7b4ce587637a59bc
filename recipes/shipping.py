"""Puts what a recipe trained to where the package ships it from."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fotmem.errors import CheckpointError
from fotmem.interrupts import interrupts_deferred


def ship_halves(trained: Path, shipped: Path, weights: str, *others: str) -> None:
    """Copy files of a training; its weights are rounded to float16.

    If that fails, nothing is shipped: files of two trainings do not fit together.

    Raises
    ------
    CheckpointError
        The weights are damaged.
    """
    try:
        halves = {
            name: weight.to(torch.float16) for name, weight in load_file(trained / weights).items()
        }
    except SafetensorError as error:
        raise CheckpointError(f"{trained / weights} is damaged ({error}): train again") from error
    shipped.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shipped.parent) as folder:
        made = Path(folder)
        save_file(halves, made / weights, metadata={"format": "pt"})
        for name in others:
            shutil.copyfile(trained / name, made / name)
        with interrupts_deferred():
            for name in (weights, *others):
                (made / name).chmod(0o644)
                (made / name).replace(shipped / name)
