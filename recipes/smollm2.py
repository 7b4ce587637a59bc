"""Trains the adapter that fotmem ships as ``smollm2-fot``, on the training texts.

Run by ``make recipe-smollm2``, after ``make texts``; a second run continues a stopped one.
"""

from pathlib import Path

import torch

import fotmem
from fotmem.models.load import load_model
from fotmem.training.checkpoints import last_checkpoint
from recipes.given_texts import texts_of
from recipes.shipping import ship_halves
from recipes.stopping import run_recipe

BUILD = Path("build/recipe-smollm2")
TEXTS = Path("build/texts/training")
SHIPPED = Path("fotmem/recipes/smollm2")
OPTIONS = fotmem.TrainingOptions(
    layers=(8, 11, 14, 15, 17, 18, 20, 21, 23, 24), layers_below=1, bf16=True
)
"""What is in layers 8 and 11 needs no training far below: what it finds, later layers find, too."""


def main() -> None:
    """Train, and put the adapter where the package ships it from."""
    model, tokenizer = load_model("smollm2", dtype=torch.bfloat16)
    output = BUILD / "tuned"
    fotmem.train(
        model,
        tokenizer,
        data(),
        output,
        options=OPTIONS,
        resume=last_checkpoint(output) is not None,
        progress=True,
    )
    ship(output)
    print(f"the adapter is in {SHIPPED}")


def ship(tuned: Path) -> None:
    """Copy a tuned adapter to where the package has it, in float16."""
    files = ("adapter_model.safetensors", "adapter_config.json", "memory.json", "losses.png")
    ship_halves(tuned, SHIPPED, *files)


def data() -> list[Path]:
    """Return the training texts."""
    return texts_of(TEXTS)


if __name__ == "__main__":
    run_recipe(main)
