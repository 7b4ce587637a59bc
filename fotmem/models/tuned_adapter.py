"""Reads and applies a tuned adapter: LoRA weights, and how memory is attached with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fotmem.arguments import DecayField
from fotmem.errors import InputError
from fotmem.models.head_temperatures import NAME as HEAD_TEMPERATURES
from fotmem.models.lora import CONFIG_FILE, add_lora
from fotmem.models.retrieval_heads import NAME as RETRIEVAL_HEADS

MEMORY_FILE = "memory.json"
"""Beside an adapter: its base model, and how memory is attached."""


class TunedAdapter(BaseModel):
    """The base model of an adapter, and how memory is attached with it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    base: str
    """The model that it was trained on, as `load_model` takes it; empty if that had no name."""
    mem_layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    mem_distance: Annotated[int, Field(ge=0)] = 0
    mem_recent: Annotated[int, Field(ge=0)] = 0
    mem_decay: DecayField = 0.0
    mem_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    mem_head_temperatures: dict[
        Annotated[int, Field(ge=0)], list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    ] = {}
    """By layer, what each query head has learned; it divides scores as `mem_temperature` does."""
    mem_retrieval_heads: dict[Annotated[int, Field(ge=0)], list[Annotated[int, Field(ge=0)]]] = {}
    """By layer, the query heads that rank passages; empty: all."""

    @model_validator(mode="after")
    def _names_memory_layers(self) -> Self:
        by_layer = self.mem_decay if isinstance(self.mem_decay, dict) else {}
        for layer in (*by_layer, *self.mem_head_temperatures, *self.mem_retrieval_heads):
            if layer not in self.mem_layers:
                raise ValueError(f"layer {layer} is none of mem_layers {self.mem_layers}")
        return self

    @field_validator("base")
    @classmethod
    def _is_no_address(cls, base: str) -> str:
        if "://" in base or "\0" in base:
            raise ValueError("a folder, a hub id or a packaged name is expected")
        return base

    @field_validator("mem_layers")
    @classmethod
    def _is_each_once(cls, layers: list[int]) -> list[int]:
        if len(set(layers)) < len(layers):
            raise ValueError("a layer is named twice")
        return layers


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (folder / CONFIG_FILE).is_file()


def read_tuned_adapter(folder: Path) -> TunedAdapter:
    """Read the base model and the memory options of an adapter.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    file = folder / MEMORY_FILE
    cure = (
        f"{folder} holds an adapter that fotmem did not train, or a damaged one; "
        "load it with peft and pass the model to fotmem.attach"
    )
    try:
        return TunedAdapter.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise InputError(f"{file} is damaged ({where}: {first['msg']}): {cure}") from error
    except OSError as error:
        raise InputError(f"{MEMORY_FILE} is missing or damaged ({error}): {cure}") from error


def write_tuned_adapter(folder: Path, adapted: TunedAdapter) -> None:
    """Write the base model and the memory options of an adapter beside it."""
    text = json.dumps(adapted.model_dump(), indent=2)
    (folder / MEMORY_FILE).write_text(text + "\n", encoding="utf-8")


def apply(model: Any, folder: Path, adapted: TunedAdapter) -> None:
    """Add an adapter to the weights of its base model, and its memory options to the config.

    Raises
    ------
    InputError
        It does not fit. The model is unchanged.
    """
    layers, longest = model.config.num_hidden_layers, model.config.max_position_embeddings
    for name, number, end in (
        ("mem_layers", max(adapted.mem_layers), layers),
        ("mem_distance", adapted.mem_distance, longest),
        ("mem_recent", adapted.mem_recent, longest),
    ):
        if number >= end:
            raise InputError(
                f"{folder / MEMORY_FILE} does not fit its base model: {name} must be below {end}, "
                f"got {number}"
            )
    _check_heads(adapted, model.config.num_attention_heads, folder)
    add_lora(model, folder)
    configure(model, adapted)


def configure(model: Any, adapted: TunedAdapter) -> None:
    """Write memory options into a model's config."""
    names = ("mem_layers", "mem_distance", "mem_recent", "mem_decay", "mem_temperature")
    for name in names:
        setattr(model.config, name, _as_in_json(getattr(adapted, name)))
    for name in (HEAD_TEMPERATURES, RETRIEVAL_HEADS):
        if by_layer := getattr(adapted, name):
            setattr(model.config, name, _as_in_json(by_layer))


def _as_in_json(value: Any) -> Any:
    return {str(layer): each for layer, each in value.items()} if isinstance(value, dict) else value


def _check_heads(adapted: TunedAdapter, heads: int, folder: Path) -> None:
    for layer, temperatures in adapted.mem_head_temperatures.items():
        if len(temperatures) != heads:
            raise InputError(
                f"{folder / MEMORY_FILE} does not fit its base model: mem_head_temperatures must "
                f"have {heads} numbers for layer {layer}, got {len(temperatures)}"
            )
    for layer, numbers in adapted.mem_retrieval_heads.items():
        if max(numbers, default=0) >= heads or len(set(numbers)) < len(numbers):
            raise InputError(
                f"{folder / MEMORY_FILE} does not fit its base model: mem_retrieval_heads must "
                f"have numbers below {heads} for layer {layer}, each once, got {numbers}"
            )
