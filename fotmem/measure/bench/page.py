"""The interactive report: one HTML page that opens from disk, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from fotmem.errors import require_packages
from fotmem.files import write_text
from fotmem.measure.bench.plot import colours
from fotmem.measure.bench.report import BenchReport, GrowthRow
from fotmem.measure.bench.summary import (
    ALL_KEYS,
    COLUMNS,
    Column,
    SettingSummary,
    all_keys_summaries,
    stores,
    summaries,
)

ALL = "mean of all"
GROWN = {
    "attention-mass recall": lambda row: row.attention_mass_recall.value,
    "error": lambda row: row.error.value,
    "excess error": lambda row: row.excess_error.value,
    "recall": lambda row: row.recall.value,
    "latency of one query of each head (ms)": lambda row: 1e3 * row.latency,
    "median insert latency (ms)": lambda row: 1e3 * row.median_insert_latency,
    "max insert latency (ms)": lambda row: 1e3 * row.max_insert_latency,
    "RAM (B/token)": lambda row: row.ram,
}
"""Figures of the growing memory."""


def write_page(report: BenchReport, file: Path) -> None:
    """Write a page with interactive pictures, a choice of their axes, and a table."""
    require_packages("the interactive report", "plotly")
    from plotly.offline import get_plotlyjs

    template = files("fotmem.measure.bench").joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(report), default=str).replace("</", "<\\/")  # or it ends the script
    page = template.replace("/*DATA*/", data).replace("/*PLOTLY*/", get_plotlyjs())
    write_text(file, page)


def _data(report: BenchReport) -> dict[str, Any]:
    names, every = stores(report), summaries(report)
    layers = sorted({row.layer for row in (*report.rows, *report.all_keys)})
    rows = [_row(each, ALL) for each in every]
    for layer in layers:
        of_layer = (each.of_layer(layer) for each in every)
        rows += [_row(each, f"layer {layer}") for each in of_layer if each.rows]
    return {
        "about": _about(report),
        "stores": names,
        "colours": colours(names),
        "columns": [[each.name, each.unit, each.best, each.meaning] for each in COLUMNS],
        "top_k": sorted({row.top_k for row in report.rows}),
        "layers": [ALL, *(f"layer {layer}" for layer in layers)],
        "rows": rows,
        "all_keys": _all_keys(report),
        "grown": list(GROWN),
        "growth": [*_growth(report)],
        "failures": [[str(f.setting), f"layer {f.layer}", f.reason] for f in report.failures],
        "machine": {
            name: str(value)
            for part in (report.machine, report.versions, report.measured)
            for name, value in part.items()
        },
    }


def _all_keys(report: BenchReport) -> dict[str, Any]:
    rows = [
        _row(some, name, ALL_KEYS) | {"calibration": some.calibration()}
        for each in all_keys_summaries(report)
        for name, some in [
            (ALL, each),
            *((f"layer {row.layer}", each.of_layer(row.layer)) for row in each.rows),
        ]
    ]
    columns = [[each.name, each.unit, each.best, each.meaning] for each in ALL_KEYS]
    return {"columns": columns, "rows": rows}


def _row(
    summary: SettingSummary, layer: str, columns: Sequence[Column] = COLUMNS
) -> dict[str, Any]:
    return {
        "store": summary.setting.store,
        "setting": str(summary.setting),
        "top_k": summary.top_k,
        "layer": layer,
        "figures": {column.name: summary.figure(column) for column in columns},
    }


def _growth(report: BenchReport) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, int], list[GrowthRow]] = {}
    for row in report.growth:
        groups.setdefault((str(row.setting), row.size), []).append(row)
    for rows in groups.values():
        yield _grown(rows, ALL)
    for row in report.growth:
        yield _grown([row], f"layer {row.layer}")


def _grown(rows: list[GrowthRow], layer: str) -> dict[str, Any]:
    first = rows[0]
    return {
        "store": first.setting.store,
        "setting": str(first.setting),
        "layer": layer,
        "size": first.size,
        "figures": {name: fmean(map(of, rows)) for name, of in GROWN.items()},
    }


def _about(report: BenchReport) -> str:
    capture, measured = report.capture, report.measured
    source = ", ".join(f"{name} {value!s:.16}" for name, value in capture["source"].items())
    return (
        f"{capture['tokens']:,} tokens of {capture['num_heads']} heads of {capture['head_dim']} "
        f"dimensions, layers {', '.join(map(str, capture['layers']))}, captured from {source}. "
        f"{measured['queries']} queries of each head; {measured['rounds']} rounds of timing, in "
        "which all settings of a batch take turns."
    )
