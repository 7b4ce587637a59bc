"""The options that several commands share, and how they are parsed."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fotmem.amounts import SEEDS


def _parse_temperature(temperature: float | None) -> float | None:
    if temperature is not None and not 0 < temperature < math.inf:
        raise typer.BadParameter(f"expected a number above 0, got {temperature}")
    return temperature


def parse_decay(words: Any) -> Any:
    """Read a decay for all layers, such as 0.7, or by layer, such as 17:0.7,18:0.7."""
    from fotmem.arguments import checked_decay

    decay = words  # a default, unless it is text
    try:
        if isinstance(words, str) and ":" in words:
            pairs = [word.split(":") for word in words.split(",")]
            decay = {str(int(layer)): float(power) for layer, power in pairs}
        elif isinstance(words, str):
            decay = float(words)
        checked_decay(decay)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected a number of at least 0, such as 0.7, or one by layer, such as "
            f"17:0.7,18:0.7; got {words!r}"
        ) from error
    return decay


def _take_settings(context: typer.Context, config: Path | None) -> Path | None:
    """Use the settings of a file as defaults of a command's other options."""
    if config is not None:
        from fotmem.memory.config import read_config

        settings = read_config(config).arguments
        if "last_context_length" in settings:
            raise typer.BadParameter(
                f"{config} has last_context_length, which is half the window in all commands: "
                "leave it out, or use the file in fotmem.attach",
                param_hint="'--config'",
            )
        if "layers" in settings:
            settings["layers"] = ",".join(map(str, settings["layers"]))
        if "top_k" in settings:
            settings["top_k"] = "all" if settings["top_k"] is None else str(settings["top_k"])
        if "dtype" in settings:
            settings["dtype"] = str(settings["dtype"]).removeprefix("torch.")
        context.default_map = {**(context.default_map or {}), **settings}
    return config


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a GGUF file, a hub id, [bold]smollm2[/bold] or [bold]smollm2-fot[/bold].",
    ),
]
Texts = Annotated[
    list[Path],
    typer.Option("--text", metavar="FILE", help="A plain text file (UTF-8); may be repeated."),
]
TextsOrReference = Annotated[
    list[Path],
    typer.Option(
        "--text",
        metavar="FILE",
        help="A plain text file (UTF-8); may be repeated; default: Python's language reference, "
        "which [bold]smollm2-fot[/bold] was trained on.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Memory layers, such as 17,18 or 14-25 (both ends); default: the config's."),
]
Window = Annotated[int, typer.Option(min=2, help="Tokens of local context.")]
OptionalWindow = Annotated[
    int | None,
    typer.Option(min=2, help="Tokens of local context; default: 512, or the saved memory's."),
]
Distance = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Positions from memory to each token; 0: to the window's first; default: the "
        "config's, or 0.",
    ),
]
Recent = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Last tokens of memory that keep their positions before the window; default: the "
        "config's, or 0.",
    ),
]
Decay = Annotated[
    Any,
    typer.Option(
        metavar="NUMBER",
        parser=parse_decay,
        help="Weight of a key n windows (of 256 tokens at most) ago: n^-decay, from 8 on "
        "(n^2/8)^-decay; by layer: 17:0.7,18:0.7 (others 0); default: the config's, or 0.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Divisor of the scores of remembered keys; default: the config's, or 1.",
        callback=_parse_temperature,
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Dtype of the model and its memory; default: the checkpoint's."),
]
TopK = Annotated[
    str, typer.Option(help="Hits per query and head, or [bold]all[/bold] for dense attention.")
]
OptionalTopK = Annotated[
    str | None,
    typer.Option(
        help="Hits per query and head, or [bold]all[/bold] for dense attention; default: 32, or "
        "the saved memory's."
    ),
]
Store = Annotated[str, typer.Option(help="Name of the store, see [bold]fotmem stores[/bold].")]
StoreOrConfig = Annotated[
    str | None,
    typer.Option(
        "--store", help="Name of the store, see [bold]fotmem stores[/bold]; default: exact."
    ),
]
Stores = Annotated[
    str | None, typer.Option(help="Stores to compare instead of one, such as exact,hnsw.")
]
StoresOfAnswers = Annotated[
    str | None,
    typer.Option(
        help="Stores to compare instead of one, such as exact,hnsw; answers then attend to memory, "
        "unless --passages is given."
    ),
]
Grid = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Options to compare, as TOML; default: those that each store proposes."
    ),
]
StoreOption = Annotated[
    list[str],
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the store; may be repeated."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of fotmem select: a store, its options, and defaults of other options.",
        callback=_take_settings,
        is_eager=True,
    ),
]
Attend = Annotated[
    bool, typer.Option("--attend", help="Let windows attend to memory while they are read.")
]
Passages = Annotated[
    int,
    typer.Option(
        min=0,
        help="Passages that a question attends to, to read again; 0: the answer attends to memory.",
    ),
]
Beside = Annotated[
    str | None,
    typer.Option(
        help="Ways to answer without a memory, to ask the same: some of "
        "[bold]window,context,bm25,sinks[/bold]."
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write figures, options and versions to this file, as JSON."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def seed_option(help: str) -> Any:
    """Return the option of a seed."""
    return typer.Option(min=0, max=SEEDS - 1, help=help)
