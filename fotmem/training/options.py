"""The options of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fotmem.arguments import DecayField
from fotmem.errors import require_packages

D = (1, 2, 2, 2)
OLDEST = 64
"""Windows: the largest random age."""
KeyWeight = Annotated[float, Field(gt=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainingOptions(BaseModel):
    """How a model is trained.

    The defaults are those of the SmolLM2 recipe, but for `layers`, `layers_below` and `bf16`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layers: tuple[int, ...] | None = None
    """Memory layers. Default: as `fotmem.attach` chooses them."""
    method: Literal["lora", "full"] = "lora"
    """Whether low-rank adapters of the attention projections are trained (Hu et al. 2021,
    arXiv:2106.09685), or the projections in full."""
    lora_rank: int = Field(default=16, ge=1)
    layers_below: int = Field(default=7, ge=0)
    """How many layers below the first memory layer are trained, besides those from it to the last.
    Layers below write into an answer's tokens what it answers; memory layers find it by that."""
    window: int = Field(default=256, ge=2)
    """Tokens of a window."""
    distance: int | None = Field(default=None, ge=0)
    """How many positions before each token the windows before it stand, and memory later (see
    `fotmem.attach`). Default: 1,024, or half of the model's positions if those are fewer."""
    recent: int | None = Field(default=None, ge=0)
    """How many of the last remembered tokens keep their positions in the tuned model (see
    `fotmem.attach`); in training, those of the window directly before do. 0: none. Default: 512, or
    a quarter of the model's positions if those are fewer."""
    decay: DecayField = 0.7
    """How fast older keys lose weight, in all layers or by layer (see `fotmem.attach`), in training
    and later. In training, documents with facts get a random age; those of plain text have their
    own."""
    temperature: float = Field(default=0.7, gt=0)
    """Divisor of the scores of remembered keys (see `fotmem.attach`), in the beginning: each query
    head of a memory layer learns its own."""
    documents: int = Field(default=2, ge=1)
    """Documents per step."""
    windows: int = Field(default=8, ge=2, lt=OLDEST)
    """Windows per document, or as many as it has. Each attends to all before it; with distillation
    they must fit the model's context."""
    steps: int = Field(default=360, ge=1)
    d: tuple[int, ...] = D
    """To the windows of how many documents a window attends, in equal parts of the training; by
    default at most `documents`."""
    negative_weight: tuple[KeyWeight, ...] = (1.0,)
    """Factor of the weight of each key of other documents, also in equal parts: as if memory held
    so many times more of them."""
    bank_windows: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """How many windows of the bank a window attends to as well, also in equal parts."""
    bank_weight: KeyWeight = 1.0
    """Factor of the weight of each key of the bank: a memory in use may be larger than the bank."""
    facts: Share = 0.5
    """Share of documents with invented facts."""
    quotations: Share = 0.3
    """Share of documents in which later windows ask for quotations from windows before."""
    questions: Share = 0.5
    """Share of documents in which later windows ask what sentences of windows before say: who or
    what does something, when, how many. Questions are made of English sentences by their form."""
    numbers: Share = 0.5
    """Share of documents with numbers put into their text, such as years and pages. In a text full
    of numbers, a number is hard to find."""
    text_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss on the text of later windows, beside the loss on answers."""
    distillation: float = Field(default=3.0, ge=0)
    """Weight of the divergence from the predictions of the untrained model, which reads all windows
    in one context (see `Teacher`); it keeps the model as it was."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """The highest one, after `warmup` steps; it then falls to 0."""
    learning_rate_decay: float = Field(default=1.0, gt=0)
    """The learning rate falls with this power of the share of steps left; 1 is a straight line."""
    warmup: int = Field(default=10, ge=0)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """The bank makes gradients jump; with the usual 0.999, Adam would take huge steps for long."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    bf16: bool = False
    """Compute in bfloat16; weights keep their dtype."""
    evaluate_every: int = Field(default=90, ge=1)
    """Steps between evaluations, and between checkpoints."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random."""

    @model_validator(mode="before")
    @classmethod
    def _fit_default(cls, given: Any) -> Any:
        documents = given.get("documents") if isinstance(given, Mapping) else None
        if not isinstance(documents, int) or documents < 1:
            return given
        return {"d": tuple(min(d, documents) for d in D), **given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.d or not all(1 <= d <= self.documents for d in self.d):
            raise ValueError(f"d must be from 1 to documents ({self.documents}), got {self.d}")
        if not self.negative_weight:
            raise ValueError("negative_weight must not be empty; 1 changes nothing")
        if not self.bank_windows:
            raise ValueError("bank_windows must not be empty; 0 is none")
        if not (self.facts or self.quotations or self.questions or self.learns_text):
            raise ValueError(
                "facts, quotations, questions, text_weight and distillation are all 0: nothing to "
                "learn"
            )
        return self

    @property
    def learns_text(self) -> bool:
        """Whether the model learns from text, not only from answers."""
        return bool(self.text_weight or self.distillation)

    @property
    def examples(self) -> int:
        """Count the documents of the whole training."""
        return self.steps * self.gradient_accumulation * self.documents

    def d_at(self, step: int) -> int:
        """Return `d` of a step; steps count from 0."""
        return self.d[self._part_at(step, self.d)]

    def negative_weight_at(self, step: int) -> float:
        """Return the weight of negatives in a step; steps count from 0."""
        return self.negative_weight[self._part_at(step, self.negative_weight)]

    def bank_windows_at(self, step: int) -> int:
        """Return how many windows of the bank a step attends to; steps count from 0."""
        return self.bank_windows[self._part_at(step, self.bank_windows)]

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        warming = min(1.0, (step + 1) / (self.warmup + 1))
        return (
            self.learning_rate * warming * math.pow(1 - step / self.steps, self.learning_rate_decay)
        )

    def _part_at(self, step: int, parts: Sequence[object]) -> int:
        """Return which of equal parts of the training a step belongs to."""
        return min(step * len(parts) // self.steps, len(parts) - 1)


def require_training_packages(
    name: str, options: TrainingOptions, data: Iterable[Path] = ()
) -> None:
    """Raise `MissingPackageError` unless all packages that a training needs are installed."""
    packages = ["accelerate", "matplotlib"]
    packages += ["peft"] if options.method == "lora" else []
    packages += ["datasets"] if any(path.is_dir() for path in data) else []
    require_packages(name, *packages, extra="train")
