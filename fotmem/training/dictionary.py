"""Trains a small model from scratch to look up records in its memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from fotmem.crossbatch import Crossbatch
from fotmem.tasks.dictionary import WINDOW, DictionaryPairs, TrainingStage
from fotmem.training.checkpoints import Training, check_output, digest
from fotmem.training.dictionary_model import new_model, new_tokenizer
from fotmem.training.fit import TrainingResult, evaluated_examples, fit
from fotmem.training.options import TrainingOptions, require_training_packages

PARTS = (
    *[TrainingStage(window=32)] * 2,
    TrainingStage(window=64),
    *[TrainingStage()] * 3,
    *[TrainingStage(alike=0.5)] * 3,
    *[TrainingStage(alike=0.9)] * 2,
    *[TrainingStage()] * 5,
)
"""A model finds records among few first, then among many, then among records that are alike. In the
last parts, the weight of negatives stands for a large memory, where most records are not alike."""
TEMPERATURE = 0.3
"""Temperature in use: among millions of records many nearly match, and would together outweigh the
right one as they never do in training."""
RECIPE = TrainingOptions(
    method="full",
    window=WINDOW,
    decay=0.0,
    temperature=1.0,
    documents=16,
    windows=2,
    steps=1600,
    d=(1,) * 3 + (16,) * 13,
    negative_weight=(1,) * 8 + (10,) * 4 + (100, 1000, 3000, 3000),
    bank_windows=(0,),
    facts=1.0,
    quotations=0.0,
    questions=0.0,
    numbers=0.0,
    text_weight=0.0,
    distillation=0.0,
    learning_rate=1e-3,
    learning_rate_decay=0.5,
    warmup=50,
    adam_beta2=0.99,
    max_grad_norm=1.0,
    bf16=True,
    evaluate_every=100,
)


def train_dictionary(
    output: str | Path,
    *,
    options: TrainingOptions = RECIPE,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
) -> TrainingResult:
    """Train a model for dictionary lookup (Tworkowski et al. 2023, arXiv:2307.03170, section 4).

    Parameters
    ----------
    output : path
        Folder for the model, its checkpoints, ``history.json`` and ``losses.png``.
    options : TrainingOptions
        Options about text have no effect.
    resume, callbacks, progress
        As in `fotmem.train`.

    Raises
    ------
    MissingPackageError, InputError, CheckpointError, StorageError
        As `fotmem.train`.
    """
    folder = Path(output)
    require_training_packages("train_dictionary", options)
    check_output(folder, resume=resume)
    model = new_model(options.seed)
    training = Training(options=options, model=digest(model.parameters()), data="records")
    with Crossbatch(model, bank_windows=max(options.bank_windows)) as crossbatch:
        crossbatch.log_temperatures.requires_grad_(False)  # chosen for memories of any size
        trained = fit(
            model,
            new_tokenizer(),
            crossbatch,
            (
                DictionaryPairs(options.examples, options.seed, PARTS, options.documents),
                DictionaryPairs(
                    evaluated_examples(options, 2), options.seed + 1, PARTS[-1:], options.documents
                ),
            ),
            folder,
            training,
            resume=resume,
            callbacks=callbacks,
            progress=progress,
        )
    model.config.mem_temperature = TEMPERATURE
    model.config.save_pretrained(folder)
    return trained
