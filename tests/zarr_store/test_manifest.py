"""Manifests of other versions, of other programs, and edited ones."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fotmem.errors import OptionError, StorageError
from fotmem.testing.store.naive import draw, quick
from tests.zarr_store.conftest import victim_in
from tests.zarr_store.manifest_edits import edited, setting
from tests.zarr_store.stores import DIM, HEADS, assert_holds, contents, data, fill, opened, used


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text[: len(text) // 2], "zarr.json.*is damaged.*from a copy"),
        (lambda text: text.replace('"rows": 10', '"rows": 11'), "is damaged"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "version 3.*upgrade fotmem"),
        (lambda text: text.replace('"version": 2', '"version": 1'), "version 1.*read the text aga"),
        (lambda text: text.replace("fotmem zarr store", "x"), "other zarr data"),
        (lambda text: "[]", "is damaged"),
    ],
)
def test_a_manifest_of_another_version_or_program_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    fill(tmp_path, 10)
    manifest = tmp_path / "zarr.json"
    before = manifest.read_text("utf-8")
    manifest.write_text(change(before), "utf-8")
    with pytest.raises(StorageError, match=message):
        opened(directory=tmp_path)
    manifest.write_text(before, "utf-8")
    with opened(directory=tmp_path) as store:
        assert_holds(store, *data(10))


VALUES: dict[str, tuple[Any, ...]] = {
    "block": (10**6, 0, 1, 64, 24, -16, 2**70, "16", 16.0, True, None),
    "rows": (0, 1, 2999, 3001, 10**12, 2**63, -1),
    "forgotten": (3000, 2999, 3001, 2**62),
    "logged": (0, 16, 2**40),
    "first_id": (-1, 2**63 - 1, 2**62 + 1, "0"),
    "next_name": (0, 3, -1, 2**70),
    "num_heads": (0, 10**9, -2),
    "head_dim": (0, 10**9),
    "dtype": ("float64", "", "../../victim", 7),
    "log": ([], None, {}, 5),
    "pieces": ([], None),
    "segments.0.clusters": (0, 10**12, 1, 7),
    "segments.0.buckets": (0, 10**12, 65, 3),
    "segments.0.rows": (0, 1, 10**12),
    "segments.0.shard": (0, 3, 2**40, 64),
    "segments.0.first": (1, 16, 10**9),
    "segments.0.level": (-1, 10**9),
    "segments.1.level": (16,),
    "pieces.0.rows": (0, 10**12, 1),
    "pieces.0.first": (0, 10**12),
    "log.0.first": (16, 1, 10**12),
    "log.0.name": ("../../victim", "/etc", "", ".", "..", "a/b", "00000001\n", "\u0661" * 8, 1),
    "tail": ([],),
    "segments.1.name": ("../log/00000000", "00000001/../../../victim"),
    "pieces.0.name": ("../victim", "99999999999999999999999999"),
    "log.0.generation": ("", "0" * 16, "g" * 16, None),
    "segments.0.generation": ("0" * 16,),
    "pieces.0.generation": ("0" * 16,),
    "hubs": ([[1], [2], [3]], [[5, 4], [1, 2]], [[1], [10**9]], [[-1], [0]], [[1.5], [2]], 7),
}


EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    f"{path}={value!r}": setting(path, value) for path, values in VALUES.items() for value in values
}
EDITS |= {
    "log reversed": lambda facts: facts["log"].reverse(),
    "a part twice": lambda facts: facts["log"].append(copy.deepcopy(facts["log"][0])),
    "a part left out": lambda facts: facts["log"].pop(1),
    "segments reversed": lambda facts: facts["segments"].reverse(),
    "the first segment left out": lambda facts: facts["segments"].pop(0),
    "parts exchanged": lambda facts: facts["log"].__setitem__(
        slice(0, 2), [facts["log"][0] | {"name": facts["log"][1]["name"]}, facts["log"][1]]
    ),
    "logged left out": lambda facts: facts.pop("logged"),
    "block left out": lambda facts: facts.pop("block"),
    "something new": setting("unknown", 1),
    "nothing": lambda facts: facts.clear() or facts.update(format="fotmem zarr store", version=2),  # type: ignore[func-returns-value]
}


@pytest.fixture(scope="module")
def folder(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a store beside a victim; what is refused changes neither, so one folder serves all."""
    folder = tmp_path_factory.mktemp("refused")
    shutil.copytree(original, folder / "store")
    victim_in(folder)
    return folder


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_that_states_what_cannot_be_true_is_refused(folder: Path, edit: str) -> None:
    manifest = folder / "store/zarr.json"
    right = manifest.read_bytes()
    edited(folder / "store", EDITS[edit])
    before = contents(folder)
    with pytest.raises((StorageError, OptionError)):
        used(folder / "store", closed=False)
    now = contents(folder)
    manifest.write_bytes(right)
    now.pop("store/.lock"), before.pop("store/.lock")
    assert now == before


