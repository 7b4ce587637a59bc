"""Puts what a recipe trained to where the package ships it from."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def ship_halves(trained: Path, shipped: Path, weights: str, *others: str) -> None:
    """Copy files of a training; its weights are rounded to float16."""
    shipped.mkdir(parents=True, exist_ok=True)
    for name in others:
        shutil.copyfile(trained / name, shipped / name)
    halves = {
        name: weight.to(torch.float16) for name, weight in load_file(trained / weights).items()
    }
    save_file(halves, shipped / weights, metadata={"format": "pt"})
    for name in (weights, *others):
        (shipped / name).chmod(0o644)
