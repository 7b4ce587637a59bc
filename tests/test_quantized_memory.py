"""Memories whose directory keeps keys and values in 8 or 4 bits."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import fotmem
from fotmem.directory import memory_directory
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.disk import LayerShape
from fotmem.disk.quantization import BITS, LayerCodec, Quantization
from fotmem.errors import OptionError, StorageError
from fotmem.measure.capture import capture_random
from fotmem.memory import saving
from fotmem.stores import IndexedStore, indexed_store
from recipes import quantization_report
from tests import folders, tiny
from tests.commands import call, refusal
from tests.memory_rows import FACTS, document, draw, names, read_as_the_page_says
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

KINDS = ("int8", "int4")
EVERY = pytest.mark.parametrize(
    "quantization", [pytest.param("int8", marks=pytest.mark.thorough), "int4"]
)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Any:
    """No disk has to be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", 64)
        patch.setattr(os, "fsync", lambda _: None)
        yield


def attached(head_dim: int = 8, **options: Any) -> fotmem.Memory:
    how: dict[str, Any] = {"layers": LAYERS, "window": WINDOW, "top_k": 4, **options}
    return fotmem.attach(tiny.llama(head_dim=head_dim), **how)


def assert_equal_stores(one: fotmem.Memory, other: fotmem.Memory) -> None:
    """Expect the same keys and values, bit for bit."""
    assert torch.equal(one.tokens, other.tokens)
    for layer, store in one.stores.items():
        for mine, theirs in zip(
            tiny.contents(store), tiny.contents(other.store(layer)), strict=True
        ):
            assert torch.equal(mine, theirs)


# The codec


MOST = {torch.float32: 2.0**126, torch.float16: 2.0**14, torch.bfloat16: 2.0**126}


@settings(max_examples=25)
@given(data=st.data(), quantization=st.sampled_from(KINDS), dtype=st.sampled_from([*MOST]))
def test_quantizing_twice_changes_nothing(
    data: st.DataObject, quantization: Quantization, dtype: torch.dtype
) -> None:
    """Whatever the numbers; the error is at most half a step, and what rounding adds."""
    width = data.draw(st.sampled_from([1, 3, 32, 33, 64]))
    offset, most = data.draw(st.sampled_from([0.0, 0.0, 7.0, 3000.0])), MOST[dtype]
    most = data.draw(st.sampled_from([most, 1.0]))
    numbers = hnp.arrays(np.float32, (2, 3, width), elements=st.floats(-most, most, width=32))
    keys = (torch.from_numpy(data.draw(numbers)) + offset).to(dtype)
    codec = LayerCodec(LayerShape(2, width, dtype), quantization)
    rows = codec.encode(keys, -keys)
    for column, array in zip(codec.columns(), rows, strict=True):
        assert (array.dtype, array.shape) == (column.dtype, (column.heads, 3, *column.rest))
    found, values = codec.decode(rows)
    assert torch.equal(
        torch.stack(codec.decode(codec.encode(found, values))), torch.stack([found, values])
    )
    assert_close_to(found, keys, BITS[quantization])
    assert_close_to(values, -keys, BITS[quantization])


def assert_close_to(found: Tensor, vectors: Tensor, bits: int) -> None:
    rounding = torch.finfo(vectors.dtype).eps
    for mine, right in zip(
        found.double().split(32, -1), vectors.double().split(32, -1), strict=True
    ):
        low, high = right.aminmax(dim=-1, keepdim=True)
        step = (high - low) / (2**bits - 1)
        added = rounding * torch.maximum(mine.abs(), right.abs()).clamp(1e-30)
        assert ((mine - right).abs() <= 0.5001 * step + added).all()


@EVERY
def test_a_row_depends_on_itself_only(quantization: Quantization) -> None:
    codec = LayerCodec(LayerShape(2, 40, torch.bfloat16), quantization)
    keys = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(0))
    whole = codec.encode(keys, keys)
    parts = zip(*(codec.encode(k, k) for k in keys.split(7, 1)), strict=True)
    assert all(torch.equal(torch.cat(p, 1), w) for p, w in zip(parts, whole, strict=True))


# Reading, opening, asking


