"""What other programs see of a `zarr` store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from tests.zarr_store.stores import data, fill


def test_the_zarr_library_reads_the_same_rows(tmp_path: Path) -> None:
    fill(tmp_path)
    keys, values = data()
    root: Any = zarr.open_group(tmp_path, mode="r")
    logged = root.attrs["fotmem"]["logged"]
    for name, expected in (("keys", keys), ("values", values)):
        parts = [np.asarray(root[f"{part}/{name}"]) for part in sorted_groups(tmp_path, "log")]
        assert np.array_equal(np.concatenate(parts, 1)[:, :logged], expected[:, :logged])
    for path in sorted_groups(tmp_path, "segments"):
        sizes, ids, clusters = (np.asarray(root[f"{path}/{n}"]) for n in ("sizes", "ids", "keys"))
        first = {s["name"]: s["first"] for s in root.attrs["fotmem"]["segments"]}[path[9:]]
        for head, cluster in np.ndindex(sizes.shape):
            rows = slice(cluster * 128, cluster * 128 + sizes[head, cluster])
            expected = keys[head, torch.from_numpy(ids[head, rows]) + first]
            assert np.array_equal(clusters[head, rows], expected)


def sorted_groups(directory: Path, kind: str) -> list[str]:
    found = sorted(path.name for path in (directory / kind).iterdir() if path.is_dir())
    assert found
    return [f"{kind}/{name}" for name in found]


def test_the_manifest_names_no_pickle_and_is_json(tmp_path: Path) -> None:
    fill(tmp_path, 100)
    for path in tmp_path.rglob("zarr.json"):
        json.loads(path.read_text("utf-8"))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".0", ""}
