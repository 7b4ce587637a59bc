"""Compares what `fotmem select` foretells with what is measured, and fills in `docs/select.md`.

Run by ``make report-select TEXT=book.txt``: the model reads 320k tokens (a quarter of an hour), the
stores take them up (two hours); what is there already is not made again.
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
from fotmem.measure.machine import machine, versions
from fotmem.measure.reading import OVERLAP
from fotmem.measure.select.choice import Candidate
from fotmem.measure.select.limits import in_bytes, in_ms
from fotmem.measure.select.selector import CAPTURED
from fotmem.models.load import load_model
from fotmem.models.tokens import token_ids
from recipes.reports import fill, table, texts_given

MODEL, TOKENS, TOP_K = "smollm2-fot", 320 * 2**10, 32
STORES = ("exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr")
FOLDER, PAGE = Path("build/select"), Path("docs/select.md")
REPORT = Path("docs/benchmarks/select.json")
MARKER = "<!-- figures, by make report-select -->\n"


def main(text: str) -> None:
    """Measure what is not measured yet, foretell, and fill in the page."""
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
    content = {"machine": machine() | versions(), "rows": rows}
    REPORT.write_text(json.dumps(content, indent=1) + "\n")
    fill(PAGE, MARKER, figures(rows))


def captured(model: Any, ids: list[int], tokens: int) -> Capture:
    """Let the model read so many tokens, if it has not."""
    return capture_model(
        model, ids, FOLDER / str(tokens), tokens=tokens, queries=256, overlap=OVERLAP, progress=True
    )


def compared(candidate: Candidate, measured: list[GrowthRow], layers: int) -> dict[str, Any]:
    """Put what was foretold of a setting beside what was measured, the mean of a layer."""
    foretold = candidate.foretold
    return {
        "store": candidate.setting.store,
        "setting": str(candidate.setting),
        "layers": list(candidate.layers),
        "judged": candidate.judged,
        "at_most": candidate.at_most,
        "foretold": {
            "latency": foretold.latency / layers,
            "ram": foretold.ram / layers,
            "error": foretold.error,
        },
        "measured": {
            "latency": fmean(row.one for row in measured),
            "ram": fmean(row.ram * row.size for row in measured),
            "error": fmean(row.topk_error.value for row in measured),
        },
    }


def figures(rows: list[dict[str, Any]]) -> str:
    """Write what was foretold and measured of each setting, and how far apart they are."""
    head = ["setting", "a query", "foretold", "RAM", "foretold", "error", "foretold"]
    body = []
    for row in rows:
        cells = [f"`{row['setting']}`"]
        for name, told in (("latency", in_ms), ("ram", in_bytes)):
            measured, foretold = row["measured"][name], row["foretold"][name]
            off = f"{told(foretold)} ({foretold / measured - 1:+.0%})"
            bounded = name == "ram" and row["at_most"]
            cells += [told(measured), f"at most {told(foretold)}" if bounded else off]
        measured, foretold = row["measured"]["error"], row["foretold"]["error"]
        cells += [f"{measured:.3f}", f"{foretold:.3f} ({foretold - measured:+.3f})"]
        body.append(cells)
    return table(head, body)


if __name__ == "__main__":
    main(*texts_given()[:1])
