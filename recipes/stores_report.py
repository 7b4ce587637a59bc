"""Measures the stores, and fills in `docs/benchmarks.md`.

Run by ``make report-stores TOKENS=1M``. Reports that exist are not measured again: delete those
that are to be. 100k tokens take one core an hour or two, 1M most of a day; capturing comes first.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import fotmem
from benchmarks.growth import write
from recipes.reports import fill, table
from recipes.stopping import run_recipe

PAGE = Path("docs/benchmarks.md")
FOLDER = Path("docs/benchmarks")
MARKER = "<!-- figures, by make report-stores -->\n"
PYTEST = "pytest {} --benchmark-enable --benchmark-only --benchmark-json {}"
BESIDE = {"overhead": "benchmarks/test_stores.py", "rival": "benchmarks/test_rival.py"}
MASSES = ("ours_attention_mass_recall", "theirs_attention_mass_recall")
KNOWN = {("layers", "exact"), ("layers", "faiss-flat")}
"""Reports that need no measuring: exact stores find all keys."""
Rows = list[dict[str, Any]]


def main(tokens: str = "100k") -> None:
    """Measure everything without a report, then fill in the page."""
    stores = [name for name, spec in fotmem.available_stores().items() if spec.available]
    for name, file in BESIDE.items():
        if not report(name).exists():
            beside(name, file)
    for script, size in (("layers", "64k"), ("growth", tokens), ("decode", tokens)):
        for store in stores:
            written = report(f"{script}-{store}")
            if not written.exists() and (script, store) not in KNOWN:
                run(f"benchmarks.{script} {store} --tokens {size} --report {written}")
    fill(PAGE, MARKER, figures())


def report(name: str) -> Path:
    """Name the file of a report."""
    return FOLDER / f"{name}.json"


def run(words: str) -> None:
    """Run a module in a process of its own."""
    print(f"python -m {words}", flush=True)
    subprocess.run([sys.executable, "-m", *shlex.split(words)], check=True)


def beside(name: str, file: str) -> None:
    """Time two sides in turn, and keep the figures of the documentation."""
    with tempfile.TemporaryDirectory() as folder:
        run(PYTEST.format(file, f"{folder}/all.json"))
        found = json.loads(Path(folder, "all.json").read_text())["benchmarks"]
    rows = []
    for one in found:
        info = one["extra_info"]
        quarter = len(info["ratios"]) // 4
        low, high = info["ratios"][quarter], info["ratios"][-1 - quarter]
        kept = {key: info[key] for key in ("ours", "theirs", "more", "ratio")}
        row = {"benchmark": one["name"], **(one["params"] or {}), **kept, "low": low, "high": high}
        rows.append({**row, **info.get("attention_mass_recall", {})})
    write(report(name), rows)


def figures() -> str:
    """Write a table for each kind of report, with the machines it was measured on."""
    parts = []
    for title, kind, show in (
        ("`search` against the bare library", "overhead*", overhead),
        ("Against `KNNMemory`", "rival*", rival),
        ("Attention-mass recall on every layer", "layers-*", layers),
        ("Inserting and searching as memory grows", "growth-*", growth),
        ("The whole model's decoding step", "decode-*", decoding),
    ):
        found = [json.loads(file.read_text()) for file in sorted(FOLDER.glob(f"{kind}.json"))]
        if found:
            rows = [row for one in found for row in one["rows"]]
            machines = {
                "; ".join(f"{what} {told}" for what, told in one["machine"].items() if told)
                for one in found
            }
            on = "\n".join(f"Measured on {one}." for one in sorted(machines))
            parts.append(f"### {title}\n\n{show(rows)}\n{on}\n")
    return "\n".join(parts)


def overhead(rows: Rows) -> str:
    """Show the ratios of times, and the overhead of a call."""
    head = (
        "store",
        "data",
        "queries a head",
        "store",
        "library",
        "ratio (middle half)",
        "overhead",
    )
    body = [
        [
            f"`{row['name']}`",
            row["kind"],
            f"{row['queries']:,}",
            *(_time(row[key]) for key in ("ours", "theirs")),
            f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            _time(row["more"]),
        ]
        for row in rows
    ]
    return table(list(head), body)


def rival(rows: Rows) -> str:
    """Show the ratio of times, and the attention-mass recall of both sides."""
    body = [
        [
            row["benchmark"].partition("[")[0].removeprefix("test_"),
            row["attention"],
            "yes" if row["processes"] else "no",
            *(_time(row[key]) for key in ("ours", "theirs")),
            f"{1 / row['ratio']:.1f}",
            *(f"{row[key]:.3f}" if key in row else "" for key in MASSES),
        ]
        for row in rows
    ]
    head = ("", "data", "its processes", "`faiss-ivf`", "`KNNMemory`", "ratio")
    recalls = (f"attention-mass recall, `{name}`" for name in ("faiss-ivf", "KNNMemory"))
    return table([*head, *recalls], body)


def layers(rows: Rows) -> str:
    """Show the lowest and the median attention-mass recall of each store, and the worst layers."""
    body = []
    for store in dict.fromkeys(row["store"] for row in rows):
        found = {
            row["layer"]: row["attention_mass_recalls"] for row in rows if row["store"] == store
        }
        least = sorted(found, key=lambda layer: float(min(found[layer])))[:3]
        every = [mass for masses in found.values() for mass in masses]
        worst = (f"{layer} ({min(found[layer]):.3f} to {max(found[layer]):.3f})" for layer in least)
        builds = max(map(len, found.values()))
        cells = (f"`{store}`", len(found), builds, f"{min(every):.3f}", f"{median(every):.4f}")
        body.append([*map(str, cells), ", ".join(worst)])
    return table(
        ["store", "layers", "builds", "lowest", "median", "worst layers (range over builds)"], body
    )


def growth(rows: Rows) -> str:
    """Show the cost of inserting and searching at each size, and its ratio to the row above."""
    head = (
        *("store", "tokens", "tokens/s", "median insert latency", "max insert latency"),
        *("peak RAM", "attention-mass recall", "latency", "window latency"),
    )
    body, before = [], dict[str, Any]()
    for row in rows:
        equal = ["", "", ""]
        times = ("latency_at_equal_recall", "window_latency_at_equal_recall")
        if "effort_at_equal_recall" in row:
            known = before if before.get("store") == row["store"] else row
            equal = [str(row["effort_at_equal_recall"])]
            equal += [f"{_time(row[key])} ({row[key] / known[key]:.1f}x)" for key in times]
        median_latency, longest = row["median_insert_latency"], row["max_insert_latency"]
        body.append(
            [
                f"`{row['store']}`",
                f"{row['tokens']:,}",
                f"{row['tokens_per_second']:,.0f}",
                _time(median_latency),
                f"{_time(longest)} ({longest / median_latency:.1f}x)",
                f"{row['peak_ram'] / 2**30:.2f} GiB",
                f"{row['attention_mass_recall']:.3f}",
                *(_time(row[key]) for key in ("latency", "window_latency")),
                *equal,
            ]
        )
        before = row if times[0] in row else {}
    same = ("effort", "latency at equal recall", "window latency at equal recall")
    return table([*head, *same], body)


def decoding(rows: Rows) -> str:
    """Show a step's time at each size, a row per store."""
    sizes = sorted({row["tokens"] for row in rows})
    found = {(row["store"], row["tokens"]): row for row in rows}
    body = [
        [f"`{store}`", *(_step(found.get((store, size))) for size in sizes)]
        for store in dict.fromkeys(row["store"] for row in rows)
    ]
    return table(["store", *(f"{size:,} tokens" if size else "empty" for size in sizes)], body)


def _step(row: dict[str, Any] | None) -> str:
    return f"{_time(row['step'])} ({_time(row['low'])} to {_time(row['high'])})" if row else ""


def _time(seconds: float) -> str:
    """Show a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}" if abs(seconds) < 1000 else f"{seconds:,.0f} s"
    return f"{1e6 * seconds:.0f} us"


if __name__ == "__main__":
    run_recipe(lambda: main(*sys.argv[1:]))
