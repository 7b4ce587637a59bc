"""Checks that the files of a checkpoint hold data, and nothing that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fotmem.models.unsupported import ATTENTION_IMPLEMENTATIONS

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""For every loading call of transformers, which otherwise asks on stdin and accepts a `y`."""

INDEXES = {"model.safetensors.index.json": "safetensors", "pytorch_model.bin.index.json": "bin"}
"""Files that list the parts of the weights, and the ending of the parts' names."""


def check_files(folder: Path) -> None:
    """Check that the parts of the weights are files of the right kind in this folder.

    Raises
    ------
    ValueError
        A part has another name, or lies elsewhere.
    """
    for name, ending in INDEXES.items():
        if not (file := folder / name).is_file():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(parts, dict):
            raise ValueError(f"{name} has no weight_map")
        for part in parts.values():
            if not isinstance(part, str) or not re.fullmatch(rf"[\w.-]+\.{ending}", part):
                raise ValueError(f"{name} names {part!r}, not a file *.{ending} beside it")


def check_attention(config: Any) -> None:
    """Check that a config names an attention of transformers; any other would be downloaded code.

    Raises
    ------
    ValueError
        It asks for another attention.
    """
    asked = config._attn_implementation
    if asked not in (None, *ATTENTION_IMPLEMENTATIONS):
        known = " or ".join(map(repr, ATTENTION_IMPLEMENTATIONS))
        raise ValueError(f"config.json asks for attn_implementation {asked!r}, not {known}")


def only_pickled(folder: Path) -> bool:
    """Whether a folder has weights that only unpickling would read."""
    return not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin"))
