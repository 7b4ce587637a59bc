"""``fotmem.toml``: which store a memory has, and with which options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fotmem.errors import InputError
from fotmem.texts import read_toml, write_text


class StoreConfig(NamedTuple):
    """A store and its options."""

    store: str
    options: dict[str, Any]


class _Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    store: str
    options: dict[str, Any] = Field(default_factory=dict)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    memory: _Memory
    foretold: dict[str, Any] = Field(default_factory=dict)


def read_config(file: Path | str) -> StoreConfig:
    """Read which store a file asks for.

    Raises
    ------
    InputError
        It cannot be read, or is something else.
    """
    try:
        memory = _File.model_validate(read_toml(Path(file))).memory
        return StoreConfig(memory.store, memory.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{file} is no configuration of fotmem ({where}: {first['msg']}): expected a table "
            '[memory] with store, such as "exact", and perhaps a table [memory.options]; '
            "fotmem select writes one"
        ) from error


def write_config(
    file: Path | str, config: StoreConfig, *, comment: str, foretold: Mapping[str, Any]
) -> None:
    """Write a store and its options; for people also what is expected of them.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    lines = [f"# {comment}", "[memory]", f"store = {_toml(config.store)}"]
    for title, values in (("memory.options", config.options), ("foretold", foretold)):
        if values:
            pairs = (f"{name} = {_toml(value)}" for name, value in values.items())
            lines += ["", f"[{title}]", *pairs]
    write_text(Path(file), "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    """Write a value: where TOML has it, it is written as JSON writes it."""
    return json.dumps(value)