@pytest.mark.parametrize("quantization, dtype", [("int8", torch.bfloat16), ("int4", torch.float32)])
def test_a_reader_finds_what_the_process_that_reads_has(
    tmp_path: Path, quantization: Quantization, dtype: torch.dtype
) -> None:
    plain, memory = attached(dtype=dtype), attached(dtype=dtype)
    for each in (plain, memory):
        each.read(tiny.ids(50), document="a")
    memory.save(tmp_path / "memory", quantization=quantization)  # it holds something already
    for each in (plain, memory):
        each.read(tiny.ids(90, seed=1), document="b", attend=True, overlap=3)
    with pytest.raises(AssertionError):
        assert_equal_stores(memory, plain)
    reader = fotmem.open_memory(tmp_path / "memory", tiny.llama())
    assert_equal_stores(memory, reader)
    question = tiny.ids(9, seed=5)
    logits = [m.attached_model.parts.model(question).logits for m in (memory, reader, plain)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    memory.save(tmp_path / "copy", quantization=quantization)  # quantized twice
    copy = fotmem.open_memory(tmp_path / "copy", tiny.llama())
    assert_equal_stores(copy, reader)
    memory.save(tmp_path / "plain")
    assert_equal_stores(fotmem.open_memory(tmp_path / "plain", tiny.llama()), reader)
    memory.close()


@pytest.mark.parametrize("quantization, append_only", [("int8", True), ("int4", False)])
def test_a_stopped_reading_equals_an_uninterrupted_one(
    tmp_path: Path, quantization: Quantization, append_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "COMMIT", 20)
    how: dict[str, Any] = {"document": "a", "overlap": 3, "attend": not append_only}
    whole, stopped = attached(), attached()
    whole.save(tmp_path / "whole", quantization=quantization)
    stopped.save(tmp_path / "stopped", quantization=quantization)
    whole.read(tiny.ids(100), **how)
    append = fotmem.memory.contents.Contents.append

    def stopping(self: Any, rows: Any, pieces: Any) -> None:
        if len(self) > 50:
            raise KeyboardInterrupt
        append(self, rows, pieces)

    with monkeypatch.context() as patch:
        patch.setattr("fotmem.memory.contents.Contents.append", stopping)
        with pytest.raises(KeyboardInterrupt):
            stopped.read(tiny.ids(100), **how)
    stopped.close()
    opening: dict[str, Any] = {"append_only": True} if append_only else {"writable": True}
    again = fotmem.open_memory(tmp_path / "stopped", tiny.llama(), **opening)
    assert 0 < len(again) < 100
    again.read(tiny.ids(100), **how)
    again.close()
    with fotmem.open_memory(tmp_path / "stopped", tiny.llama()) as reader:
        assert_equal_stores(reader, whole)
    whole.close()


@pytest.mark.parametrize(
    "store, quantization",
    [
        ("hnsw", "int4"),
        *(
            pytest.param(store, quantization, marks=pytest.mark.thorough)
            for store in ("faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "zarr", "hnsw")
            for quantization in KINDS
        ),
    ],
)
def test_a_store_looks_up_rows_where_they_are(
    tmp_path: Path, quantization: Quantization, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stores have the same keys and values; those with an index decode what they look up."""
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    monkeypatch.setattr(indexed_store, "EXACT_BELOW", 64)
    memory, path = attached(head_dim=40), tmp_path / "memory"
    memory.read(tiny.ids(150), document="a")
    memory.save(path, quantization=quantization)
    reader = fotmem.open_memory(path, tiny.llama(head_dim=40), store)
    assert_equal_stores(memory, reader)
    for each in reader.stores.values():
        assert not isinstance(each, IndexedStore) or each.stored_keys.is_mapped
    question = tiny.ids(9, seed=5)
    memory.top_k = reader.top_k = None
    mine, theirs = (m.attached_model.parts.model(question).logits for m in (memory, reader))
    torch.testing.assert_close(mine, theirs)
    file = next(path.glob("layers/01/*/key_bounds/c.0.1*"))
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    model = tiny.llama(head_dim=40)
    with pytest.raises(StorageError, match=r"chunk .* of layers/01/.*/key_bounds is damaged"):
        open_and_ask(path, model, store)
    memory.close()


def open_and_ask(path: Path, model: Any, store: str) -> None:
    """Open a memory, and attend to all of it."""
    fotmem.open_memory(path, model, store, top_k=None)
    model(tiny.ids(9, seed=5))


@EVERY
def test_compaction_loses_nothing_more(tmp_path: Path, quantization: Quantization) -> None:
    memory, kept = attached(), attached()
    memory.save(tmp_path / "memory", quantization=quantization)
    kept.save(tmp_path / "kept", quantization=quantization)
    for name in "abc":
        for each in (memory, kept) if name != "b" else (memory,):
            each.read(tiny.ids(70, seed=ord(name)), document=name)
    memory.remove("b")
    memory.close()
    compact(tmp_path / "memory")
    with fotmem.open_memory(tmp_path / "memory", tiny.llama()) as again:
        assert_equal_stores(again, kept)
    kept.close()


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = attached()
    with pytest.raises(OptionError, match=r"a memory has no quantization 'int9'.*int8"):
        memory.save(tmp_path / "memory", quantization="int9")  # type: ignore[arg-type]
    assert not (tmp_path / "memory").exists()
    memory.save(tmp_path / "memory", quantization="int8")
    memory.save(tmp_path / "memory")
    memory.save(tmp_path / "memory", quantization="int8")
    with pytest.raises(OptionError, match=r"is begun: .* has int8, wanted int4; leave it out"):
        memory.save(tmp_path / "memory", quantization="int4")
    memory.close()
    (tmp_path / "a.txt").write_text("one two three", "utf-8")
    words = ["read", "no model", tmp_path / "a.txt", "--into", tmp_path / "memory"]
    found = refusal(capsys, 1, *words, "--quantization", "int4")
    assert "has int8, wanted int4" in found


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folders.write(tmp_path / "model")
    (tmp_path / "a.txt").write_text(folders.PROSE[:600], "utf-8")
    words = ["read", model, tmp_path / "a.txt", "--layers", "1", "--window", "32"]
    sizes = {}
    for name in ("float32", *KINDS):
        given = ["--quantization", name] if name in KINDS else []
        ended = call(capsys, *words, "--into", tmp_path / name, *given)
        assert ended.code == 0
        [layer] = MemoryDirectory.open(tmp_path / name).manifest.layers
        assert layer.quantization == (name if given else None)
        files = (tmp_path / name / "layers").rglob("c.*")
        sizes[name] = sum(file.stat().st_size for file in files)
    assert sizes["int4"] < sizes["int8"] < sizes["float32"]


# The directory


WIDE = {3: LayerShape(2, 64, torch.float32), 7: LayerShape(1, 40, torch.bfloat16)}
ROWS = 2 * 64 + 12


def written(path: Path, quantization: Quantization) -> Path:
    writer = MemoryDirectory.create(path, WIDE, FACTS, quantization)
    for stop in (130, ROWS):
        writer.append(*draw(len(writer), stop, WIDE))
        writer.commit([document(n, min(n + 20, stop), f"{n}") for n in range(0, stop, 20)])
    writer.close()
    return path


@EVERY
def test_the_page_on_the_format_reads_it(
    tmp_path: Path, quantization: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = MemoryDirectory.open(written(tmp_path / "memory", quantization))
    monkeypatch.chdir(tmp_path)
    found = read_as_the_page_says()
    for layer in found["manifest"]["layers"]:
        blocks = list(directory.blocks(layer["layer"], 0, ROWS))
        for number, column in enumerate(("key", "value"), 1):
            right = torch.cat([block[number] for block in blocks], 1)
            read = torch.from_numpy(found["vectors"](layer, column)).to(right.dtype)
            torch.testing.assert_close(read, right)


@pytest.mark.parametrize(
    "quantization, column", [("int8", "keys"), ("int4", "key_bounds"), ("int4", "values")]
)
def test_damage_is_listed_and_dropped(
    tmp_path: Path, quantization: Quantization, column: str
) -> None:
    path = written(tmp_path / "memory", quantization)
    file = next(path.glob(f"layers/07/*/{column}/c.0.1*"))
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    [damage] = verify(path).damages
    assert f"{column}/c.0.1" in damage.problem
    assert [each.name for each in repair(path).lost] == ["60"]
    assert verify(path).damages == ()
    assert names(path) - {".lock"} == MemoryDirectory.open(path).files()


@pytest.mark.parametrize("quantization, bits", [("int8", 9.0), ("int4", 5.0)])
def test_space(
    tmp_path: Path, quantization: Quantization, bits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits of a number, and of the bounds in bfloat16; checksums add less than a fifth."""
    monkeypatch.setattr(memory_directory, "BLOCK", 1024)
    rows, shape = 4 * 1024 + 100, LayerShape(3, 64, torch.bfloat16)
    writer = MemoryDirectory.create(tmp_path / "memory", {7: shape}, FACTS, quantization)
    vectors, ids = torch.zeros(3, rows, 64), torch.zeros(rows)
    writer.append(ids, ids, ids, {7: (vectors, vectors)})
    writer.commit([document(0, rows)])
    used = sum((tmp_path / "memory" / name).stat().st_size for name in names(tmp_path / "memory"))
    assert used < 1.2 * 2 * vectors.numel() * bits / 8
    writer.close()


@pytest.mark.thorough
def test_the_report_measures_each_quantization(tmp_path: Path) -> None:
    capture = capture_random(tmp_path / "capture", tokens=1100, queries=8, num_heads=2)
    losses = [quantization_report.loss(capture, kind) for kind in (None, "int8", "int4")]
    none, int8, int4 = losses
    assert none.bytes_per_token > int8.bytes_per_token > int4.bytes_per_token
    for layer in capture.info.layers:
        assert 0 < none.errors[layer] < int8.errors[layer] < int4.errors[layer] < 0.5
    head, _, *body = quantization_report.figures(losses).splitlines()
    assert head.startswith("| quantization | bytes per token | layer ")
    assert [row.split(" | ")[0] for row in body] == ["| none", "| `int8`", "| `int4`"]
