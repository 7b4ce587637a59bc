"""What a checkpoint's files may ask for: data, and nothing that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fotmem.models.unsupported import ATTENTION_IMPLEMENTATIONS

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""For every call of transformers that loads: left out, it asks on stdin, and takes a `y`."""

INDEXES = {"model.safetensors.index.json": "safetensors", "pytorch_model.bin.index.json": "bin"}
"""Which files list the parts of the weights, and how the parts' names end."""


def check_files(folder: Path) -> None:
    """Check that weights in several files are in this folder, each of the kind it says it is.

    Raises
    ------
    ValueError
        A part has another name.
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
    """Check that a config asks for attention that transformers has: others are fetched code.

    Raises
    ------
    ValueError
        It asks for another one.
    """
    asked = config._attn_implementation
    if asked not in (None, *ATTENTION_IMPLEMENTATIONS):
        known = " or ".join(map(repr, ATTENTION_IMPLEMENTATIONS))
        raise ValueError(f"config.json asks for attn_implementation {asked!r}, not {known}")


def only_pickled(folder: Path) -> bool:
    """Whether a folder has weights that only unpickling would read."""
    return not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin"))
