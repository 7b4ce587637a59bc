"""Captures: what is in them, that they can be stopped, and what is said of damage."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

import fotmem
from fotmem.errors import InputError, LayerError, OptionError, StorageError
from fotmem.measure.capture import (
    Capture,
    capture_arrays,
    capture_hdf5,
    capture_model,
    capture_random,
    layout,
)
from tests import folders, tiny
from tests.commands import call, refusal

WINDOW, OVERLAP, DISTANCE, TOKENS, QUERIES = 48, 8, 5, 1500, 30


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PART", 400)


def captured(folder: Path, **changed: Any) -> Capture:
    options: dict[str, Any] = {
        "tokens": TOKENS,
        "queries": QUERIES,
        "layers": tiny.LAYERS,
        "window": WINDOW,
        "overlap": OVERLAP,
        "distance": DISTANCE,
    } | changed
    llama = options.pop("llama", None) or tiny.llama(max_position_embeddings=64)
    return capture_model(llama, tiny.ids(1600)[0].tolist(), folder, **options)


def contents(capture: Capture) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer in capture.info.layers:
        found |= {f"{layer} {name}": rows for name, rows in capture.rows(layer)._asdict().items()}
        found |= {f"{layer} {size}": capture.queries(layer, size) for size in capture.info.sizes}
    return found


def equal(one: Capture, other: Capture) -> bool:
    first, second = contents(one), contents(other)
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def test_keys_and_values_are_those_of_a_memory(tmp_path: Path) -> None:
    capture = captured(tmp_path / "c")
    llama, ids = tiny.llama(max_position_embeddings=64), tiny.ids(1600)[0]
    for start in range(0, TOKENS, 400):  # windows begin anew with every part
        stop = min(start + 400, TOKENS)
        with fotmem.attach(llama, layers=tiny.LAYERS, window=WINDOW, distance=DISTANCE) as memory:
            memory.read(ids[start : OVERLAP + stop], overlap=OVERLAP)
            for layer in tiny.LAYERS:
                keys, values = tiny.contents(memory.store(layer))
                rows = capture.rows(layer, start, stop)
                assert torch.equal(rows.keys, keys[:, start - stop :])
                assert torch.equal(rows.values, values[:, start - stop :])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores_are_those_of_the_model(tmp_path: Path, temperature: float) -> None:
    llama = tiny.llama(max_position_embeddings=64, mem_temperature=temperature)
    info = captured(tmp_path / "c", llama=llama).info
    assert info.scale == pytest.approx(info.head_dim**-0.5 / temperature)


def test_queries_are_those_of_the_text_that_follows(tmp_path: Path) -> None:
    """Oracle: the model alone over the next window, and rotary embedding as it is defined."""
    grouped, every = 2, WINDOW - OVERLAP
    capture = captured(tmp_path / "c", queries=grouped * every)
    llama, ids = tiny.llama(max_position_embeddings=64), tiny.ids(1600)[0]
    assert capture.info.sizes == (1024, TOKENS)
    for size in capture.info.sizes:
        seen: list[Tensor] = []
        hook = llama.model.layers[3].self_attn.q_proj.register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(output[0].detach())
        )
        places = torch.full((WINDOW,), DISTANCE)  # a memory is asked from there, at any place
        with torch.no_grad(), hook:
            llama(ids[size:][None, :WINDOW])
        turned = tiny.rotated(seen[0].view(WINDOW, 4, 8), places)[OVERLAP:]
        expected = turned.transpose(0, 1).reshape(2, grouped * every, 8)  # [H, G * T, D]
        got = capture.queries(3, size)
        assert not torch.allclose(got, expected)  # in random order
        distances = torch.cdist(got, expected, compute_mode="donot_use_mm_for_euclid_dist")
        assert distances.amin(1).max() < 1e-4
        assert distances.amin(2).max() < 1e-4


def test_more_queries_than_a_window_asks_come_from_several(tmp_path: Path) -> None:
    capture = captured(tmp_path / "c", tokens=1000, queries=150)
    queries = capture.queries(1)
    assert queries.shape == (2, 150, 8)
    assert len(queries[0].unique(dim=0)) == 150


def test_queries_from_all_over_the_text(tmp_path: Path) -> None:
    capture = captured(tmp_path / "c")
    early, late = (capture.queries(1, size) for size in (1024, TOKENS))
    assert not torch.equal(early, late)
    some = capture.spread_queries(1, 5)
    assert some.shape == (2, 5, 8)
    assert torch.equal(some[:, 0::2], early[:, 0:5:2])
    assert torch.equal(some[:, 1::2], late[:, 1:5:2])
    assert capture.spread_queries(1, 10_000).shape == early.shape


@pytest.mark.parametrize("stopped_at", [1, 2, 4])
def test_a_stopped_capture_is_continued(
    tmp_path: Path, stopped_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = captured(tmp_path / "whole")
    left, observe = [stopped_at], fotmem.Memory.observe

    def stop(*args: Any, **options: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return observe(*args, **options)

    monkeypatch.setattr(fotmem.Memory, "observe", stop)
    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "c")
    monkeypatch.undo()
    monkeypatch.setattr(layout, "PART", 400)
    with pytest.raises(StorageError, match=r"is not complete \(.* of 1,500 tokens, .*it continues"):
        Capture.open(tmp_path / "c")
    assert equal(captured(tmp_path / "c"), whole)


def test_a_complete_capture_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured(tmp_path / "c")
    monkeypatch.setattr(fotmem.Memory, "observe", lambda *args, **options: pytest.fail("it ran"))
    captured(tmp_path / "c")


def test_another_capture_is_not_overwritten(tmp_path: Path) -> None:
    before = contents(captured(tmp_path / "c"))
    other = tiny.llama(max_position_embeddings=64)
    with torch.no_grad():
        other.model.layers[3].self_attn.k_proj.weight += 1e-3
    for changed, reason in (
        ({"tokens": 1400}, "tokens is 1500, not 1400"),
        ({"distance": 6}, "distance is 5, not 6"),
        ({"layers": [1]}, "layers"),
        ({"llama": other}, "projections"),
    ):
        with pytest.raises(StorageError, match=f"holds another capture .*{reason}.*new folder"):
            captured(tmp_path / "c", **changed)
    after = contents(Capture.open(tmp_path / "c"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_only_one_process_captures(tmp_path: Path) -> None:
    capture = captured(tmp_path / "c")
    with (
        Capture.writing(tmp_path / "c", capture.info),
        pytest.raises(StorageError, match="is being captured by another process"),
        Capture.writing(tmp_path / "c", capture.info),
    ):
        pass


def test_it_is_a_plain_zarr_group(tmp_path: Path) -> None:
    captured(tmp_path / "c")
    group = zarr.open_group(tmp_path / "c", mode="r")
    assert group.attrs["fotmem_capture"] == 1
    shapes = {name: array.shape for name, array in group["layers/03"].arrays()}  # type: ignore[union-attr]
    assert shapes == {
        "keys": (2, TOKENS, 8),
        "values": (2, TOKENS, 8),
        "queries": (2, 2, QUERIES, 8),
    }


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = captured(tmp_path / "c").directory
    chunks = folder / "layers" / "03" / "keys" / "c" / "0"
    for damage in (flip, lambda file: os.truncate(file, 100), Path.unlink):
        chunk = chunks / "1" / "0"
        kept = chunk.read_bytes()
        damage(chunk)
        capture = Capture.open(folder)
        with pytest.raises(StorageError, match=r"layers/03/keys is damaged .*capture anew"):
            capture.rows(3)
        assert torch.equal(capture.rows(3, 0, 400).keys, Capture.open(folder).rows(3, 0, 400).keys)
        chunk.write_bytes(kept)
    assert Capture.open(folder).rows(3).keys.isfinite().all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda facts: facts.pop("fotmem_capture"), "no version"),
        (lambda facts: facts.update(fotmem_capture=2), "version is 2"),
        (lambda facts: facts.update(tokens=0), "damaged .tokens: "),
        (lambda facts: facts.pop("written"), "damaged"),
        (lambda facts: facts.update(more=1), "damaged .more: "),
    ],
)
def test_attributes_of_the_group_are_checked(tmp_path: Path, change: Any, reason: str) -> None:
    file = captured(tmp_path / "c").directory / "zarr.json"
    content = json.loads(file.read_text())
    change(content["attributes"])
    file.write_text(json.dumps(content))
    with pytest.raises(StorageError, match=reason):
        Capture.open(tmp_path / "c")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no capture at .*fotmem capture"):
        Capture.open(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds other files"):
        captured(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(StorageError, match=r"zarr\.json is damaged"):
        Capture.open(tmp_path)
    with pytest.raises(StorageError, match="cannot write"):
        captured(tmp_path / "notes.txt")


def test_missing_files_are_named(tmp_path: Path) -> None:
    capture = captured(tmp_path / "c")
    with pytest.raises(LayerError, match="has layers 1, 3, not 2"):
        capture.rows(2)
    with pytest.raises(OptionError, match=r"has queries after 1,024, 1,500 tokens, not"):
        capture.queries(1, 2048)
    with pytest.raises(InputError, match=r"has 1,600 tokens; capturing 1,580, with .* 1,628"):
        captured(tmp_path / "long", tokens=1580)
    for name in ("tokens", "queries"):
        with pytest.raises(OptionError, match=f"{name} must be at least 1, got 0"):
            captured(tmp_path / "none", **{name: 0})
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize("heads", [None, 2])
def test_arrays(tmp_path: Path, dtype: Any, heads: int | None) -> None:
    draw = np.random.default_rng(0)
    shape = () if heads is None else (heads,)
    keys, values, queries = (
        (10 * draw.normal(size=(*shape, count, 4))).astype(dtype) for count in (1100, 1100, 7)
    )
    capture = capture_arrays(tmp_path / "c", keys, queries, values)
    rows = capture.rows(0)
    assert rows.keys.shape == (heads or 1, 1100, 4)
    assert np.array_equal(rows.keys.numpy().reshape(keys.shape), keys.astype(np.float32))
    assert np.array_equal(rows.values.numpy().reshape(keys.shape), values.astype(np.float32))
    for size in (1024, 1100):
        asked = capture.queries(0, size).numpy().reshape(queries.shape)
        assert np.array_equal(asked, queries.astype(np.float32))
    assert torch.equal(capture.spread_queries(0, 7), capture.queries(0))  # none comes twice
    assert capture.info.scale == 0.5
    without = capture_arrays(tmp_path / "d", keys, queries)
    assert torch.equal(without.rows(0).values, rows.keys)


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    keys, queries = np.ones((2, 9, 4)), np.ones((2, 3, 4))
    bad = keys.copy()
    bad[1, 8, 2] = np.nan
    for arrays, reason in (
        ((keys, np.ones((1, 3, 4))), r"queries must have as many heads .*\(2, 9, 4\).*\(1, 3, 4\)"),
        ((keys, np.ones((2, 3, 5))), "queries must have"),
        ((keys, queries, np.ones((2, 8, 4))), "values must have the shape of keys"),
        ((np.ones(4), queries), r"keys must have shape .* got \[4\]"),
        ((keys[:, :0], queries), "keys must have shape"),
        ((keys + 1j, queries), "keys must be real numbers, got complex128"),
        ((bad, queries), "keys must be finite"),
        ((keys, 1e300 * queries), "queries must be finite in float32"),
    ):
        with pytest.raises(InputError, match=reason), np.errstate(over="ignore"):
            capture_arrays(tmp_path / "c", *arrays)


def test_data_sets_of_ann_benchmarks(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    draw = np.random.default_rng(0)
    train, test = draw.normal(size=(50, 4)), draw.normal(size=(6, 4))
    for distance in ("euclidean", "angular"):
        with h5py.File(tmp_path / f"{distance}.hdf5", "w") as file:
            file["train"], file["test"] = train, test
            file.attrs["distance"] = distance
        capture = capture_hdf5(tmp_path / distance, tmp_path / f"{distance}.hdf5")
        best = (capture.queries(0)[0] @ capture.rows(0).keys[0].T).argmax(1).numpy()
        keys = train
        if distance == "angular":
            keys = train / np.linalg.norm(train, axis=1, keepdims=True)
        assert np.array_equal(best, (test @ keys.T).argmax(1))
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["vectors"] = train
    with pytest.raises(InputError, match=r"has vectors; .*train \(keys\) and test"):
        capture_hdf5(tmp_path / "c", tmp_path / "other.hdf5")
    (tmp_path / "none.hdf5").write_text("no HDF5")
    for file in ("none", "missing"):
        with pytest.raises(InputError, match=f"{file}.hdf5 cannot be read as HDF5"):
            capture_hdf5(tmp_path / "c", tmp_path / f"{file}.hdf5")


def test_the_more_mismatch_the_less_queries_look_like_keys(tmp_path: Path) -> None:
    found = []
    for mismatch in (0, 0.25, 0.5, 0.75, 1):
        capture = capture_random(
            tmp_path / str(mismatch), tokens=1500, queries=100, num_heads=2, mismatch=mismatch
        )
        nearest = torch.cdist(capture.queries(0), capture.rows(0).keys).amin(2).mean()
        found.append(float(nearest))
    assert found == sorted(found)
    assert found[-1] > 1.5 * found[0]
    mean = capture.rows(0).keys.mean(1)
    away = (capture.queries(0).mean(1) * mean).sum(1)
    assert (away < 0).all()  # as attention queries, which point away from the mean key


def test_random_captures_are_the_same_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokens": 900, "queries": 5, "mismatch": 0.5}
    first = capture_random(tmp_path / "a", **options)
    assert equal(first, capture_random(tmp_path / "b", **options))
    assert not equal(first, capture_random(tmp_path / "c", seed=1, **options))
    assert not torch.equal(first.rows(0, 0, 400).keys, first.rows(0, 400, 800).keys)
    for bad in ({"mismatch": 1.5}, {"mismatch": -0.1}, {"head_dim": 0}):
        with pytest.raises(OptionError, match="must be"):
            capture_random(tmp_path / "d", **options | bad)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders.write(tmp_path / "llama")
    text = tmp_path / "text.txt"
    text.write_text("the fish sees the sun and the moon " * 60)
    ended = call(
        capsys, "capture", tmp_path / "llama", "--text", text, "--tokens", "200", "--queries", 9,
        "--layers", "1,3", "--window", 32, "--out", tmp_path / "c",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert re.search(r"c: 200 tokens of 2 layers, 2 heads .* 9 queries after each of 1 ", ended.out)
    assert Capture.open(tmp_path / "c").info.source["window"] == 32

    np.save(tmp_path / "keys.npy", np.ones((50, 4)))
    np.save(tmp_path / "queries.npy", np.ones((5, 4)))
    files = ("--keys", tmp_path / "keys.npy", "--queries", tmp_path / "queries.npy")
    ended = call(capsys, "capture-arrays", *files, "--out", tmp_path / "d")
    assert "50 tokens of 1 layers, 1 heads of 4 dimensions, 5 queries" in ended.out
    line = refusal(capsys, 1, "capture-arrays", *files[:3], text, "--out", tmp_path / "e")
    assert "text.txt cannot be read as .npy" in line
    line = refusal(capsys, 2, "capture-arrays", *files[:2], "--out", tmp_path / "e")
    assert "expected --keys and --queries, or --hdf5 alone" in line

    ended = call(
        capsys, "capture-random", "--tokens", "1k", "--heads", 2, "--dim", 8, "--queries", 3,
        "--mismatch", 0.5, "--out", tmp_path / "f",
    )  # fmt: skip
    assert "1,024 tokens of 1 layers, 2 heads of 8 dimensions, 3 queries" in ended.out
