"""``fotmem train-dictionary``."""

from pathlib import Path
from typing import Annotated

import typer

from fotmem.cli.options import seed_option
from fotmem.errors import require_packages


def train_dictionary(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the model.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps.")] = None,
    seed: Annotated[int, seed_option("Seed of everything random.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in DIR.")
    ] = False,
) -> None:
    """Train a small model from scratch to look up records in its memory.

    `fotmem eval dictionary` takes DIR as MODEL afterwards, like the shipped `dictionary-fot`.

    Example: fotmem train-dictionary --output DIR
    """
    require_packages("fotmem train-dictionary", "accelerate", "matplotlib", extra="train")
    from fotmem.training.dictionary import RECIPE, train_dictionary

    options = RECIPE.model_copy(update={"seed": seed, "steps": steps or RECIPE.steps})
    trained = train_dictionary(output, options=options, resume=resume, progress=True)
    last = [entry for entry in trained.history if "eval_answers_right" in entry][-1:]
    for entry in last:
        print(f"correct symbols among {options.d[-1]} windows: {entry['eval_answers_right']:.3f}")
    print(f"saved in {output}")
