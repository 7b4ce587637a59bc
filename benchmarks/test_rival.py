"""`faiss-ivf` against `KNNMemory` of memorizing-transformers-pytorch: same keys, top-k.

`KNNMemory` keeps a FAISS graph by inner product for each head. Its searches return keys and values,
so ours look them up, too. By default it sends whole indexes to other processes and back at every
call (``processes``), where there is more than one core; else it works in this one.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import fotmem
from benchmarks.conftest import Captures, Compare
from fotmem.measure.bench.figures import attention_mass_recall, truth
from fotmem.measure.capture import CaptureInfo, KeyValues
from fotmem.stores import MemoryStore

TOP_K, WINDOW, STEP = 32, 512, 2048
INSTALL = "pip install einops-exts joblib && pip install --no-deps memorizing-transformers-pytorch"


class Attention(NamedTuple):
    """Keys and values to add, `STEP` tokens at a time, and the queries of a window."""

    info: CaptureInfo
    blocks: list[KeyValues]
    queries: Tensor


@pytest.fixture(scope="module")
def rival() -> Any:
    """`KNNMemory`; its package asks for faiss-gpu, which would take the place of faiss-cpu."""
    pytest.importorskip("faiss", reason="needs FAISS: pip install 'fotmem[faiss]'")
    reason = f"needs the package that it is measured against: {INSTALL}"
    return pytest.importorskip("memorizing_transformers_pytorch", reason=reason).KNNMemory


@pytest.fixture(params=["captured", "random"])
def attention(request: pytest.FixtureRequest, timed: bool, captures: Captures) -> Attention:
    """Attention of one layer."""
    capture = captures(request.param)
    layer = capture.info.layers[0]
    queries = capture.queries(layer)[:, : WINDOW if timed else 10]
    return Attention(capture.info, [*capture.blocks(layer, STEP)], queries)


@pytest.mark.parametrize("processes", [True, False])
def test_adding(
    attention: Attention, rival: Any, processes: bool, tmp_path: Path, compare: Compare
) -> None:
    theirs = functools.partial(filled_rival, rival, attention, tmp_path, processes)
    compare(lambda: filled_store(attention), theirs, rounds=1)


@pytest.mark.parametrize("processes", [True, False])
def test_searching(
    attention: Attention,
    rival: Any,
    processes: bool,
    tmp_path: Path,
    compare: Compare,
    benchmark: Any,
) -> None:
    store, theirs = filled_store(attention), filled_rival(rival, attention, tmp_path, processes)
    queries = attention.queries
    compare(lambda: found(store, queries), lambda: theirs.search(queries, TOP_K), rounds=5)
    exact = truth(queries, attention.blocks, scale=attention.info.scale, top_k=TOP_K)
    sides = {
        "ours_attention_mass_recall": found(store, queries)[0],
        "theirs_attention_mass_recall": rival_keys(theirs, queries),
    }
    scores = {side: (keys @ queries[..., None]).squeeze(-1) for side, keys in sides.items()}
    masses = {side: attention_mass_recall(some, exact) for side, some in scores.items()}
    benchmark.extra_info["attention_mass_recall"] = masses
    assert (
        masses["ours_attention_mass_recall"] > 0.5
    )  # of random keys, none is much better than others


def filled_store(attention: Attention) -> MemoryStore:
    """Add tokens, as many at a time as on the other side."""
    info = attention.info
    store = fotmem.create_store("faiss-ivf", num_heads=info.num_heads, head_dim=info.head_dim)
    for rows in attention.blocks:
        store.add(*rows)
    return store


def filled_rival(rival: Any, attention: Attention, folder: Path, processes: bool) -> Any:
    info = attention.info
    memory = rival(
        dim=info.head_dim,
        max_memories=info.tokens,
        num_indices=info.num_heads,
        memmap_filename=str(folder / "memories"),
        multiprocessing=processes,
    )
    for rows in attention.blocks:
        memory.add(torch.stack(rows, 2))  # [H, n, 2, D]
    return memory


def found(store: MemoryStore, queries: Tensor) -> tuple[Tensor, Tensor]:
    ids = store.search(queries, TOP_K).ids
    return store.keys(ids), store.values(ids)


def rival_keys(memory: Any, queries: Tensor) -> Tensor:
    """Return the keys that it finds ``[H, Q, K, D]``; far away where there is none."""
    pairs, mask = memory.search(queries, TOP_K)
    keys: Tensor = pairs[..., 0, :].where(mask[..., None], -1e4 * queries[:, :, None].sign())
    return keys
