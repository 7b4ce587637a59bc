"""Parses the options that several commands share."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from fotmem.errors import OptionError
from fotmem.plugin.create import find_store, validated_options


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
