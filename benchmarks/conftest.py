"""Ratios measured side by side, and a real model where benchmarks are timed.

``make bench`` times everything; ``make test`` runs each benchmark once, small and untimed, so
that none can rot.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

Call = Callable[[], object]
Compare = Callable[..., None]
RESULTS: list[tuple[str, float, float, list[float]]] = []


@pytest.fixture
def timed(benchmark: Any) -> bool:
    """Whether this run measures."""
    return not benchmark.disabled


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Compare:
    """Time ``ours`` and ``theirs`` in turn, so that both meet the same machine."""

    def run(ours: Call, theirs: Call, *, rounds: int = 15) -> None:
        ours()
        theirs()
        if benchmark.disabled:
            benchmark(lambda: None)
            return
        pairs = []
        for number in range(rounds):  # each goes first in turn: the second finds colder caches
            if number % 2:
                pairs.append((_seconds(ours), _seconds(theirs)))
            else:
                second = _seconds(theirs)
                pairs.append((_seconds(ours), second))
        ratios = sorted(a / b for a, b in pairs)
        benchmark.extra_info["ratio"] = statistics.median(ratios)
        benchmark.extra_info["ratios"] = ratios
        benchmark.extra_info["theirs"] = statistics.median(b for _, b in pairs)
        mine = statistics.median(a for a, _ in pairs)
        RESULTS.append((request.node.name, mine, benchmark.extra_info["theirs"], ratios))
        benchmark.pedantic(ours, rounds=3)

    return run


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def pytest_terminal_summary() -> None:
    """Print the ratios: median, and the middle half of the pairs."""
    if not RESULTS:
        return
    table = Table("benchmark", "ours", "theirs", "ratio", "middle half", title="side by side")
    for name, ours, theirs, ratios in RESULTS:
        quarter = len(ratios) // 4
        table.add_row(
            name,
            f"{1e3 * ours:.2f} ms",
            f"{1e3 * theirs:.2f} ms",
            f"{statistics.median(ratios):.2f}",
            f"{ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
