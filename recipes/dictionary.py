"""Trains the small model that fotmem ships as ``dictionary-fot``, which looks records up.

Run by ``make recipe-dictionary``; a second run goes on where the first was stopped.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fotmem.dictionary.train import train_dictionary

BUILD = Path("build/dictionary")
SHIPPED = Path("fotmem/recipes/dictionary")
WEIGHTS = "model.safetensors"


def main() -> None:
    """Train, and put the model where the package ships it from."""
    train_dictionary(BUILD, resume=True, progress=True)
    ship(BUILD)
    print(f"the model is in {SHIPPED}")


def ship(trained: Path) -> None:
    """Copy a trained model to where the package has it, its weights rounded to float16."""
    SHIPPED.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "losses.png"):
        shutil.copyfile(trained / name, SHIPPED / name)
    halves = {
        name: weight.to(torch.float16) for name, weight in load_file(trained / WEIGHTS).items()
    }
    save_file(halves, SHIPPED / WEIGHTS, metadata={"format": "pt"})
    (SHIPPED / WEIGHTS).chmod(0o644)


if __name__ == "__main__":
    main()
