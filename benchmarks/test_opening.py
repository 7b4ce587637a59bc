"""Opening a memory that was kept against reading its text again, and what commits add to that.

Environment variables choose another large memory, see the constants.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.filesize import decimal

import fotmem
from benchmarks.kept import LAYERS, commits_timed, note, random_memory
from fotmem.amounts import count
from fotmem.files import python_reference
from tests import tiny

QUESTION = 16
ROUNDS = count("OPENING_ROUNDS", os.environ.get("OPENING_ROUNDS", "3"))
TOKENS = count("OPENING_TOKENS", os.environ.get("OPENING_TOKENS", "200000"))
"""Of the large memory."""
STORES = os.environ.get("OPENING_STORES", "exact,faiss-ivf").split(",")
"""Which open memories."""
TINY = os.environ.get("OPENING_MODEL", "smollm2") == "tiny"
"""Whether the model is a tiny one: 2 heads of 8 dimensions."""
UNINDEXED = ("exact", "faiss-flat")
OPENINGS = [
    (store, index)
    for store in STORES
    for index in (("",) if store in UNINDEXED else ("built", "kept"))
]


@pytest.fixture(scope="module")
def model(timed: bool, request: pytest.FixtureRequest) -> Any:
    """The demo model in a run with timing, otherwise a tiny one with as many layers."""
    if timed and not TINY:
        return request.getfixturevalue("smollm2")
    return tiny.llama(num_hidden_layers=24)


@pytest.fixture(scope="module")
def ids(timed: bool) -> torch.Tensor:
    """A text."""
    if not timed or TINY:
        return tiny.ids(200)
    from fotmem.models.load import load_model
    from fotmem.models.tokens import token_ids

    return torch.tensor(token_ids(load_model("smollm2")[1], python_reference()[:40_000]))[:8192]


@pytest.fixture(scope="module")
def text(model: Any, ids: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memory of the text."""
    folder = tmp_path_factory.mktemp("kept") / "text"
    read_into(folder, model, ids)
    return folder


@pytest.fixture(scope="module")
def large(timed: bool, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of random keys and values."""
    folder = tmp_path_factory.mktemp("kept") / "large"
    return random_memory(folder, model, TOKENS if timed else 3000)


def read_into(folder: Path, model: Any, ids: torch.Tensor) -> None:
    window = min(512, model.config.max_position_embeddings)
    with fotmem.attach(model, layers=LAYERS, window=window) as memory:
        memory.save(folder)
        memory.read(ids, overlap=16, document="text")
        memory.close()


def test_reading(model: Any, ids: torch.Tensor, tmp_path: Path, benchmark: Any) -> None:
    """Commits add at most a tenth to reading."""
    seconds, commits = [], []

    def read() -> None:
        begin = time.perf_counter()
        with commits_timed() as some:
            read_into(tmp_path / "memory", model, ids)
        seconds.append(time.perf_counter() - begin)
        commits.append(sum(some))
        shutil.rmtree(tmp_path / "memory")

    benchmark.pedantic(read, rounds=ROUNDS)
    tokens, share = ids.numel(), sorted(map(lambda a, b: a / b, commits, seconds))
    speed = tokens / sorted(seconds)[len(seconds) // 2]
    benchmark.extra_info.update(tokens_per_second=speed, commits=share)
    shares = f"commits: {share[len(share) // 2]:.1%} ({share[0]:.1%} to {share[-1]:.1%})"
    note("read", tokens, seconds, f"{speed:,.0f} tokens/s; {shares}")


@pytest.mark.parametrize("memory", ["text", "large"])
@pytest.mark.parametrize("store, index", OPENINGS)
def test_opening(
    model: Any, memory: str, store: str, index: str, request: pytest.FixtureRequest, benchmark: Any
) -> None:
    """Opening and the first answer: seconds, and bytes that are read."""
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    folder: Path = request.getfixturevalue(memory)
    seconds, found = list[float](), list[fotmem.Memory]()

    def prepare() -> None:
        if index == "built":
            shutil.rmtree(folder / "indexes", ignore_errors=True)

    def open_and_ask() -> None:
        begin = time.perf_counter()
        with fotmem.open_memory(folder, model, store) as opened_memory:
            model(tiny.ids(QUESTION))
        seconds.append(time.perf_counter() - begin)
        opened_memory.close()
        found[:] = [opened_memory]

    if index == "kept":
        open_and_ask()
        seconds.clear()
    benchmark.pedantic(open_and_ask, setup=prepare, rounds=ROUNDS)
    stats = found[0].stats()
    benchmark.extra_info.update(requests=stats.requests, bytes_read=stats.bytes_read)
    which = f"open by {store}" + (f", index {index}" if index else "")
    read = f"{decimal(stats.bytes_read)} in {stats.requests:,} parts"
    note(which, len(found[0]), seconds, read)
