"""``fotmem train``."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from fotmem.cli.loading import load_quietly
from fotmem.cli.options import Layers, Model, parse_decay, seed_option
from fotmem.cli.parsing import parse_layers
from fotmem.training.options import TrainingOptions, require_training_packages

DEFAULTS = TrainingOptions()


def train(
    model: Model,
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="A file, folder or dataset with documents; may be repeated.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the result.")],
    evaluate_on: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Text to evaluate on; default: the ends of the data."),
    ] = None,
    layers: Layers = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps.")] = DEFAULTS.steps,
    window: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = DEFAULTS.window,
    distance: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Positions from memory to each token; default: 1024, or half of the model's.",
        ),
    ] = None,
    recent: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Last tokens of memory that keep their positions before the window; default: 512, "
            "or a quarter of the model's.",
        ),
    ] = None,
    decay: Annotated[
        Any,
        typer.Option(
            metavar="NUMBER",
            parser=parse_decay,
            help="Decay of the memory of the trained model; by layer: 17:0.7,18:0.7 (others 0).",
        ),
    ] = DEFAULTS.decay,
    temperature: Annotated[
        float, typer.Option(help="Temperature of all heads before they learn their own; above 0.")
    ] = DEFAULTS.temperature,
    documents: Annotated[int, typer.Option(min=1, help="Documents per step.")] = DEFAULTS.documents,
    windows: Annotated[
        int, typer.Option(min=2, max=63, help="Windows per document.")
    ] = DEFAULTS.windows,
    d: Annotated[
        str | None,
        typer.Option(
            "--d",
            help="Documents attended to, in equal parts of the training; default: "
            f"{','.join(map(str, DEFAULTS.d))}, or as many as there are documents.",
        ),
    ] = None,
    negative_weight: Annotated[
        str,
        typer.Option(
            help="Weight of a key of other documents, in equal parts of the training: as if memory "
            "held so many times more of them."
        ),
    ] = ",".join(map("{:g}".format, DEFAULTS.negative_weight)),
    bank_windows: Annotated[
        str, typer.Option(help="Windows of the bank, in equal parts of the training.")
    ] = ",".join(map(str, DEFAULTS.bank_windows)),
    bank_weight: Annotated[
        float, typer.Option(help="Weight of a key of the bank.")
    ] = DEFAULTS.bank_weight,
    facts: Annotated[
        float, typer.Option(min=0, max=1, help="Share of documents with invented facts.")
    ] = DEFAULTS.facts,
    quotations: Annotated[
        float, typer.Option(min=0, max=1, help="Share of documents asked for quotations.")
    ] = DEFAULTS.quotations,
    questions: Annotated[
        float, typer.Option(min=0, max=1, help="Share of documents asked what sentences say.")
    ] = DEFAULTS.questions,
    numbers: Annotated[
        float, typer.Option(min=0, max=1, help="Share of documents with numbers put into them.")
    ] = DEFAULTS.numbers,
    text_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the usual loss on text.")
    ] = DEFAULTS.text_weight,
    distillation: Annotated[
        float, typer.Option(min=0, help="Weight of the loss that keeps the model as it was.")
    ] = DEFAULTS.distillation,
    full: Annotated[
        bool, typer.Option("--full", help="Train whole projections instead of LoRA.")
    ] = False,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of LoRA.")] = DEFAULTS.lora_rank,
    layers_below: Annotated[
        int, typer.Option(min=0, help="Layers trained below the first memory layer.")
    ] = DEFAULTS.layers_below,
    learning_rate: Annotated[
        float, typer.Option(help="Highest learning rate.")
    ] = DEFAULTS.learning_rate,
    gradient_accumulation: Annotated[
        int, typer.Option(min=1, help="Batches per step.")
    ] = DEFAULTS.gradient_accumulation,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Use less memory and more time.")
    ] = False,
    bf16: Annotated[
        bool,
        typer.Option(
            "--bf16", help="Compute in bfloat16; weights that are not trained are in it, too."
        ),
    ] = False,
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Steps between evaluations, and between checkpoints.")
    ] = DEFAULTS.evaluate_every,
    seed: Annotated[int, seed_option("Seed of everything random.")] = DEFAULTS.seed,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in DIR.")
    ] = False,
) -> None:
    """Train a model to use its memory, by crossbatch.

    Every other command takes DIR as MODEL afterwards.

    Example: fotmem train smollm2 --data book.txt --output tuned --steps 100
    """
    options = _options(
        layers=parse_layers(layers),
        method="full" if full else "lora",
        lora_rank=lora_rank,
        layers_below=layers_below,
        steps=steps,
        window=window,
        distance=distance,
        recent=recent,
        decay=decay,
        temperature=temperature,
        documents=documents,
        windows=windows,
        **({} if d is None else {"d": _parse_numbers("d", d)}),
        negative_weight=_parse_weights("negative-weight", negative_weight),
        bank_windows=_parse_numbers("bank-windows", bank_windows),
        bank_weight=bank_weight,
        facts=facts,
        quotations=quotations,
        questions=questions,
        numbers=numbers,
        text_weight=text_weight,
        distillation=distillation,
        learning_rate=learning_rate,
        gradient_accumulation=gradient_accumulation,
        gradient_checkpointing=gradient_checkpointing,
        bf16=bf16,
        evaluate_every=evaluate_every,
        seed=seed,
    )
    require_training_packages("fotmem train", options, [*data, *(evaluate_on or ())])
    from fotmem.training.checkpoints import check_output

    check_output(output, resume=resume)
    frozen = options.method == "lora"
    llama, tokenizer = load_quietly(model, "bfloat16" if bf16 and frozen else None)
    from fotmem.training import tune

    trained = tune.train(
        llama,
        tokenizer,
        data,
        output,
        evaluate_on=evaluate_on or (),
        options=options,
        resume=resume,
        progress=True,
    )
    console = Console()
    console.print(_table(trained.history))
    console.print(f"saved in {output}", soft_wrap=True)


def _options(**given: Any) -> TrainingOptions:
    try:
        return TrainingOptions(**given)
    except ValidationError as error:
        [first, *_] = error.errors()
        name = "".join(f"--{part}".replace("_", "-") for part in first["loc"][:1])
        reason = first["msg"].removeprefix("Value error, ")
        number = "expected a number" if " than " in reason else "expected"
        reason = reason.replace("Input should be", number)
        raise typer.BadParameter(
            f"{reason}, got {first['input']!r}" if name else reason,
            param_hint=f"'{name}'" if name else None,
        ) from error


def _parse_numbers(option: str, given: str) -> tuple[int, ...]:
    parts = given.split(",")
    if not all(re.fullmatch(" *[0-9]{1,9} *", part) for part in parts):
        raise typer.BadParameter(
            f"expected numbers such as 1,2,4, got {given!r}", param_hint=f"'--{option}'"
        )
    return tuple(map(int, parts))


def _parse_weights(option: str, given: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, given.split(",")))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers such as 1,10,100, got {given!r}", param_hint=f"'--{option}'"
        ) from None


def _table(history: list[dict[str, float]]) -> Table:
    columns = {
        "eval_answers_right": "answer tokens correct",
        "eval_text_loss": "loss on text with memory",
        "eval_text_loss_alone": "without memory",
    }
    table = Table("step", *columns.values(), title="evaluation text")
    for entry in history:
        if "eval_loss" in entry:
            figures = [f"{entry[name]:.3f}" if name in entry else "" for name in columns]
            table.add_row(str(entry["step"]), *figures)
    return table
