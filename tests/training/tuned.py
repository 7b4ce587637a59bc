"""Text for a training, and short trainings."""

import random
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

import fotmem
from fotmem import TrainingOptions
from fotmem.models.load import load_model
from fotmem.training.fit import TrainingResult
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture

WORDS = ["captain", "sailed", "island", "pass", "key", "What", "number", "Remember", "the", "of"]
SMALL: dict[str, Any] = {
    "layers": (1, 3),
    "window": 32,
    "documents": 2,
    "windows": 2,
    "steps": 6,
    "d": (1, 2),
    "bank_windows": (0, 1, 3),
    "facts": 0.0,
    "quotations": 0.0,
    "questions": 0.0,
    "numbers": 0.0,
    "lora_rank": 2,
    "layers_below": 0,
    "evaluate_every": 2,
}


def prose(words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def tune(folder: Path, text: Path, output: Path, **options: Any) -> TrainingResult:
    resume, callbacks = options.pop("resume", False), options.pop("callbacks", ())
    model, tokenizer = load_model(str(folder))
    chosen = TrainingOptions(**SMALL | options)
    return fotmem.train(
        model, tokenizer, [text], output, options=chosen, resume=resume, callbacks=callbacks
    )


class Stop(TrainerCallback):
    """Ends a training in the middle, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt
