"""`faiss-ivf` against `KNNMemory` of memorizing-transformers-pytorch: same keys, top-k.

`KNNMemory` keeps a FAISS graph by inner product for each head. Its searches return keys and values,
so ours look them up, too. By default it sends whole indexes to other processes and back at every
call (``processes``), where there is more than one core; else it works in this one.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from benchmarks.captured import Part, taken
from benchmarks.conftest import Compare, Sources
from benchmarks.quality import best_scores, mass_of

TOP_K, WINDOW, STEP = 32, 512, 2048
INSTALL = "pip install einops-exts joblib && pip install --no-deps memorizing-transformers-pytorch"


@pytest.fixture(scope="module")
def rival() -> Any:
    """`KNNMemory`; its package asks for faiss-gpu, which would take the place of faiss-cpu."""
    pytest.importorskip("faiss", reason="needs FAISS: pip install 'fotmem[faiss]'")
    reason = f"needs the package that it is measured against: {INSTALL}"
    return pytest.importorskip("memorizing_transformers_pytorch", reason=reason).KNNMemory


@pytest.fixture(params=["captured", "random"])
def attention(request: pytest.FixtureRequest, timed: bool, sources: Sources) -> Part:
    """Keys and values to add, and the queries of a window."""
    keys, values, queries = taken(sources(request.param, timed), 2**16 if timed else 5000)
    return Part(keys, values, queries[:, : WINDOW if timed else 10])


@pytest.mark.parametrize("processes", [True, False])
def test_adding(
    attention: Part, rival: Any, processes: bool, tmp_path: Path, compare: Compare
) -> None:
    theirs = functools.partial(filled_rival, rival, attention, tmp_path, processes)
    compare(lambda: filled_store(attention), theirs, rounds=1)


@pytest.mark.parametrize("processes", [True, False])
def test_searching(
    attention: Part, rival: Any, processes: bool, tmp_path: Path, compare: Compare, benchmark: Any
) -> None:
    store, theirs = filled_store(attention), filled_rival(rival, attention, tmp_path, processes)
    queries = attention.queries
    compare(lambda: found(store, queries), lambda: theirs.search(queries, TOP_K), rounds=5)
    scale = store.head_dim**-0.5
    best = best_scores(store, queries, TOP_K)
    lse = store.attend(queries, top_k=None, scale=scale).lse
    sides = {"ours_mass": found(store, queries)[0], "theirs_mass": rival_keys(theirs, queries)}
    scores = {side: (keys @ queries[..., None]).squeeze(-1) for side, keys in sides.items()}
    masses = {side: mass_of(some, best, lse, scale=scale) for side, some in scores.items()}
    benchmark.extra_info["mass"] = masses
    assert masses["ours_mass"] > 0.5  # of random keys, none is much better than others


def filled_store(attention: Part) -> fotmem.MemoryStore:
    """Add tokens, as many at a time as on the other side."""
    heads, _, dim = attention.keys.shape
    store = fotmem.create_store("faiss-ivf", num_heads=heads, head_dim=dim)
    for some in zip(attention.keys.split(STEP, 1), attention.values.split(STEP, 1), strict=True):
        store.add(*some)
    return store


def filled_rival(rival: Any, attention: Part, folder: Path, processes: bool) -> Any:
    heads, tokens, dim = attention.keys.shape
    memory = rival(
        dim=dim,
        max_memories=tokens,
        num_indices=heads,
        memmap_filename=str(folder / "memories"),
        multiprocessing=processes,
    )
    for some in torch.stack(attention[:2], 2).split(STEP, 1):  # [H, n, 2, D]
        memory.add(some)
    return memory


def found(store: fotmem.MemoryStore, queries: Tensor) -> tuple[Tensor, Tensor]:
    ids = store.search(queries, TOP_K).ids
    return store.keys(ids), store.values(ids)


def rival_keys(memory: Any, queries: Tensor) -> Tensor:
    """Return the keys that it finds ``[H, Q, K, D]``; far away where there is none."""
    pairs, mask = memory.search(queries, TOP_K)
    keys: Tensor = pairs[..., 0, :].where(mask[..., None], -1e4 * queries[:, :, None].sign())
    return keys