NUMBERS = st.one_of(st.integers(-2, 5000), st.integers(), st.sampled_from([2**31, 2**62, 2**63]))


LEAF = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=9)
NESTED = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(st.text(max_size=5), LEAF, max_size=3)
ANYTHING = NESTED | st.lists(NESTED, max_size=2)


@pytest.mark.thorough
@settings(quick, max_examples=60)
@given(choice=st.data())
def test_any_edit_of_a_manifest_is_refused_or_harmless(
    original: Path, tmp_path_factory: pytest.TempPathFactory, choice: st.DataObject
) -> None:
    store = tmp_path_factory.mktemp("edited") / "store"
    shutil.copytree(original, store)

    def edit(facts: dict[str, Any]) -> None:
        for _ in range(choice.draw(st.integers(1, 3))):
            container: Any = facts
            while True:
                keys = list(container) if isinstance(container, dict) else range(len(container))
                key = choice.draw(st.sampled_from(list(keys)))
                inner = container[key]
                if not isinstance(inner, (dict, list)) or not inner or choice.draw(st.booleans()):
                    break
                container = inner
            what = choice.draw(st.sampled_from(["set", "set", "drop", "twice", "swap"]))
            if what == "drop":
                del container[key]
            elif what == "twice" and isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            elif what == "swap" and isinstance(container, list):
                other = choice.draw(st.integers(0, len(container) - 1))
                container[key], container[other] = container[other], container[key]
            else:
                number = isinstance(inner, int) and choice.draw(st.booleans())
                container[key] = choice.draw(NUMBERS if number else ANYTHING)
            if not facts:
                return

    edited(store, edit)
    facts = json.loads((store / "zarr.json").read_text("utf-8"))["attributes"]["fotmem"]
    try:
        with opened(directory=store) as found:
            keys, values = data()
            ids = torch.arange(found.first_id, found.next_id).expand(HEADS, 1, -1)
            first = facts["first_id"]
            assert torch.equal(found.keys(ids)[:, 0], keys[:, ids[0, 0] - first])
            assert torch.equal(found.values(ids)[:, 0], values[:, ids[0, 0] - first])
            found.search(draw(HEADS, 2, DIM), 9)
    except (StorageError, OptionError):
        pass
    finally:
        shutil.rmtree(store.parent)


def test_a_huge_manifest_is_not_read(store: Path) -> None:
    with (store / "zarr.json").open("r+b") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(StorageError, match="too large"):
        opened(directory=store)


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(StorageError, match=r"letter\.txt; choose an empty directory"):
        opened(directory=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]
    assert (tmp_path / "letter.txt").read_text("utf-8") == "dear"
    with pytest.raises(StorageError, match="not a zip file"):
        opened(directory=tmp_path / "letter.txt")
    with pytest.raises(StorageError, match="not a zip file"):
        opened(directory=tmp_path / "new.zip")
