"""Runs a training to its end, from its beginning or from a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from fotmem.crossbatch import Crossbatch
from fotmem.errors import InputError
from fotmem.files import write_text
from fotmem.models.retrieval_heads import NAME as RETRIEVAL_HEADS
from fotmem.models.tuned_adapter import configure
from fotmem.outputs import filling
from fotmem.training.checkpoints import (
    Training,
    check_checkpoint,
    check_output,
    last_checkpoint,
    writing_named,
)
from fotmem.training.curves import draw_losses
from fotmem.training.options import TrainingOptions
from fotmem.training.progress import Progress
from fotmem.training.retrieval_heads import find_retrieval_heads
from fotmem.training.save import plain, save, tuned_adapter
from fotmem.training.teacher import Teacher
from fotmem.training.trainer import CrossbatchTrainer

EVALUATED = 128
"""Windows to evaluate on, about."""


def evaluated_examples(options: TrainingOptions, windows: int) -> int:
    """Count the examples of `windows` windows to evaluate on: whole batches, at least one."""
    return max(1, EVALUATED // (windows * options.documents)) * options.documents


class TrainingResult(NamedTuple):
    """A trained model, and the history of its training."""

    model: Any
    """In eval mode, with its own forward functions; a `peft.PeftModel` with method ``lora``."""
    history: list[dict[str, float]]
    """The Trainer's log: losses, learning rates and evaluations, with their step."""


def fit(
    model: Any,
    tokenizer: Any,
    crossbatch: Crossbatch,
    datasets: tuple[Dataset[dict[str, Tensor]], Dataset[dict[str, Tensor]]],
    folder: Path,
    training: Training,
    *,
    recent: int = 0,
    held_out: Sequence[Tensor] = (),
    resume: bool,
    teacher: Teacher | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
) -> TrainingResult:
    """Train the trainable weights on the first dataset, evaluate on the second, and save.

    The result gets `recent` tokens, if it was trained for them; the heads that find facts in
    documents `held_out` rank passages, if there are documents. With `resume`, it goes on from the
    last checkpoint in `folder`. A failure before the first checkpoint leaves nothing in the folder.

    Raises
    ------
    InputError, CheckpointError
        As `check_output` and `check_checkpoint`; or there are several processes.
    StorageError
        The folder cannot be written.
    """
    check_output(folder, resume=resume)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        check_checkpoint(checkpoint, training)
    kept = filling(folder, kept=lambda error: last_checkpoint(folder) is not None)
    with kept, Progress(progress) as told:
        trainer = CrossbatchTrainer(
            crossbatch,
            training,
            teacher=teacher,
            model=model,
            args=_arguments(folder, training.options, on_cpu=model.device.type == "cpu"),
            train_dataset=datasets[0],
            eval_dataset=datasets[1],
            callbacks=[*callbacks, told],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        crossbatch.detach()
        trained: Any = trainer.model
        trained.eval()
        history = trainer.state.log_history
        adapted = tuned_adapter(trained, crossbatch, recent)
        if held_out:
            configure(plain(trained), adapted)
            window, seed = training.options.window, training.options.seed
            heads = find_retrieval_heads(
                plain(trained), tokenizer, held_out, window=window, seed=seed, progress=progress
            )
            adapted = adapted.model_copy(update={RETRIEVAL_HEADS: heads})
        with writing_named(folder), TemporaryDirectory(dir=folder, prefix=".saved-") as partial:
            saved = Path(partial)
            save(trained, saved, adapted)
            tokenizer.save_pretrained(saved)
            write_text(saved / "history.json", json.dumps(history, indent=2) + "\n")
            draw_losses(history, saved / "losses.png")
            for file in saved.iterdir():
                file.replace(folder / file.name)
    return TrainingResult(trained, history)


def _arguments(folder: Path, options: TrainingOptions, *, on_cpu: bool) -> TrainingArguments:
    # transformers 5.24 renamed this argument.
    names = {field.name for field in fields(TrainingArguments)}
    new, old = "activation_checkpointing", "gradient_checkpointing"
    checkpointing: dict[str, Any] = (
        {new if new in names else old: True} if options.gradient_checkpointing else {}
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.documents,
        per_device_eval_batch_size=options.documents,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        adam_beta2=options.adam_beta2,
        max_grad_norm=options.max_grad_norm,
        bf16=options.bf16,
        use_cpu=on_cpu,
        seed=options.seed,
        data_seed=options.seed,
        eval_strategy="steps",
        eval_steps=options.evaluate_every,
        save_strategy="steps",
        save_steps=options.evaluate_every,
        save_total_limit=2,
        logging_steps=math.gcd(10, options.evaluate_every),  # the same after a resume
        remove_unused_columns=False,
        label_names=["answers"],
        report_to=[],
        disable_tqdm=True,
        **checkpointing,
    )
    if arguments.world_size > 1:
        raise InputError(
            f"crossbatch trains in one process, got {arguments.world_size}: run it without torchrun"
        )
    arguments._n_gpu = min(1, arguments.n_gpu)  # crossbatch attends across the whole batch
    return arguments
