"""What can be chosen about training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fotmem.errors import require_packages

D = (1, 2, 4, 4)
Share = Annotated[float, Field(ge=0, le=1)]


class TrainingOptions(BaseModel):
    """How a model is trained; the defaults are those of the SmolLM2 recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layers: tuple[int, ...] | None = None
    """Memory layers. Default: as `fotmem.attach` chooses them."""
    method: Literal["lora", "full"] = "lora"
    """What is trained of the attention projections: low-rank adapters (Hu et al. 2021,
    arXiv:2106.09685), or the projections in full."""
    lora_rank: int = Field(default=16, ge=1)
    layers_below: int = Field(default=7, ge=0)
    """How many layers below the first memory layer are trained, besides those from it to the last.
    An answer is found by what layers below have written into its tokens: what it answers."""
    window: int = Field(default=256, ge=2)
    """Tokens of a previous and of a current window."""
    distance: int | None = Field(default=None, ge=0)
    """How many positions before a current window the previous ones stand, and memory later on (see
    `fotmem.attach`). Default: 1,024, or as many as are left of the model's positions."""
    decay: float = Field(default=0.7, ge=0)
    """How fast what was read longer ago counts for less (see `fotmem.attach`), while it trains and
    later on. What tells facts is taken to be of any age, as it will be; text follows on text."""
    temperature: float = Field(default=1.0, gt=0)
    """What scores of remembered keys are divided by (see `fotmem.attach`), then and later on."""
    documents: int = Field(default=4, ge=1)
    """Pairs of windows per step."""
    steps: int = Field(default=240, ge=1)
    d: tuple[int, ...] = D
    """How many previous windows a current one attends to, in equal parts of the training; by
    default no more than there are `documents`."""
    bank_windows: tuple[Annotated[int, Field(ge=0)], ...] = (0, 0, 0, 32)
    """How many earlier previous windows are attended to besides, in equal parts, too."""
    bank_weight: float = Field(default=16.0, gt=0)
    """How many keys each key of the bank counts for, as memory at work is larger."""
    facts: Share = 0.75
    """Share of pairs with invented facts."""
    text_weight: float = Field(default=0.0, ge=0)
    """Of the loss on the text of current windows, beside that on answers."""
    distillation: float = Field(default=1.0, ge=0)
    """Weight of what keeps the model as it was: how far its predictions are from those that the
    untrained model makes of both windows in one context (see `Teacher`)."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """At its highest, after `warmup` steps; it falls to 0 with the steps left."""
    learning_rate_decay: float = Field(default=1.0, gt=0)
    """It falls as this power of the share of steps left; 1 is a straight line."""
    warmup: int = Field(default=10, ge=0)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """The bank makes gradients jump: with the usual 0.999, Adam would take huge steps for long."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    bf16: bool = False
    """Compute in bfloat16; weights stay as they are."""
    evaluate_every: int = Field(default=50, ge=1)
    """Steps; so often there is a checkpoint, too."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything random."""

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
        if not self.bank_windows:
            raise ValueError("bank_windows must not be empty; 0 is none")
        if not (self.facts or self.learns_text):
            raise ValueError("facts, text_weight and distillation are all 0: nothing to learn")
        return self

    @property
    def learns_text(self) -> bool:
        """Whether anything but answers is learnt."""
        return bool(self.text_weight or self.distillation)

    @property
    def examples(self) -> int:
        """Count the pairs of windows of the whole training."""
        return self.steps * self.gradient_accumulation * self.documents

    def d_at(self, step: int) -> int:
        """Return `d` of a step, counted from 0."""
        return self.d[self._part_at(step, self.d)]

    def bank_windows_at(self, step: int) -> int:
        """Return how many windows of the bank a step looks at, counted from 0."""
        return self.bank_windows[self._part_at(step, self.bank_windows)]

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        warming = min(1.0, (step + 1) / (self.warmup + 1))
        return (
            self.learning_rate * warming * math.pow(1 - step / self.steps, self.learning_rate_decay)
        )

    def _part_at(self, step: int, parts: tuple[int, ...]) -> int:
        """Return which of equal parts of the training a step belongs to."""
        return min(step * len(parts) // self.steps, len(parts) - 1)


def require_training_packages(
    name: str, options: TrainingOptions, data: Iterable[Path] = ()
) -> None:
    """Raise `MissingPackageError`, which names all, unless what such a training needs is there."""
    packages = ["accelerate", "matplotlib"]
    packages += ["peft"] if options.method == "lora" else []
    packages += ["datasets"] if any(path.is_dir() for path in data) else []
    require_packages(name, *packages, extra="train")
