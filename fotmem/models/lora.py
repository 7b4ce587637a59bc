"""Adds a low-rank adapter (LoRA) to the weights that it was trained on.

It reads only what fotmem's training writes: numbers and names from a config, and tensors from a
safetensors file. Nothing in them can run code, and every tensor must be there and fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fotmem.errors import InputError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CURE = "expected an adapter as `fotmem train` saves it; load others with peft, and attach to that"
LOADING_ONLY = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "init_lora_weights",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "task_type",
    }
)
"""Fields of peft's config that do not change a trained adapter."""


class LoraConfig(BaseModel):
    """The config of a trained adapter, with peft's names."""

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    target_modules: Annotated[list[str], Field(min_length=1)]
    bias: Literal["none"] = "none"


def add_lora(model: nn.Module, folder: Path) -> None:
    """Add the product of each pair of low-rank matrices to the weight it was trained for.

    Raises
    ------
    InputError
        The adapter is damaged, does not fit the model, or uses what `fotmem train` does not. The
        model is unchanged.
    """
    config = _read_config(folder)
    targets = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and any(f".{name}".endswith(f".{target}") for target in config.target_modules)
    }
    for target in config.target_modules:
        if not any(f".{name}".endswith(f".{target}") for name in targets):
            raise InputError(
                f"{folder} tunes {target!r}, which its base model does not have; {CURE}"
            )
    pairs = _read_pairs(folder, config.r, targets)
    with torch.no_grad():
        for name, (down, up) in pairs.items():
            change = up.float() @ down.float() * (config.lora_alpha / config.r)
            targets[name].weight += change.to(targets[name].weight)


def _read_config(folder: Path) -> LoraConfig:
    file = folder / CONFIG_FILE
    try:
        config = LoraConfig.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error}); {CURE}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise InputError(
            f"{file} holds no such adapter ({where}: {first['msg']}); {CURE}"
        ) from error
    for name, value in (config.model_extra or {}).items():
        if value and name not in LOADING_ONLY:
            raise InputError(f"{file} asks for {name}={json.dumps(value)}; {CURE}")
    return config


def _read_pairs(
    folder: Path, rank: int, targets: dict[str, nn.Linear]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the two matrices of every target, ``[rank, in]`` and ``[out, rank]``."""
    expected = {}
    for name, module in targets.items():
        expected[_key(name, "A")] = [rank, module.in_features]
        expected[_key(name, "B")] = [module.out_features, rank]
    file = folder / WEIGHTS_FILE
    try:
        with safe_open(str(file), "pt") as weights:
            found = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
            _check_names(file, found, expected)
            tensors = {name: weights.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}); {CURE}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InputError(f"{file}: {name} must hold finite floating-point numbers; {CURE}")
    return {name: (tensors[_key(name, "A")], tensors[_key(name, "B")]) for name in targets}


def _key(name: str, matrix: str) -> str:
    return f"base_model.model.{name}.lora_{matrix}.weight"


def _check_names(file: Path, found: dict[str, Any], expected: dict[str, list[int]]) -> None:
    for what, names in (
        ("lacks", expected.keys() - found.keys()),
        ("has foreign weights:", found.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"{file} {what} {len(names)}, among them {min(names)}; {CURE}")
    for name, shape in expected.items():
        if list(found[name]) != shape:
            raise InputError(
                f"{file}: {name} must have shape {shape}, got {list(found[name])}; {CURE}"
            )
