"""Trains a model to use its memory, and saves the result."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, set_seed

from fotmem.arguments import checked_distance, checked_recent, checked_window
from fotmem.crossbatch import Crossbatch
from fotmem.errors import OptionError
from fotmem.memory.options import check_decay_layers
from fotmem.models.memory_layers import memory_layers
from fotmem.models.model_parts import model_parts
from fotmem.training.checkpoints import Training, check_output, digest
from fotmem.training.documents import read_documents, split_off
from fotmem.training.examples import Examples
from fotmem.training.fit import TrainingResult, evaluated_examples, fit
from fotmem.training.options import TrainingOptions, require_training_packages
from fotmem.training.teacher import Teacher

DISTANCE = 1024
"""How many positions before each token memory stands by default."""
RECENT = 512
"""How many of the last remembered tokens keep their positions by default."""
HELD_OUT = 0.05
"""Share of each document, at its end, to evaluate on where no other text is given."""


def train(
    model: Any,
    tokenizer: Any,
    data: Iterable[str | Path],
    output: str | Path,
    *,
    evaluate_on: Iterable[str | Path] = (),
    options: TrainingOptions | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
) -> TrainingResult:
    """Train a model to use its memory, by crossbatch (Tworkowski et al. 2023, arXiv:2307.03170).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that an adapter knows. Its attention projections are trained.
    tokenizer : transformers tokenizer
    data : iterable of path
        What `load_documents` takes: files, folders, datasets on disk and of the hub.
    output : path
        Folder for the result, its checkpoints, ``history.json`` and ``losses.png``.
    evaluate_on : iterable of path
        Other text to evaluate on. Default: the end of each document, which is not trained on.
    options : TrainingOptions, optional
    resume : bool
        Go on from the last complete checkpoint in `output`, as if never interrupted, with the same
        model, data and options; only `steps` may change.
    callbacks : sequence of transformers.TrainerCallback
        Your own callbacks.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    MissingPackageError
        A package that training needs is not installed.
    InputError
        A file of the data cannot be used; the message names it. Or `output` holds a training and
        `resume` is False, or none or another one and `resume` is True.
    CheckpointError
        The last checkpoint is damaged; the message names the file.
    StorageError
        `output` holds other files, or cannot be written.
    LayerError
        A memory layer does not exist, or the decay names one without memory.
    OptionError
        A window, or with distillation all windows of a document, are longer than the model's
        context, or the distance is none of the model's positions.
    """
    options = options or TrainingOptions()
    folder, read, held_out = Path(output), [*map(Path, data)], [*map(Path, evaluate_on)]
    require_training_packages("fotmem.train", options, [*read, *held_out])
    check_output(folder, resume=resume)
    least = 2 * options.window
    runs = read_documents(read, tokenizer, least=least)
    others = read_documents(held_out, tokenizer, least=least)
    if not others:
        runs, others = split_off(runs, HELD_OUT, least=least)
    parts = model_parts(model)
    longest: int = parts.decoder.config.max_position_embeddings
    layers = memory_layers(parts, options.layers)
    check_decay_layers(options.decay, layers)
    first = max(0, layers[0] - options.layers_below)
    attentions = [parts.attentions[layer] for layer in range(first, layers[-1] + 1)]
    projections = [weight for attention in attentions for weight in attention.parameters()]
    checked_window(options.window, longest)
    teacher = None
    if options.distillation:
        if options.windows * options.window > longest:
            raise OptionError(
                f"window must be at most {longest // options.windows}, got {options.window}: "
                f"distillation reads {options.windows} in one context, and the model's is "
                f"{longest}; choose fewer windows, or distillation=0"
            )
        teacher = Teacher(model, projections if options.method == "full" else ())
    examples = functools.partial(
        Examples,
        tokenizer=tokenizer,
        window=options.window,
        windows=options.windows,
        facts=options.facts,
        quotations=options.quotations,
        numbers=options.numbers,
        questions=options.questions,
        batch=options.documents,
    )
    distance = options.distance
    if distance is None:
        distance = min(DISTANCE, longest // 2)
    distance = checked_distance(distance, longest)
    recent = min(RECENT, longest // 4) if options.recent is None else options.recent
    recent = checked_recent(recent, longest)
    training = Training(options=options, model=digest(projections), data=digest([*runs, *others]))
    set_seed(options.seed)  # also for the first weights of the adapters
    with Crossbatch(
        model,
        layers,
        bank_windows=max(options.bank_windows),
        bank_weight=options.bank_weight,
        distance=distance,
        recent=bool(recent),
        decay=options.decay,
        temperature=options.temperature,
    ) as crossbatch:
        return fit(
            _trainable(model, attentions, options),
            tokenizer,
            crossbatch,
            (
                examples(runs, size=options.examples, seed=options.seed),
                examples(
                    others,
                    size=evaluated_examples(options, options.windows),
                    seed=options.seed + 1,
                ),
            ),
            folder,
            training,
            recent=recent,
            held_out=others,
            resume=resume,
            teacher=teacher,
            callbacks=callbacks,
            progress=progress,
        )


def _trainable(model: Any, attentions: list[nn.Module], options: TrainingOptions) -> Any:
    """Freeze all weights but these attention projections, or but an adapter for them."""
    model.requires_grad_(False)
    if options.method == "full":
        for attention in attentions:
            attention.requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model

    inside = {id(part) for attention in attentions for part in attention.modules()}
    names = [
        name
        for name, part in model.named_modules()
        if id(part) in inside and isinstance(part, nn.Linear)
    ]
    config = LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_rank, target_modules=names, lora_dropout=0.0
    )
    with warnings.catch_warnings():  # peft uses names of transformers before 5.24
        warnings.simplefilter("ignore", FutureWarning)
        tuned = get_peft_model(model, config)
    tuned.peft_config["default"].base_model_name_or_path = ""  # or peft asks the hub about it
    return tuned
