"""Ratios measured side by side, and a real model where benchmarks are timed.

``make bench`` times everything; ``make test`` runs each benchmark once, small and untimed, so
that none can rot.
"""

import functools
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.captured import Captured, Random, Source, demo
from tests import tiny

Call = Callable[[], object]
Compare = Callable[..., None]
Sources = Callable[[str, bool], Source]
HEADS = 3
RESULTS: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture
def timed(benchmark: Any) -> bool:
    """Whether this run measures."""
    return not benchmark.disabled


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Return attention of a kind: captured, or random; of a tiny model when nothing is timed."""
    folder = tmp_path_factory.mktemp("captured")

    @functools.cache
    def source(kind: str, timed: bool) -> Source:
        if kind == "random":
            return Random(HEADS, dim=64 if timed else 8)
        if not timed:
            return Captured(_tiny, folder, layers=tiny.LAYERS, heads=HEADS, length=2048, window=256)
        try:
            return demo(heads=HEADS)
        except PackageNotFoundError as error:
            pytest.skip(f"the demo model is not installed: {error}")

    return source


def _tiny() -> tuple[Any, list[int]]:
    return tiny.llama(max_position_embeddings=2048), tiny.ids(7200)[0].tolist()


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
        benchmark.extra_info["ours"] = mine
        benchmark.extra_info["more"] = statistics.median(a - b for a, b in pairs)
        RESULTS.append((request.node.name, benchmark.extra_info))
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
    table = Table(
        "benchmark", "ours", "theirs", "more", "ratio", "middle half", title="side by side"
    )
    for name, found in RESULTS:
        times = [f"{1e3 * found[which]:.2f} ms" for which in ("ours", "theirs", "more")]
        ratios, quarter = found["ratios"], len(found["ratios"]) // 4
        middle = f"{ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}"
        table.add_row(name, *times, f"{found['ratio']:.2f}", middle)
    console = Console(width=120)
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
