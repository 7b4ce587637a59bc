"""Edits of a manifest whose checksum is right afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fotmem.disk.manifest_file import checksum_of


def edited(
    directory: Path,
    edit: Callable[[dict[str, Any]], None],
    *,
    id_folder: str = "log",
    noun: str = "store",
) -> None:
    """Change the manifest, and make its checksum right; its id is the `noun` of a folder."""
    path = directory / "zarr.json"
    root = json.loads(path.read_text("utf-8"))
    facts = root["attributes"]["fotmem"]
    edit(facts)
    first = json.loads((directory / id_folder / "zarr.json").read_text("utf-8"))
    content = {k: v for k, v in facts.items() if k not in ("format", "version", "crc32c")}
    facts["crc32c"] = checksum_of(content, first["attributes"]["fotmem"][noun])
    path.write_text(json.dumps(root), "utf-8")


def at(path: str) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """Find the container and the key of ``a.0.b``."""

    def find(facts: dict[str, Any]) -> tuple[Any, Any]:
        *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
        for part in above:
            facts = facts[part]  # type: ignore[index]
        return facts, last

    return find


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(facts: dict[str, Any]) -> None:
        container, key = at(path)(facts)
        container[key] = value

    return edit
