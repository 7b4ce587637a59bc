"""transformers' Trainer, with crossbatch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer

from fotmem.crossbatch import Crossbatch
from fotmem.training.options import TrainingOptions

BANK_FILE = "bank.safetensors"
"""Written last into a checkpoint: where it is, the checkpoint is complete."""


class CrossbatchTrainer(Trainer):
    """Trains a model whose memory layers attend across the batch.

    Parameters
    ----------
    crossbatch : Crossbatch
        Attached to the model.
    options : TrainingOptions
    **kwargs
        As `transformers.Trainer` takes them; datasets are `Pairs`.
    """

    def __init__(self, crossbatch: Crossbatch, options: TrainingOptions, **kwargs: Any) -> None:
        super().__init__(data_collator=collate, **kwargs)
        self.model_accepts_loss_kwargs = False  # our loss is a mean over each batch
        self._crossbatch, self._options = crossbatch, options
        self._batches: list[Tensor] = []  # of an evaluation: right, asked, loss on text

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Weigh the loss on answers and on the rest of the current windows."""
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1].float()  # [B, T - 1, V]
        labels = inputs["input_ids"][len(logits) :, 1:]
        answers = inputs["answers"][:, 1:]
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses = losses.view(labels.shape)
        text = losses[~answers].mean()
        loss = self._options.text_weight * text
        if bool(answers.any()):
            loss = loss + losses[answers].mean()
        if return_outputs:
            right = (logits.argmax(-1) == labels)[answers].sum()
            return loss, torch.stack([right, answers.sum(), text]).cpu()
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step with the `d` and the bank of its time; then keep its previous windows."""
        step = self.state.global_step
        self._crossbatch.d = self._options.d_at(step)
        self._crossbatch.use_bank = self._options.bank_at(step)
        loss: Tensor = super().training_step(*args, **kwargs)
        self._crossbatch.commit()
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Let the learning rate follow the options."""
        options = self._options
        optimized: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(
            optimized,
            lambda step: options.learning_rate_at(step) / options.learning_rate,
        )
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure with the last `d` and the bank as it is; count right answer tokens, too."""
        self._crossbatch.d, self._crossbatch.use_bank = self._options.d[-1], True
        self._batches = []
        return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what `evaluate` has measured besides the loss."""
        if "eval_loss" in logs:
            counts = torch.stack(self._batches).sum(0)
            logs["eval_text_loss"] = float(counts[2] / len(self._batches))
            if counts[1]:
                logs["eval_answers_right"] = float(counts[0] / counts[1])
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Measure one batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, counts = self.compute_loss(model, inputs, return_outputs=True)
        self._batches.append(counts)
        return loss.detach(), None, None

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        examples: Any = self.train_dataset
        return SequentialSampler(examples)  # they are random as they are

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        assert self.args.output_dir is not None
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        partial = folder / f"{BANK_FILE}.partial"
        save_file(self._crossbatch.bank.state_dict(), partial)
        os.replace(partial, folder / BANK_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
        self._crossbatch.bank.load_state_dict(load_file(Path(resume_from_checkpoint) / BANK_FILE))


def collate(pairs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack pairs: previous windows first, then the current ones ``[2 * B, T]``."""
    windows = [pair["previous"] for pair in pairs] + [pair["current"] for pair in pairs]
    return {
        "input_ids": torch.stack(windows),
        "answers": torch.stack([pair["answers"] for pair in pairs]),
    }


def last_checkpoint(folder: Path) -> Path | None:
    """Find the last complete checkpoint of a training."""
    complete = [file.parent for file in folder.glob(f"checkpoint-*/{BANK_FILE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
