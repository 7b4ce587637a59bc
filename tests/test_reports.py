"""The scripts that make the reports of the documentation."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fotmem.cli.commands import app
from fotmem.errors import InputError
from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.report import GrowthRow
from fotmem.measure.evaluate.curves import Curve, CurvePoint
from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.distraction import DistractionRow
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.report import report, write_report
from fotmem.measure.evaluate.store_quality import StoreQuality
from fotmem.measure.grid import read_grid, settings
from fotmem.measure.select.choice import Candidate
from fotmem.measure.select.limits import Prediction
from fotmem.measure.setting import Setting
from recipes import (
    ablation,
    quality_report,
    reports,
    select_report,
    stores_report,
)


def passkey_row(tokens: int, right: float, *, memory: bool) -> dict[str, Any]:
    interval = [max(0.0, right - 0.1), min(1.0, right + 0.1)]
    return {
        "tokens": tokens,
        "memory": memory,
        "exact_match": right,
        "exact_match_interval": interval,
    }


def report_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": "passkey", "options": {}, "rows": rows}


def around(value: float) -> Figure:
    return Figure(value, value - 0.01, value + 0.01)


def test_existing_reports_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[list[str]] = []

    def run_and_write(words: list[str], *, check: bool) -> None:
        run.append(words)
        file = Path(words[words.index("--report") + 1])
        write_report(file, report_of([{"tokens": 5}]))

    monkeypatch.setattr("recipes.reports.subprocess.run", run_and_write)
    text, report, command = tmp_path / "a b.txt", tmp_path / "one.json", "passkey x --tokens 5"
    text.write_text("word")
    for _ in range(2):
        assert reports.measured(report, command, [str(text)]) == [{"tokens": 5}]
    [words] = run
    assert words[3:8] == ["eval", "passkey", "x", "--tokens", "5"]
    assert words[8:10] == ["--text", str(text)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a b.txt", "one.json"]
    with pytest.raises(SystemExit, match=r"one.json is the report of another command: move it"):
        reports.measured(report, "passkey x --tokens 6", [str(text)])
    text.write_text("words")
    with pytest.raises(SystemExit, match=r"one.json is the report of another text: move it away"):
        reports.measured(report, command, [str(text)])
    write_report(report, report_of([]))  # of a version that noted neither
    with pytest.raises(SystemExit, match="move it away"):
        reports.check_report(report, command, [str(text)])
    assert len(run) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": []}'])
def test_a_damaged_report_is_named_before_anything_is_measured(
    content: str, tmp_path: Path
) -> None:
    damaged = tmp_path / "one.json"
    damaged.write_text(content)
    for read in (reports.check_report, reports.measured):
        with pytest.raises(InputError, match=r"one\.json is not a report .*; remove it, and run"):
            read(damaged, "passkey x", [])


def test_the_table_of_the_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ablation.FIGURES}old\n{ablation.FIGURES}after\n")
    monkeypatch.setattr(ablation, "PAGE", page)
    monkeypatch.setattr(ablation, "BUILD", tmp_path)
    text = tmp_path / "book.txt"
    text.touch()
    monkeypatch.setattr("sys.argv", ["ablation", str(text)])
    trained: list[str] = []
    checked: list[object] = []
    monkeypatch.setattr(ablation, "_train", lambda name, output: trained.append(name))

    def measured(file: Path, command: str, texts: list[str]) -> list[dict[str, Any]]:
        assert texts == [str(text)]
        right = 0.5 if "bank" in file.name else 0.2
        rows = [passkey_row(16_871, 0.0, memory=False), passkey_row(16_871, right, memory=True)]
        if command.startswith("facts"):
            return [row | {"kind": kind} for row in rows for kind in ("3 digits", "all")]
        slides = rows[0] | {"perplexity": 10.74, "sliding": True}
        return [slides, *(row | {"perplexity": 16.954} for row in rows)]

    monkeypatch.setattr(ablation, "measured", measured)
    monkeypatch.setattr(ablation, "check_report", lambda *planned: checked.append(planned))
    ablation.main()
    assert trained == list(ablation.VARIANTS)
    assert len(checked) == len(trained) * len(ablation.MEASURED)
    poor, good = "0.20 (0.10 to 0.30)", "0.50 (0.40 to 0.60)"
    written = page.read_text()
    assert written.startswith(
        f"before\n{ablation.FIGURES}\n|  | positives only | and negatives | and a bank |\n"
    )
    for label in ("pass key, all of memory, 16,384 tokens", "32 facts in 16,384 tokens, top-k 16"):
        assert f"| {label} | {poor} | {poor} | {good} |\n" in written
    assert "| perplexity, no memory | 16.95 | 16.95 | 16.95 |\n" in written
    assert "10.74" not in written
    assert written.endswith(f"|\n\n{ablation.FIGURES}after\n")


def test_variants_differ_in_negatives_only() -> None:
    options = {name: ablation.options(name) for name in ablation.VARIANTS}
    alike = {"d": (1,), "bank_windows": (0,), "bank_weight": 1.0}
    kept = [one.model_copy(update=alike) for one in options.values()]
    assert kept[0] == kept[1] == kept[2]
    assert len({(one.d, one.bank_windows) for one in options.values()}) == 3


def test_the_figures_of_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores_report, "FOLDER", tmp_path)
    ratios = {"ours": 0.5, "theirs": 0.25, "ratio": 2.0, "low": 1.9, "high": 2.15, "more": 3e-5}
    grown = {
        "store": "hnsw",
        "tokens_per_second": 1234.5,
        "median_insert_latency": 0.01,
        "max_insert_latency": 0.1,
        "peak_ram": 2**29,
        "attention_mass_recall": 0.987,
        "latency": 1e-3,
        "window_latency": 0.02,
        "effort": 128,
    }
    kinds = {
        "overhead": [{"name": "hnsw", "kind": "random", "queries": 4096, **ratios}],
        "rival": [
            {"benchmark": "test_searching[random-True]", "attention": "random", "processes": True}
            | {**ratios, "ours_attention_mass_recall": 1.0, "theirs_attention_mass_recall": 0.5}
        ],
        "layers-hnsw": [
            {
                "store": "hnsw",
                "layer": layer,
                "attention_mass_recalls": [0.9 + layer / 100, 0.95 + layer / 100],
            }
            for layer in range(4)
        ],
        "growth-hnsw": [
            {**grown, "tokens": size, "effort_at_equal_recall": 90}
            | {"latency_at_equal_recall": cost, "window_latency_at_equal_recall": 3 * cost}
            for size, cost in ((10_240, 0.002), (102_400, 0.005))
        ]
        + [{**grown, "tokens": 2**20}],  # no effort finds as much
        "decode-hnsw": [
            {"store": "hnsw", "tokens": size, "step": 0.05, "low": 0.04, "high": 0.06}
            for size in (0, 10_240)
        ],
    }
    for name, rows in kinds.items():
        report = {"machine": {"processor": "P", "cuda": None, "torch": "2"}, "rows": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    written = stores_report.figures()
    assert "| `hnsw` | random | 4,096 | 500 ms | 250 ms | 2.00 (1.90 to 2.15) | 30 us |" in written
    assert "| searching | random | yes | 500 ms | 250 ms | 0.5 | 1.000 | 0.500 |" in written
    lowest = "0 (0.900 to 0.950), 1 (0.910 to 0.960), 2 (0.920 to 0.970)"
    assert f"| `hnsw` | 4 | 2 | 0.900 | 0.9400 | {lowest} |" in written
    assert "| 1,234 | 10 ms | 100 ms (10.0x) | 0.50 GiB | 0.987 | 1 ms | 20 ms | 90 |" in written
    assert "| 5 ms (2.5x) | 15 ms (2.5x) |" in written
    assert "| 0.987 | 1 ms | 20 ms |  |  |  |" in written
    assert "| store | empty | 10,240 tokens |" in written
    assert "| `hnsw` | 50 ms (40 ms to 60 ms) |" in written
    assert written.count("Measured on processor P; torch 2.") == 5
    assert stores_report.PAGE.read_text().count(stores_report.MARKER) == 2


def test_predictions_beside_measurements() -> None:
    setting = Setting(store="faiss-ivf", options={"nprobe": 8})
    predicted = Prediction(ram=5 * 2**20, disk=0, latency=5e-3, error=0.05, recall=0.9)
    grown = [
        GrowthRow(
            setting=setting, layer=layer, top_k=32, size=1000, recall=around(0.9),
            attention_mass_recall=around(0.9), error=around(0.5), excess_error=around(error),
            share_read=None, median_insert_latency=0.1, max_insert_latency=0.1,
            ram=2**21 / 1000, latency=one,
        )
        for layer, error, one in ((17, 0.03, 1e-3), (18, 0.05, 3e-3))
    ]  # fmt: skip
    candidate = Candidate(setting, predicted, (), (17,), 8192)
    written = select_report.figures([select_report.compared(candidate, grown, 5)])
    cells = "2.00ms | 1.00ms (-50%) | 2.0MiB | 1.0MiB (-50%) | 0.040 | 0.050 (+0.010)"
    assert f"| `faiss-ivf nprobe=8` | {cells} |" in written
    bounded = select_report.compared(replace(candidate, ram_is_budget=True), grown, 5)
    assert "| 2.0MiB | up to 1.0MiB |" in select_report.figures([bounded])
    assert select_report.PAGE.read_text().count(select_report.MARKER) == 2


def test_the_quality_with_several_stores(tmp_path: Path) -> None:
    points = [
        CurvePoint(
            Setting(store=store, options=options),
            around(quality),
            StoreQuality(around(recall), around(recall), around(1 - recall), around(1 - recall)),
        )
        for store, options, quality, recall in (
            ("exact", {}, 1.0, 1.0),
            ("hnsw", {"ef_search": 16}, 0.5, 0.6),
            ("hnsw", {"ef_search": 32}, 0.8, 0.8),
        )
    ]
    curve = Curve("passkey", 8192, points)
    written = quality_report.predictions([curve])
    assert "| passkey, 8,192 tokens: exact match | 1.000 | recall | 1.00 (" in written
    assert "| 0.950 (" in written  # from 0.8 at 0.8 to 1 at 1
    grid = read_grid(quality_report.write_grid(tmp_path / "grid.toml"))
    assert grid == quality_report.GRID
    settings(grid, grid)


def test_the_k_best_keys_beside_all(tmp_path: Path) -> None:
    files = {}
    for name, right in (("passkey-best", 0.9), ("passkey-all", 0.5)):
        rows = [
            PasskeyRow(memory=on, digit_accuracy=1.0, exact_match=right * on,
                       exact_match_interval=(0.1, 0.95), trials=4, seconds=1.0,
                       tokens=8192, store="exact" if on else None)
            for on in (False, True)
        ]  # fmt: skip
        files[name] = tmp_path / f"{name}.json"
        write_report(files[name], report("passkey", {"model": "one"}, rows))
    written = quality_report.write_dense(files)
    name = "`one` | passkey, 8,192 tokens: exact match"
    assert f"| {name} | 0.900 (0.100 to 0.950) | 0.500 (0.100 to 0.950) |\n" in written
    assert written.count("passkey") == 1


def test_large_memories(tmp_path: Path) -> None:
    about: dict[str, Any] = {"tokens": 2**20, "store": "faiss-ivf"}
    passkey = PasskeyRow(memory=True, digit_accuracy=1.0, exact_match=0.9,
                         exact_match_interval=(0.8, 0.95), trials=4, seconds=1.0,
                         seconds_per_token=0.08, **about)  # fmt: skip
    plain = replace(passkey, memory=False, store=None, exact_match=0.0, seconds_per_token=0.05)
    dictionary = DictionaryRow(exact_match=0.93, exact_match_interval=(0.9, 0.95),
                               symbol_accuracy=0.97, queries=500, tokens_per_second=12_345.0,
                               bytes_per_token=512.0,
                               seconds_per_query=0.012, ram=3 * 2**30, **about)  # fmt: skip
    files = {}
    for task, rows in (("passkey", [passkey, plain]), ("dictionary", [dictionary])):
        files[task] = tmp_path / f"{task}.json"
        write_report(files[task], report(task, {"option": ["nprobe=64"]}, rows))
    written = quality_report.write_large(files)
    head = "| 1,048,576 | `faiss-ivf nprobe=64` |"
    assert f"{head} 0.900 (0.800 to 0.950) | 80 ms | 50 ms |\n" in written
    assert f"{head} 0.930 (0.900 to 0.950) | 12.0 ms | 3.0 GiB | 12,345 |\n" in written


def test_distraction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quality_report, "DISTRACTION", tmp_path / "distraction.png")
    files = {}
    for name, found in (("before", 0.5), ("after", 0.75)):
        rows = [
            DistractionRow(size, around(0.1), around(1.0 if size == 1 else found), around(0.2),
                           {17: [0.5]}, 8, 1.0)
            for size in (1, 2)
        ]  # fmt: skip
        files[name] = tmp_path / f"{name}.json"
        write_report(files[name], report("distraction", {}, rows))
    written = quality_report.write_distraction(files)
    assert "| documents | by chance | before | after |\n" in written
    assert "| 2 | 0.500 | 0.500 (0.490 to 0.510) | 0.750 (0.740 to 0.760) |\n" in written
    assert (tmp_path / "distraction.png").read_bytes().startswith(b"\x89PNG")


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    """They are checked as far as it goes without a model; all sections are in the page."""
    for chosen in (quality_report.QUICK, quality_report.FULL):
        assert chosen.keys() == quality_report.WRITTEN.keys()
        for commands in chosen.values():
            for words in commands.values():
                task, model, *options = shlex.split(words)
                if model != "dictionary-fot":
                    options += ["--text", str(tmp_path / "none.txt")]
                ended = CliRunner().invoke(app, ["eval", task, str(tmp_path / "none"), *options])
                assert ended.exit_code == 1, ended.output
    for section in quality_report.WRITTEN:
        assert quality_report.PAGE.read_text().count(quality_report.marker(section)) == 2


def test_the_page_has_the_finished_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    marker = quality_report.marker("dense")
    page.write_text(f"before\n{marker}\nold\n{marker}after\n")
    monkeypatch.setattr(quality_report, "PAGE", page)
    commands = quality_report.best_and_all(passkey="passkey one", perplexity="perplexity one")
    row = PasskeyRow(memory=True, digit_accuracy=1.0, exact_match=1.0,
                     exact_match_interval=(0.5, 1.0), trials=4, seconds=1.0,
                     tokens=8192, store="exact")  # fmt: skip
    for name in ("passkey-best", "passkey-all"):
        file = quality_report.report_of(tmp_path, "dense", name)
        write_report(file, report("passkey", {"model": "one"}, [row]))
    quality_report.publish("dense", commands, tmp_path)
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    assert "| passkey, 8,192 tokens" in written
    assert written.count("$ fotmem eval passkey one") == 2
    assert "perplexity" not in written
    assert quality_report.report_of(tmp_path, "distraction", "text, before tuning") == (
        tmp_path / "distraction-text-before-tuning.json"
    )
