"""How `clusters` is measured: by definition, in turn, and so that a stopped run goes on."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.clusters import adding, answers, captures, errors, rivals, sizes, turns
from benchmarks.clusters.oracle import oracle, relative
from benchmarks.clusters.plan import FULL, TUNED
from fotmem.measure.capture import Capture, KeyValues, capture_random
from recipes import clusters_report
from recipes.clusters_picture import draw
from recipes.clusters_report import Unit
from recipes.clusters_tables import tables
from tests.tiny import one_thread  # noqa: F401 - processor time of one thread

HEADS, DIM, TOKENS = 2, 8, 5120
PLAN = replace(
    FULL, layers=(0,), tokens=TOKENS, queries=16, steps=(5120, 6000), windows=(5120,),
    tenfold=(5120, 6000), rounds=2, share=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("clusters") / "capture"
    sizes_ = {"tokens": TOKENS, "queries": 64, "num_heads": HEADS, "head_dim": DIM}
    return capture_random(folder, mismatch=0.5, **sizes_)


@pytest.fixture(scope="module")
def rows(capture: Capture) -> KeyValues:
    return captures.rows_of(capture, 0)


@pytest.fixture(scope="module")
def layer(capture: Capture, rows: KeyValues) -> captures.Layer:
    return captures.Layer("layer", rows, captures.queries_of(capture, 0, 16), capture.info.scale)


def test_the_oracle_by_definition(rows: KeyValues) -> None:
    keys, values = (each[:, :90].double() for each in rows)
    queries = torch.randn(HEADS, 40, DIM, generator=torch.Generator().manual_seed(1))
    found = oracle(queries, KeyValues(keys, values), 0.3, [1, 7, 500])
    scores = queries.double() @ keys.mT * 0.3
    assert float(relative(found.dense, scores.softmax(-1) @ values).max()) < 1e-5
    assert found.best.keys() == {1, 7, 90}
    for k, out in found.best.items():
        bar = scores.topk(k, -1).values[..., -1:]
        some = scores.masked_fill(scores < bar, -torch.inf).softmax(-1)
        assert float(relative(out, some @ values).max()) < 1e-5
    best = scores.softmax(-1).topk(32, -1).values.sum(-1)
    torch.testing.assert_close(found.peak.double(), best, atol=1e-5, rtol=0)


def test_the_errors_of_a_layer(layer: captures.Layer) -> None:
    with errors.filled(layer.rows) as store:
        found = errors.layer_errors(store, layer, 0.2)
    assert [*found] == ["default", "share", "share, by error", *errors.SETTINGS]
    assert all(0.1 * TOKENS < found[name]["read"] <= 0.2 * TOKENS for name in [*found][1:3])
    for figure in ("error", "best_error"):
        means = [found[f"budget={n}"][figure] for n in (160, 640, 2560)]
        assert means == sorted(means, reverse=True)
    json.dumps(found)


def test_the_keys_that_are_read(layer: captures.Layer) -> None:
    with errors.filled(layer.rows) as store:
        for budget in (200, 1000, 10 * TOKENS):
            store.tune(budget=budget)
            found = answers.answer(store, layer.queries, layer.scale)
            wanted = min(budget, TOKENS)
            assert 0.7 * wanted < found.read < 1.3 * wanted
        assert found.read == TOKENS
        assert float(found.estimated.abs().max()) < 1e-3
        again = store.attend(layer.queries, top_k=None, scale=layer.scale).out
        assert torch.equal(found.out, again)


def test_estimated_errors_beside_true_ones() -> None:
    estimated = torch.tensor([[0.4, 0.1], [0.3, 0.2]]).repeat(1, errors.BINS // 2)
    found = errors.calibration(estimated, 2 * estimated)
    assert len(found) == errors.BINS
    for one, true in found:
        assert true == pytest.approx(2 * one)
    assert found == sorted(found)


def test_a_rival_has_the_time_of_clusters() -> None:
    taken = {"[1, 32]": [0.5], "[2, 32]": [1.2], "[4, 32]": [1.3], "[1, 128]": [0.9],
             "[1, 512]": [2.0]}  # fmt: skip
    assert rivals.candidates(taken, 1.0) == {"[2, 32]": (2, 32), "[1, 128]": (1, 128)}
    assert rivals.candidates(taken, 0.1) == {"[1, 32]": (1, 32)}


def test_the_rivals_of_a_layer(
    layer: captures.Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(rivals, "EFFORTS", {"faiss-ivf": {"nprobe": (1, 200)}})
    monkeypatch.setattr(turns, "OTHERS", 1000)
    turns.other_data.cache_clear()
    with errors.filled(layer.rows) as store:
        row = rivals.layer_rivals(store, layer, 2, tmp_path)
    assert min(row["rivals"]["faiss-ivf"]["error"], row["error"]) > 0
    [file] = tmp_path.iterdir()
    index = rivals.read_index(file)
    monkeypatch.setattr(rivals, "read_index", lambda file: index)
    monkeypatch.setattr("numpy.savez", None)  # it is kept already
    rivals.kept_store("faiss-ivf", layer.rows, file)


def test_times_of_all_sizes(rows: KeyValues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "OTHERS", 1000)
    turns.other_data.cache_clear()
    longer = captures.lengthened(rows, 6000)
    assert torch.equal(longer.keys[:, :TOKENS], rows.keys)
    moved = longer.keys[:, TOKENS:].float() - rows.keys[:, :880].float()
    assert 0.05 < float(moved.std() / rows.keys.float().std()) < 0.15
    assert torch.equal(longer.values[:, TOKENS:], rows.values[:, :880])
    queries = rows.keys[:, :600].float()
    found = sizes.times(rows, queries, 0.3, PLAN)
    expected = [("step", 5120), ("step", 6000), ("tenfold", 6000)]
    assert [(row["kind"], row["tokens"], row["caches"]) for row in found] == [
        *((*each, "cold") for each in [*expected, ("window", 5120)]),
        *((*each, "warm") for each in expected),
    ]
    assert all(0 < row["ratio"][1] <= row["ratio"][0] <= row["ratio"][2] for row in found)


def test_adding_in_turn(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adding, "SIDES", {"clusters": {}, "exact": {}})
    found = adding.adding([capture, capture], [0] * 4)
    assert [(row["store"], row["tokens"]) for row in found] == [
        ("clusters", 2 * TOKENS),
        ("exact", 2 * TOKENS),
    ]
    assert all(row["longest"] >= row["median"] > 0 for row in found)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def units(fails: bool) -> Iterator[Unit]:
        for name in "abc":

            def measure(name: str = name) -> list[dict[str, Any]]:
                asked.append(name)
                if fails and name == "b":
                    raise KeyboardInterrupt
                return [{"kind": name}]

            yield Unit(name, measure)

    with pytest.raises(KeyboardInterrupt):
        clusters_report.measured(units(True), tmp_path / "rows")
    assert clusters_report.measured(units(False), tmp_path / "rows") == [
        {"kind": name} for name in "abc"
    ]
    assert asked == ["a", "b", "b", "c"]


def test_every_layer_of_every_text_is_measured(tmp_path: Path) -> None:
    texts = [Path(f"{name}.txt") for name in "xyz"]
    names = [unit.name for unit in clusters_report.units(FULL, texts, tmp_path)]
    assert len(names) == len({*names})
    for model in FULL.models:
        for layer in FULL.layers:
            some = [name for name in names if re.fullmatch(f"{model}-.-{layer:02d}", name)]
            assert {*some} == {f"{model}-{text}-{layer:02d}" for text in "xyz"}
    first = names[: len(FULL.layers)]
    assert {name.rpartition("-")[0] for name in first} == {f"{TUNED}-{text}" for text in "xyz"}
    assert len({name.rpartition("-")[2] for name in first}) == len(FULL.layers)


def made_up() -> list[dict[str, Any]]:
    """Return rows as they are measured, with figures that are easily recognised."""
    setting: dict[str, Any] = {"read": 655.0, "error_p95": 0.2, "peaked": 0.25,
                               "best_error": 0.4}  # fmt: skip
    found: list[dict[str, Any]] = []
    for model in ("one", "two"):
        for layer, error in ((8, 0.04), (20, 0.2)):
            about = {"model": model, "text": "t", "layer": layer, "tokens": 65_536}
            some = {"share": {**setting, "error": error}}
            some["default"] = {**setting, "error": error, "calibration": [(0.01, 0.02)]}
            for name in ("budget=10", "budget=20", "target_error=0.1"):
                some[name] = {**setting, "error": 0.1}
            rival = {"setting": "nprobe=8, top 32", "ratio": [1.1, 1.0, 1.2], "error": 0.1}
            found.append({"kind": "errors", **about, "settings": some})
            found.append({"kind": "rivals", **about, "error": error, "rivals": {"ivf": rival}})
    dense, of = {"bfloat16": 0.03, "float32": 0.024}, {"layer": 16, "caches": "cold"}
    for size, ratio in ((65_536, 12.0), (262_144, 30.0)):
        found.append({"kind": "step", "tokens": size, "clusters": 0.002, "fastest": "float32",
                      "dense": dense, "ratio": [ratio] * 3, **of})  # fmt: skip
    found.append({"kind": "tenfold", "tokens": 262_144, "clusters": 1.0, "ratio": [1.4, 1.3, 1.6],
                  **of})  # fmt: skip
    found.append({"kind": "adding", "store": "clusters", "tokens": 5, "tokens_per_second": 21_000.0,
                  "median": 0.1, "longest": 0.5})  # fmt: skip
    found.append({"kind": "ram", "tokens": 5, "rows": 100, "ram_bytes": 104, "resident": 110})
    return found


def test_the_page_says_what_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{clusters_report.MARKER}{clusters_report.MARKER}after\n")
    monkeypatch.setattr(clusters_report, "PAGE", page)
    monkeypatch.setattr(clusters_report, "PICTURE", tmp_path / "clusters.png")
    clusters_report.publish({"machine": {"processor": "P"}, "rows": made_up()}, FULL)
    written = page.read_text()
    keys, most = "1% of the keys read, 65,536 tokens", "at most"
    step, of = "a decoding step against dense", "layer 16, cold caches"
    for line in (
        f"{keys}, layers 8 and 16 | {most} 5% | mean 4.0%, worst 4.0% (one, t, layer 8) | 2 of 2 |",
        f"{keys}, every layer | {most} 10% | mean 12.0%, worst 20.0% (one, t, layer 20) | 2 of 4 |",
        "| at least 4x | median 6.0x, least 2.0x | 2 of 4 |",
        "| larger error | its error is 1.5x ours (median), at least 0.5x | 2 of 4 |",
        f"| {step}, 65,536 tokens, {of} | 10x faster | 12.0x (12.0 to 12.0) | yes |",
        f"| {step}, 262,144 tokens, {of} | 40x faster | 30x (30 to 30) | no |",
        "| at most 1.5x | 1.4x (1.3 to 1.6) | yes |",
        "| 20,000 tokens/s | 21,000 tokens/s | yes |",
        "| longest `add` | 10x the median | 5.0x | yes |",
        "| at most 5% | 4.0% by its count, 10.0% of the process | yes |",
        "| 1 of 1 | 1.0% | 2.0% |",
        "Measured on processor P.",
    ):
        assert f"{line}\n" in written, line
    assert (tmp_path / "clusters.png").read_bytes().startswith(b"\x89PNG")
    assert clusters_report.PAGE.read_text().count(clusters_report.MARKER) == 2


@pytest.mark.parametrize("kinds", [("step",), ("errors",)])
def test_what_is_measured_so_far_is_written(kinds: tuple[str, ...], tmp_path: Path) -> None:
    some = [row for row in made_up() if row["kind"] in kinds]
    assert ("layer 20" if "errors" in kinds else "decoding step") in tables(some, FULL)
    draw(some, tmp_path / "clusters.png")
