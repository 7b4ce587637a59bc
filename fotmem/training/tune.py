"""Trains a model to use its memory, and saves what became of it."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from fotmem.crossbatch import Crossbatch
from fotmem.errors import InputError
from fotmem.training.curves import draw_losses
from fotmem.training.documents import read_documents, split_off
from fotmem.training.options import TrainingOptions
from fotmem.training.pairs import Pairs
from fotmem.training.progress import Progress
from fotmem.training.trainer import CrossbatchTrainer, last_checkpoint
from fotmem.tuned import save

EVALUATED = 64
"""Pairs to evaluate on."""
HELD_OUT = 0.05
"""Share of each document, its end, to evaluate on where no other text is given."""


class Trained(NamedTuple):
    """What training leaves."""

    model: Any
    """In eval mode, without crossbatch; with method ``lora`` a `peft.PeftModel`."""
    history: list[dict[str, float]]
    """What the Trainer logged: losses, learning rates and evaluations, with their step."""


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
) -> Trained:
    """Teach a model to use its memory, by crossbatch (Tworkowski et al. 2023, arXiv:2307.03170).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model that an adapter knows. Its attention projections are trained.
    tokenizer : transformers tokenizer
    data : iterable of path
        Text files, JSONL files or datasets on disk.
    output : path
        Folder for the result, its checkpoints, ``history.json`` and ``losses.png``.
    evaluate_on : iterable of path
        Other text to evaluate on; default: the end of each document, which is not trained on.
    options : TrainingOptions, optional
    resume : bool
        Go on from the last complete checkpoint in `output`, exactly as if never interrupted.
    callbacks : sequence of transformers.TrainerCallback
        Of your own.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    InputError
        Bad data, by name of the file; `output` holds a training already, and `resume` is False.
    """
    options = options or TrainingOptions()
    folder = Path(output)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise InputError(f"{folder} holds a training already: resume it, or choose another folder")
    least = 2 * options.window
    runs = read_documents(map(Path, data), tokenizer, least=least)
    others = read_documents(map(Path, evaluate_on), tokenizer, least=least)
    if not others:
        runs, others = split_off(runs, HELD_OUT, least=least)
    set_seed(options.seed)  # of the adapters' first weights, too
    batches = options.steps * options.gradient_accumulation
    pairs = functools.partial(
        Pairs, tokenizer=tokenizer, window=options.window, facts=options.facts
    )
    with Crossbatch(model, options.layers, bank_windows=options.bank_windows) as crossbatch:
        trainer = CrossbatchTrainer(
            crossbatch,
            options,
            model=_trainable(model, crossbatch, options),
            args=_arguments(folder, options, on_cpu=model.device.type == "cpu"),
            train_dataset=pairs(runs, size=batches * options.documents, seed=options.seed),
            eval_dataset=pairs(others, size=EVALUATED, seed=options.seed + 1),
            callbacks=[*callbacks, *([Progress()] if progress else [])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        layers = crossbatch.layers
    trained: Any = trainer.model
    trained.eval()
    save(trained, folder, layers)
    tokenizer.save_pretrained(folder)
    history = trainer.state.log_history
    (folder / "history.json").write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
    draw_losses(history, folder / "losses.png")
    return Trained(trained, history)


def _trainable(model: Any, crossbatch: Crossbatch, options: TrainingOptions) -> Any:
    """Freeze all but the attention projections from the first memory layer to the last."""
    model.requires_grad_(False)
    span = range(crossbatch.layers[0], crossbatch.layers[-1] + 1)
    attentions = [crossbatch.adapter.attentions(crossbatch.decoder)[layer] for layer in span]
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
    with warnings.catch_warnings():  # peft asks transformers under names of before 5.24
        warnings.simplefilter("ignore", FutureWarning)
        tuned = get_peft_model(model, config)
    tuned.peft_config["default"].base_model_name_or_path = ""  # or peft asks the hub about it
    return tuned


def _arguments(folder: Path, options: TrainingOptions, *, on_cpu: bool) -> TrainingArguments:
    # transformers 5.24 renamed it.
    names = {field.name for field in fields(TrainingArguments)}
    new, old = "activation_checkpointing", "gradient_checkpointing"
    checkpointing: dict[str, Any] = (
        {new if new in names else old: True} if options.gradient_checkpointing else {}
    )
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.documents,
        per_device_eval_batch_size=options.documents,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        # The bank makes gradients jump: with the usual 0.999, Adam would take huge steps for long.
        adam_beta2=0.95,
        max_grad_norm=0.5,
        bf16=options.bf16,
        use_cpu=on_cpu,
        seed=options.seed,
        data_seed=options.seed,
        eval_strategy="steps",
        eval_steps=options.evaluate_every,
        save_strategy="steps",
        save_steps=options.evaluate_every,
        save_total_limit=2,
        logging_steps=min(10, options.evaluate_every),
        remove_unused_columns=False,
        label_names=["answers"],
        report_to=[],
        disable_tqdm=True,
        **checkpointing,
    )
