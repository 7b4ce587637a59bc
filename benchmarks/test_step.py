"""A decoding step of the whole model: what is neither the model nor reading keys.

Environment variables choose size and stores, see the constants: ``STEP_TOKENS=1000000``.
"""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import fotmem
from benchmarks.step import measure
from fotmem.amounts import count
from tests import tiny

TOKENS = count("STEP_TOKENS", os.environ.get("STEP_TOKENS", "65536"))
ROUNDS = count("STEP_ROUNDS", os.environ.get("STEP_ROUNDS", "100"))
ALL = "exact,faiss-flat,faiss-ivf,faiss-ivfpq,faiss-hnsw,hnsw,zarr,clusters"
STORES = os.environ.get("STEP_STORES", ALL).split(",")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: CPU time is that of all threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.collect()  # the store of a million rows, before the next


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", STORES)
def test_step(name: str, timed: bool, benchmark: Any, request: pytest.FixtureRequest) -> None:
    if not (spec := fotmem.available_stores()[name]).available:
        pytest.skip(spec.reason)
    if timed:
        model = request.getfixturevalue("smollm2")
        measure(model, name, TOKENS, local=128, rounds=ROUNDS)
    else:
        measure(tiny.llama(num_hidden_layers=24), name, 600, local=8, rounds=2)
    benchmark.pedantic(lambda: None, rounds=1)
