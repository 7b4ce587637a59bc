"""Compares the predictions of `fotmem select` with measurements, and fills in `docs/select.md`.

Run by ``make report-select TEXT=book.txt``: the model reads 320k tokens (a quarter of an hour), the
stores add them (two hours). Captures and reports that exist are used again.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import fotmem
from fotmem.files import read_text
from fotmem.measure.bench.report import GrowthRow
from fotmem.measure.bench.run import Bench, Plan
from fotmem.measure.capture import Capture, capture_model
from fotmem.measure.grid import settings
from fotmem.measure.machine import describe_machine, versions
from fotmem.measure.reading import OVERLAP
from fotmem.measure.select.choice import Candidate
from fotmem.measure.select.limits import in_bytes, in_ms
from fotmem.measure.select.selector import CAPTURED
from fotmem.models.load import load_model
from fotmem.models.tokens import token_ids
from recipes.given_texts import texts_given
from recipes.reports import fill, table
from recipes.stopping import run_recipe

MODEL, TOKENS, TOP_K = "smollm2-fot", 320 * 2**10, 32
STORES = ("exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr")
FOLDER, PAGE = Path("build/select"), Path("docs/select.md")
REPORT = Path("docs/benchmarks/select.json")
MARKER = "<!-- figures, by make report-select -->\n"


def main(text: str) -> None:
    """Measure everything that is missing, predict, and fill in the page."""
    model, tokenizer = load_model(MODEL)
    ids = token_ids(tokenizer, read_text(Path(text)))
    large = captured(model, ids, TOKENS)
    plan = Plan(top_k=(TOP_K,), queries=128, rounds=2)
    bench = Bench(large, settings(STORES), large.info.layers, FOLDER / "bench.json", plan)
    for step in bench.run():
        print(step.what, flush=True)
    chosen = fotmem.select(captured(model, ids, CAPTURED), tokens=TOKENS, stores=STORES, step=print)
    grown = [row for row in bench.report.growth if row.size == TOKENS]
    rows = [
        compared(each, [row for row in grown if row.setting == each.setting], len(chosen.layers))
        for each in chosen.candidates
    ]
    content = {"machine": describe_machine() | versions(), "rows": rows}
    REPORT.write_text(json.dumps(content, indent=1) + "\n")
    fill(PAGE, MARKER, figures(rows))


def captured(model: Any, ids: list[int], tokens: int) -> Capture:
    """Return the capture of `tokens` tokens, and make it if it is missing."""
    return capture_model(
        model, ids, FOLDER / str(tokens), tokens=tokens, queries=256, overlap=OVERLAP, progress=True
    )


def compared(candidate: Candidate, measured: list[GrowthRow], layers: int) -> dict[str, Any]:
    """Put the prediction of a setting beside its measurement: means of a layer."""
    predicted = candidate.predicted
    return {
        "store": candidate.setting.store,
        "setting": str(candidate.setting),
        "layers": list(candidate.layers),
        "measured_tokens": candidate.measured_tokens,
        "ram_is_budget": candidate.ram_is_budget,
        "predicted": {
            "latency": predicted.latency / layers,
            "ram": predicted.ram / layers,
            "error": predicted.error,
        },
        "measured": {
            "latency": fmean(row.latency for row in measured),
            "ram": fmean(row.ram * row.size for row in measured),
            "error": fmean(row.excess_error.value for row in measured),
        },
    }


def figures(rows: list[dict[str, Any]]) -> str:
    """Write measurement, prediction and their difference for each setting."""
    head = ["setting"]
    for name in ("latency", "RAM", "excess error"):
        head += [name, "predicted"]
    body = []
    for row in rows:
        cells = [f"`{row['setting']}`"]
        for name, shown in (("latency", in_ms), ("ram", in_bytes)):
            measured, predicted = row["measured"][name], row["predicted"][name]
            off = f"{shown(predicted)} ({predicted / measured - 1:+.0%})"
            budget = name == "ram" and row["ram_is_budget"]
            cells += [shown(measured), f"up to {shown(predicted)}" if budget else off]
        measured, predicted = row["measured"]["error"], row["predicted"]["error"]
        cells += [f"{measured:.3f}", f"{predicted:.3f} ({predicted - measured:+.3f})"]
        body.append(cells)
    return table(head, body)


if __name__ == "__main__":
    run_recipe(lambda: main(*texts_given()[:1]))
