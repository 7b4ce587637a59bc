"""The Trainer of transformers, with crossbatch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer

from fotmem.crossbatch import Crossbatch
from fotmem.errors import InputError
from fotmem.interrupts import interrupts_deferred
from fotmem.training.checkpoints import (
    BANK_FILE,
    Training,
    complete,
    damage_named,
    writing_named,
)
from fotmem.training.scored import only_scored
from fotmem.training.teacher import Teacher

TEMPERATURE_RATE = 10
"""Learning rate of the temperatures of heads, relative to that of the weights."""
TEXT_STRIDE = 4
"""One of this many text tokens is scored, another one in the next step of a training."""


class _Predicted(NamedTuple):
    """The predictions of a batch that are scored, `n` of them."""

    scored: Tensor
    """Bool ``[W, T]``: the tokens that predict."""
    logits: Tensor
    """Shape ``[n, V]``."""
    labels: Tensor
    """Shape ``[n]``."""
    losses: Tensor
    """Shape ``[n]``, in nats."""
    answer: Tensor
    """Bool ``[n]``: which predict a token of an answer."""
    alone: Tensor
    """Bool ``[n]``: which stand in the first window of a document, which has no memory."""

    @property
    def text(self) -> Tensor:
        """Bool ``[n]``: which predict text in windows with a memory."""
        return ~(self.answer | self.alone)


class CrossbatchTrainer(Trainer):
    """Trains a model whose memory layers attend across the batch.

    Parameters
    ----------
    crossbatch : Crossbatch
        Attached to the model.
    training : Training
        What is trained, and how.
    teacher : Teacher, optional
        The untrained model.
    **kwargs
        As `transformers.Trainer` takes them; datasets are `Examples`.
    """

    def __init__(
        self,
        crossbatch: Crossbatch,
        training: Training,
        *,
        teacher: Teacher | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=collate, **kwargs)
        self.model_accepts_loss_kwargs = False  # our loss is a mean over each batch
        self._crossbatch, self._training, self._teacher = crossbatch, training, teacher
        self._options = training.options
        self._below = [
            weight
            for attention in crossbatch.below
            for weight in attention.parameters()
            if weight.requires_grad
        ]
        self._batches: list[Tensor] = []  # of an evaluation, see prediction_step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Add up the losses on answers, on text, and the divergence from the teacher."""
        options = self._options
        found = self._predicted(model, inputs)
        loss = _mean(found.losses[found.answer])
        if options.text_weight:
            loss = loss + options.text_weight * _mean(found.losses[found.text])
        if self._teacher is not None:
            with self.accelerator.autocast():
                changes = self._teacher.divergence(
                    inputs["input_ids"],
                    found.scored,
                    found.logits,
                    inputs["windows_per_document"],  # type: ignore[arg-type]
                )
            change = _mean(changes[found.alone]) + _mean(changes[found.text])
            loss = loss + options.distillation * change
        return (loss, found) if return_outputs else loss

    def _predicted(self, model: nn.Module, inputs: dict[str, Tensor]) -> _Predicted:
        ids, answers = inputs["input_ids"], inputs["answers"]
        windows: Any = inputs["windows_per_document"]
        self._crossbatch.windows_per_document = windows
        self._crossbatch.ages = inputs.get("ages")
        step = self.state.global_step if model.training else 0  # evaluations are comparable
        scored = self._scored(answers, step)
        with only_scored(self.accelerator.unwrap_model(model), scored):
            logits = model(input_ids=ids).logits[0].float()
        labels, answer = (each.roll(-1, 1)[scored] for each in (ids, answers))
        first = torch.tensor([0, *windows[:-1]], device=ids.device).cumsum(0)
        alone = torch.isin(scored.nonzero()[:, 0], first)
        losses = cross_entropy(logits, labels, reduction="none")
        return _Predicted(scored, logits, labels, losses, answer, alone)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step with its `d`, its weights and its bank; then put its windows into the bank.

        While the bank is in use, layers below the first memory layer are not trained: the bank
        keeps their outputs, and a change would separate old keys from new ones.
        """
        step = self.state.global_step
        self._crossbatch.d = self._options.d_at(step)
        self._crossbatch.negative_weight = self._options.negative_weight_at(step)
        self._crossbatch.bank_windows = self._options.bank_windows_at(step)
        for weight in self._below:
            weight.requires_grad_(not self._crossbatch.bank_windows)
        loss: Tensor = super().training_step(*args, **kwargs)
        if not loss.isfinite():
            raise InputError(
                f"the loss of step {step + 1} is {float(loss)}: choose a smaller learning rate "
                f"than {self._options.learning_rate:g}, or see whether the weights are damaged"
            )
        self._crossbatch.commit()
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Train the temperatures of heads, too, unless they are frozen."""
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        temperatures = self._crossbatch.log_temperatures
        trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        if temperatures.requires_grad and id(temperatures) not in trained:
            rate = TEMPERATURE_RATE * self._options.learning_rate
            group = {"params": [temperatures], "lr": rate, "weight_decay": 0.0}
            optimizer.add_param_group(group)
            # The Trainer clears gradients of the model only.
            optimizer.register_step_post_hook(lambda *_: setattr(temperatures, "grad", None))
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of the learning rate that the options describe."""
        options = self._options
        optimized: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(
            optimized,
            lambda step: options.learning_rate_at(step) / options.learning_rate,
        )
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the loss as at the end, with the current bank; count right answer tokens."""
        self._crossbatch.d = self._options.d[-1]
        self._crossbatch.negative_weight = self._options.negative_weight[-1]
        self._crossbatch.bank_windows = self._options.bank_windows[-1]
        self._batches = []
        return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the figures that `evaluate` has measured besides the loss."""
        if "eval_loss" in logs:
            counts = torch.stack(self._batches).sum(0)
            if self._options.learns_text:
                logs["eval_text_loss"] = float(counts[2] / len(self._batches))
                logs["eval_text_loss_alone"] = float(counts[3] / len(self._batches))
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
        """Measure one batch, with memory and without."""
        inputs = self._prepare_inputs(inputs)
        crossbatch = self._crossbatch
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, found = self.compute_loss(model, inputs, return_outputs=True)
            looked = crossbatch.d, crossbatch.bank_windows
            crossbatch.d = crossbatch.bank_windows = 0
            without = self._predicted(model, inputs)
            crossbatch.d, crossbatch.bank_windows = looked
        right = (found.logits.argmax(-1) == found.labels)[found.answer].sum()
        text = [_mean(each.losses[each.text]) for each in (found, without)]
        self._batches.append(torch.stack([right, found.answer.sum(), *text]).cpu())
        return loss.detach(), None, None

    def _scored(self, answers: Tensor, step: int) -> Tensor:
        """Return which predictions are scored ``[W, T]``: all before answers, some of the rest."""
        scored = answers.roll(-1, 1)
        if self._options.learns_text:
            rows, tokens = (torch.arange(size, device=answers.device) for size in answers.shape)
            scored = scored | ((rows[:, None] + tokens + step) % TEXT_STRIDE == 0)
        scored[:, -1] = False
        return scored

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        examples: Any = self.train_dataset
        return SequentialSampler(examples)  # they are in random order already

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        assert self.args.output_dir is not None
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with writing_named(folder):
                super()._save_checkpoint(*args, **kwargs)
                bank = folder / f"{BANK_FILE}.partial"
                save_file(self._crossbatch.state_dict(), bank)
                complete(folder, bank, self._training)
        except BaseException:
            with interrupts_deferred():
                if not (folder / BANK_FILE).exists():
                    shutil.rmtree(folder, ignore_errors=True)
            raise

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        with damage_named(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
            self._crossbatch.load_state_dict(load_file(Path(resume_from_checkpoint) / BANK_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with damage_named(Path(checkpoint or "")):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with damage_named(Path(checkpoint or "")):
            super()._load_rng_state(checkpoint)


def collate(examples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Put the windows of all documents one after another ``[W, T]``.

    An example is one document ``[P, T]`` or several ``[n, P, T]``.
    """
    documents = [windows for each in examples for windows in _documents(each["windows"])]
    answers = [answers for each in examples for answers in _documents(each["answers"])]
    batch: dict[str, Any] = {"input_ids": torch.cat(documents), "answers": torch.cat(answers)}
    batch["windows_per_document"] = [*map(len, documents)]
    if "age" in examples[0]:
        batch["ages"] = torch.stack([each["age"] for each in examples])
    return batch


def _documents(windows: Tensor) -> Tensor:
    return windows.view(-1, *windows.shape[-2:])


def _mean(losses: Tensor) -> Tensor:
    """Return the mean; of nothing, 0: a batch may have nothing to learn from."""
    return losses.mean() if len(losses) else losses.sum()
