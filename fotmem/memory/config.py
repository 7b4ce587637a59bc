"""``fotmem.toml``: the store of a memory, its options, and other arguments of `attach`."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fotmem.arguments import DecayField
from fotmem.errors import InputError, OptionError
from fotmem.files import read_toml, write_text


class StoreConfig(NamedTuple):
    """A store and its options."""

    store: str
    options: dict[str, Any]


class MemoryConfig(NamedTuple):
    """The arguments of `fotmem.attach` that a file gives."""

    store: str
    options: dict[str, Any]
    arguments: dict[str, Any]
    """Those besides the store and its options."""


class _MemorySection(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    store: str
    options: dict[str, Any] = Field(default_factory=dict)
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    window: Annotated[int, Field(ge=2)] | None = None
    last_context_length: Annotated[int, Field(ge=1)] | None = None
    distance: Annotated[int, Field(ge=0)] | None = None
    recent: Annotated[int, Field(ge=0)] | None = None
    decay: DecayField | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    memory: _MemorySection
    predicted: dict[str, Any] = Field(default_factory=dict)


def read_config(file: Path | str) -> MemoryConfig:
    """Read a configuration.

    Raises
    ------
    InputError
        The file cannot be read, or is not a configuration.
    OptionError
        `file` is not a path.
    """
    if not isinstance(file, str | os.PathLike):
        raise OptionError(f"config must be the path of a file such as fotmem.toml, got {file!r}")
    try:
        memory = _File.model_validate(read_toml(Path(file))).memory
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{file} is not a configuration of fotmem ({where}: {first['msg']}"
            f"{_meant(first['loc'])}): "
            'expected a table [memory] with store, such as "exact", perhaps with '
            f"{', '.join(_arguments())}, and perhaps a table [memory.options]; "
            "fotmem select writes one"
        ) from error
    for name in memory.options:
        if name in _MemorySection.model_fields:
            raise InputError(
                f"{file} has {name} in [memory.options], which holds the store's own options: "
                "write it in [memory]"
            )
    arguments = memory.model_dump(include=set(_arguments()), exclude_none=True)
    if arguments.get("top_k") == "all":
        arguments["top_k"] = None
    if "dtype" in arguments:
        arguments["dtype"] = getattr(torch, arguments["dtype"])
    return MemoryConfig(memory.store, memory.options, arguments)


def _arguments() -> list[str]:
    return [name for name in _MemorySection.model_fields if name not in ("store", "options")]


def _meant(place: tuple[int | str, ...]) -> str:
    """Name the key that a misspelt one is closest to."""
    known = _MemorySection.model_fields if len(place) > 1 else _File.model_fields
    close = difflib.get_close_matches(str(place[-1]), set(known) - {place[-1]}, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close and place[-1] not in known else ""


def write_config(
    file: Path | str,
    config: StoreConfig,
    *,
    comment: str,
    predicted: Mapping[str, Any],
    top_k: int | Literal["all"] | None = None,
) -> None:
    """Write a store, its options, perhaps `top_k`, and for people what is predicted (not None).

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    lines = [f"# {comment}", "[memory]", f"store = {_toml(config.store)}"]
    if top_k is not None:
        lines.append(f"top_k = {_toml(top_k)}")
    for title, values in (("memory.options", config.options), ("predicted", predicted)):
        if values:
            known = {name: value for name, value in values.items() if value is not None}
            pairs = (f"{name} = {_toml(value)}" for name, value in known.items())
            lines += ["", f"[{title}]", *pairs]
    write_text(Path(file), "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    """Write a value; TOML writes the values it has as JSON does."""
    return json.dumps(value)
