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
from rich.markup import escape
from rich.table import Table

from benchmarks import kept, step
from benchmarks.captured import QUERIES, demo
from fotmem.errors import InputError
from fotmem.measure.capture import Capture, capture_model, capture_random
from fotmem.stores import indexed_store as indexed
from tests import tiny

Call = Callable[[], object]
Compare = Callable[..., None]
Captures = Callable[[str], Capture]
RESULTS: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture(scope="session")
def timed(request: pytest.FixtureRequest) -> bool:
    """Whether this run measures."""
    return bool(request.config.getoption("benchmark_enable"))


@pytest.fixture(autouse=True)
def early_index(timed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores build their index early in a run without timing."""
    if not timed:
        monkeypatch.setattr(indexed, "EXACT_BELOW", 512)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Attention of a tiny model."""
    return capture_model(
        tiny.llama(max_position_embeddings=512),
        tiny.ids(2000)[0].tolist(),
        tmp_path_factory.mktemp("small"),
        tokens=1500,
        queries=128,
        layers=tiny.LAYERS,
        window=256,
    )


@pytest.fixture(scope="session")
def captures(timed: bool, small: Capture, tmp_path_factory: pytest.TempPathFactory) -> Captures:
    """Return captured or random attention; little of it in a run without timing."""

    @functools.cache
    def capture(kind: str) -> Capture:
        tokens = 2**16 if timed else 1500
        if kind == "random":
            folder, dim = tmp_path_factory.mktemp("random"), 64 if timed else 8
            return capture_random(folder, tokens=tokens, queries=QUERIES, head_dim=dim)
        if not timed:
            return small
        try:
            return demo(tokens)
        except PackageNotFoundError as error:
            pytest.skip(f"the demo model is not installed: {error}")

    return capture


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Compare:
    """Time ``ours`` and ``theirs`` in turn, so that other load affects both."""

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


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """Load the demo model, once."""
    from fotmem.models.load import load_model

    try:
        return load_model("smollm2")[0]
    except InputError as error:
        pytest.skip(str(error))


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Print what was measured side by side, and what opening takes."""
    if not config.getoption("benchmark_enable"):
        return
    console = Console(width=120)
    if RESULTS:
        console.print(side_by_side())
    if kept.ROWS:
        console.print(kept.table())
    if step.ROWS:
        console.print(step.table())
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def side_by_side() -> Table:
    """Return the ratios: median, and the middle half of the pairs."""
    table = Table(
        "benchmark", "ours", "theirs", "more", "ratio", "middle half", title="side by side"
    )
    for name, found in RESULTS:
        times = [f"{1e3 * found[which]:.2f} ms" for which in ("ours", "theirs", "more")]
        ratios, quarter = found["ratios"], len(found["ratios"]) // 4
        middle = f"{ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}"
        table.add_row(escape(name), *times, f"{found['ratio']:.2f}", middle)
    return table
