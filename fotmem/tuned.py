"""Saves and loads what training makes of a model: a whole checkpoint, or an adapter for one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fotmem.errors import InputError

if TYPE_CHECKING:
    from fotmem.crossbatch import Crossbatch

MEMORY_FILE = "memory.json"
"""Beside an adapter: what it is for, and how memory is attached."""


class Adapted(NamedTuple):
    """What an adapter is for."""

    base: str
    """The model that it was trained on, as `load_model` takes it."""
    mem_layers: list[int]
    mem_distance: int = 0
    mem_decay: float = 0.0
    mem_temperature: float = 1.0


def save(model: Any, folder: Path, crossbatch: Crossbatch) -> None:
    """Save a tuned model: a `peft.PeftModel` as an adapter, another one whole."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = Adapted(
        plain.name_or_path,
        list(crossbatch.layers),
        crossbatch.distance,
        crossbatch.decay,
        crossbatch.temperature,
    )
    _configure(plain, adapted)
    if plain is model:
        model.save_pretrained(folder)
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path = adapted.base
    model.save_pretrained(folder, save_embedding_layers=False)
    write_adapted(folder, adapted)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (folder / "adapter_config.json").is_file()


def read_adapted(folder: Path) -> Adapted:
    """Read what an adapter is for.

    Raises
    ------
    InputError
        If the folder does not say.
    """
    file = folder / MEMORY_FILE
    try:
        return Adapted(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder} holds an adapter that fotmem did not train: {MEMORY_FILE} is missing or "
            f"damaged ({error}); load it with peft and pass the model to fotmem.attach"
        ) from error


def write_adapted(folder: Path, adapted: Adapted) -> None:
    """Write what an adapter is for, beside it."""
    text = json.dumps(adapted._asdict(), indent=2)
    (folder / MEMORY_FILE).write_text(text + "\n", encoding="utf-8")


def apply(model: Any, folder: Path, adapted: Adapted) -> Any:
    """Add an adapter to the weights of its base model."""
    from peft import PeftModel

    with warnings.catch_warnings():  # peft asks transformers under names of before 5.24
        warnings.simplefilter("ignore", FutureWarning)
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    _configure(merged, adapted)
    return merged


def _configure(model: Any, adapted: Adapted) -> None:
    for name in ("mem_layers", "mem_distance", "mem_decay", "mem_temperature"):
        setattr(model.config, name, getattr(adapted, name))
