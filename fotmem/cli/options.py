"""The options that several commands share, and how they are parsed."""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from fotmem.amounts import SEEDS
from fotmem.errors import OptionError
from fotmem.files import python_reference, read_text
from fotmem.plugin.create import find_store, validated_options


def _parse_temperature(temperature: float | None) -> float | None:
    if temperature is not None and not 0 < temperature < math.inf:
        raise typer.BadParameter(f"expected a number above 0, got {temperature}")
    return temperature


def _take_settings(context: typer.Context, config: Path | None) -> Path | None:
    """Use the settings of a file as defaults of a command's other options."""
    if config is not None:
        from fotmem.memory.config import read_config

        settings = read_config(config).arguments
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
        help="A plain text file (UTF-8); may be repeated; default: Python's language reference.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Memory layers, such as 17,18 or 14-25 (both ends); default: the config's."),
]
Window = Annotated[int, typer.Option(min=2, help="Tokens of local context.")]
Distance = Annotated[
    int | None,
    typer.Option(min=0, help="Positions between memory and window; default: the config's, or 0."),
]
Decay = Annotated[
    float | None,
    typer.Option(
        min=0, help="Weight of a key n windows ago: n^-decay; default: the config's, or 0."
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
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write figures, options and versions to this file, as JSON."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def seed_option(help: str) -> Any:
    """Return the option of a seed."""
    return typer.Option(min=0, max=SEEDS - 1, help=help)


def check_amount(option: str, given: str | None, read: Callable[[str, str], float]) -> None:
    """Refuse an amount that cannot be read."""
    if given is None:
        return
    try:
        read(option.removeprefix("--"), given)
    except OptionError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from error


def parse_stores(stores: str) -> list[str]:
    """Parse ``"exact,hnsw"``."""
    names = [name.strip() for name in stores.split(",")]
    refuse_repeated("--stores", names)
    if not all(names):
        raise typer.BadParameter(
            f"expected names such as exact,hnsw, got {stores!r}", param_hint="'--stores'"
        )
    return names


def refuse_repeated(option: str, given: Sequence[object]) -> None:
    """Refuse a list with duplicates."""
    for each in given:
        if given.count(each) > 1:
            raise typer.BadParameter(
                f"expected each once, got {each} more than once", param_hint=f"'{option}'"
            )


def parse_layers(layers: str | None) -> list[int] | None:
    """Parse ``"6,12,18"`` or ``"14-25"`` (both ends included)."""
    if layers is None:
        return None
    found: list[int] = []
    for part in layers.split(","):
        ends = re.fullmatch(r" *([0-9]{1,4})(?:-([0-9]{1,4}))? *", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if first > last:
            raise typer.BadParameter(
                f"expected layers such as 17,18,20 or 14-25, got {layers!r}",
                param_hint="'--layers'",
            )
        found += range(first, last + 1)
    refuse_repeated("--layers", found)
    return found


def parse_sizes(sizes: str, option: str, *, one: bool = False) -> list[int]:
    """Parse ``"4096"`` or ``"4k,16k,1M"``; k is 1,024 and M is 1,048,576."""
    found = []
    for part in sizes.split(","):
        size = re.fullmatch(r" *([0-9]{1,9})([kM]?) *", part)
        if size is None or int(size[1]) == 0:
            raise typer.BadParameter(
                f"expected sizes such as 4096 or 4k,16k, got {sizes!r}", param_hint=f"'{option}'"
            )
        found.append(int(size[1]) * {"": 1, "k": 2**10, "M": 2**20}[size[2]])
    if one and len(found) > 1:
        raise typer.BadParameter(
            f"expected one size, such as 16k, got {sizes!r}", param_hint=f"'{option}'"
        )
    refuse_repeated(option, found)
    return found


def parse_top_k(top_k: str) -> int | None:
    """Parse a number, or ``"all"``."""
    if top_k == "all":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", top_k) or int(top_k) < 1:
        raise typer.BadParameter(
            f"expected a number of at least 1, or all, got {top_k!r}", param_hint="'--top-k'"
        )
    return int(top_k)


def parse_store(
    name: str | None, given: list[str], config: Path | None
) -> tuple[str, dict[str, Any]]:
    """Parse the name of a store and its options; check them."""
    if config is None:
        name = "exact" if name is None else name
        return name, parse_options(name, given)
    if name is not None or given:
        other = "--store" if name is not None else "--option"
        raise typer.BadParameter(
            f"it names the store, so {other} is not allowed", param_hint="'--config'"
        )
    from fotmem.memory.config import read_config

    read = read_config(config)
    validated_options(find_store(read.store), read.options)
    return read.store, read.options


def parse_options(name: str, given: list[str]) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` for a store, with values as JSON or text; check them."""
    plain: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"expected NAME=VALUE, got {each!r}", param_hint="'--option'")
        if key in plain:
            raise typer.BadParameter(
                f"expected {key} once, got {plain[key]!r} and {value!r}", param_hint="'--option'"
            )
        plain[key] = value
    read = {key: _value(value) for key, value in plain.items()}
    spec = find_store(name)
    try:
        validated_options(spec, read)
    except OptionError:
        try:
            validated_options(spec, plain)  # a text that looks like a number
        except OptionError:
            pass
        else:
            return plain
        raise
    return read


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_question(question: str) -> str:
    """Refuse a question that no tokenizer can read."""
    if not question.strip():
        raise typer.BadParameter("expected a question, got none")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter("expected UTF-8 text, got other bytes") from error
    return question


def read_texts(paths: list[Path]) -> str:
    """Read text files, joined by an empty line; Python's language reference if there are none."""
    return "\n\n".join(map(read_text, paths)) if paths else python_reference()


@contextmanager
def quietly() -> Iterator[None]:
    """Hide progress bars of other libraries."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


def load_quietly(name: str, dtype: str | None = None) -> tuple[Any, Any]:
    """Load a model and its tokenizer, with a spinner on stderr."""
    console = Console(file=sys.stderr)
    with console.status(f"loading {escape(name)}"), quietly():
        import torch
        import transformers

        from fotmem.models.load import load_model

        transformers.logging.set_verbosity_error()
        return load_model(name, dtype=None if dtype is None else getattr(torch, dtype))
