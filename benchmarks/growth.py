"""How a store's costs grow with the memory: ``python -m benchmarks.growth STORE --tokens 1M``.

Eight heads of 64 dimensions; 2,048 tokens are added at a time. One store per process, so that the
peak of its memory is its own. Search is timed with the store's default options, and with the least
effort (`nprobe`, `ef_search`) that reaches the same attention-mass recall at every size: then the
costs are those of equal answers.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fotmem
from benchmarks.captured import demo
from fotmem.cli.parsing import parse_sizes
from fotmem.measure.bench.figures import attention_mass_recall, truth
from fotmem.measure.capture import Capture, KeyValues
from fotmem.measure.evaluate.report import write_report
from fotmem.measure.machine import describe_machine, versions
from fotmem.stores import MemoryStore

MARKS = (10 * 2**10, 100 * 2**10, 2**20)
HEADS, STEP, TOP_K, WINDOW = 8, 2048, 32, 512
MASS = 0.98
"""Attention-mass recall at which costs are compared."""
MOST = 2**12
"""Largest effort that is tried."""
EFFORTS = {"nprobe", "ef_search"}
"""Options of search effort."""
QUERIES = 128
"""Queries of a head for attention-mass recall."""
Row = dict[str, Any]


def grow(name: str, capture: Capture, marks: list[int]) -> Iterator[Row]:
    """Add tokens; at each mark, yield the cost of adding and of searching."""
    first = next(blocks(capture, STEP)).keys
    store = fotmem.create_store(name, num_heads=len(first), head_dim=first.shape[2])
    before, taken = peak(), []
    for keys, values in blocks(capture, max(marks)):
        begin = time.perf_counter()
        store.add(keys, values)
        taken.append(time.perf_counter() - begin)
        if len(store) in marks:
            yield {
                "store": name,
                "tokens": len(store),
                "tokens_per_second": len(store) / sum(taken),
                "median_insert_latency": statistics.median(taken),
                "max_insert_latency": max(taken),
                "peak_ram": peak() - before,
                **searching(store, capture),
            }


def blocks(capture: Capture, stop: int) -> Iterator[KeyValues]:
    """Yield keys and values of the first tokens; the heads of all layers are side by side."""
    layers = (capture.blocks(layer, STEP, stop) for layer in capture.info.layers)
    for several in zip(*layers, strict=True):
        yield KeyValues(*(torch.cat(parts)[:HEADS] for parts in zip(*several, strict=True)))


def queries_after(capture: Capture, tokens: int) -> Tensor:
    """Return the queries after `tokens` tokens, or after the next larger size of the capture."""
    size = min(size for size in capture.info.sizes if size >= tokens)
    return torch.cat([capture.queries(layer, size) for layer in capture.info.layers])[:HEADS]


def searching(store: MemoryStore, capture: Capture) -> Row:
    """Time searches with the default effort, then with the least that finds `MASS`."""
    queries, seen = queries_after(capture, len(store)), blocks(capture, len(store))
    exact = truth(queries[:, :QUERIES], seen, scale=capture.info.scale, top_k=TOP_K)

    def found() -> float:
        return attention_mass_recall(store.search(exact.queries, TOP_K).scores, exact)

    row = {"attention_mass_recall": found(), **timed(store, queries)}
    name = next(iter(store.search_options & EFFORTS), None)
    if name is None:
        return row
    usual = getattr(store.options, name)  # type: ignore[attr-defined]
    row["effort"] = usual
    for half_steps in range(2 * MOST.bit_length() - 1):
        store.tune(**{name: (least := int(2 ** (half_steps / 2)))})
        if found() >= MASS:
            equal = {
                f"{key}_at_equal_recall": value for key, value in timed(store, queries).items()
            }
            row |= {"effort_at_equal_recall": least, **equal}
            break
    store.tune(**{name: usual})
    return row


def timed(store: MemoryStore, queries: Tensor) -> Row:
    """Time one query a head, and a window of them; seconds, medians."""
    ones = [query.contiguous() for query in queries[:, :60].split(1, 1)]
    windows = [window.contiguous() for window in queries[:, : 3 * WINDOW].split(WINDOW, 1)]
    return {
        name: statistics.median([_seconds(store, some) for some in each][1:] or [0.0])
        for name, each in (("latency", ones), ("window_latency", [windows[0], *windows]))
    }


def _seconds(store: MemoryStore, queries: Tensor) -> float:
    begin = time.perf_counter()
    store.search(queries, TOP_K)
    return time.perf_counter() - begin


def peak() -> int:
    """Return the most memory that this process had, in bytes; Linux only.

    Not ru_maxrss, which a process inherits from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def show(rows: list[Row]) -> None:
    """Print a table of the rows."""
    times = ("latency", "window latency")
    head = ("tokens", "tokens/s", "median insert", "max insert", "peak RAM", "mass recall", *times)
    equal = (f"effort for {MASS}", *times)
    table = Table(*head, *equal, title=rows[0]["store"])
    for row in rows:
        table.add_row(
            f"{row['tokens']:,}",
            f"{row['tokens_per_second']:,.0f}",
            *(
                f"{1e3 * row[key]:.1f} ms"
                for key in ("median_insert_latency", "max_insert_latency")
            ),
            f"{row['peak_ram'] / 2**30:.2f} GiB",
            f"{row['attention_mass_recall']:.3f}",
            *(f"{1e3 * row[key]:.2f} ms" for key in ("latency", "window_latency")),
            str(row.get("effort_at_equal_recall", "")),
            *(
                f"{1e3 * row[key]:.2f} ms" if key in row else ""
                for key in ("latency_at_equal_recall", "window_latency_at_equal_recall")
            ),
        )
    Console(width=140).print(table)


def marks_up_to(tokens: str) -> list[int]:
    """Return the sizes to measure at."""
    [most] = parse_sizes(tokens, "--tokens", one=True)
    return [mark for mark in MARKS if mark < most] + [most]


def write(report: Path, rows: list[Row]) -> None:
    """Write rows, with machine and versions."""
    write_report(report, {"machine": describe_machine() | versions(), "rows": rows})


def main(
    store: str,
    tokens: Annotated[str, typer.Option(help="The most, such as 100k or 1M.")] = "100k",
    report: Annotated[Path | None, typer.Option(help="Write rows there, as JSON.")] = None,
) -> None:
    """Measure one store."""
    marks = marks_up_to(tokens)
    rows = []
    for row in grow(store, demo(max(marks)), marks):
        rows.append(row)
        show(rows)
        if report is not None:
            write(report, rows)


if __name__ == "__main__":
    typer.run(main)
