"""Trains the small model that fotmem ships as ``dictionary-fot``, which looks records up.

Run by ``make recipe-dictionary``; a second run continues a stopped one.
"""

from pathlib import Path

from fotmem.training.checkpoints import last_checkpoint
from fotmem.training.dictionary import train_dictionary
from recipes.shipping import ship_halves
from recipes.stopping import run_recipe

BUILD = Path("build/dictionary")
SHIPPED = Path("fotmem/recipes/dictionary")


def main() -> None:
    """Train, and put the model where the package ships it from."""
    train_dictionary(BUILD, resume=last_checkpoint(BUILD) is not None, progress=True)
    ship(BUILD)
    print(f"the model is in {SHIPPED}")


def ship(trained: Path) -> None:
    """Copy a trained model to where the package has it, its weights rounded to float16."""
    others = ("config.json", "tokenizer.json", "tokenizer_config.json", "losses.png")
    ship_halves(trained, SHIPPED, "model.safetensors", *others)


if __name__ == "__main__":
    run_recipe(main)
