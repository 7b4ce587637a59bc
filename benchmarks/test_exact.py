"""The exact store against hand-written code, with the same keys."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import fotmem
from benchmarks.conftest import Compare
from fotmem.stores import MemoryStore

HEADS, HEAD_DIM, TOP_K = 3, 64, 32
SIZES = [2**12, 2**14, 2**16, 2**18]
QUERIES = [1, 512]


@pytest.fixture
def tensors(size: int, queries: int, timed: bool) -> tuple[torch.Tensor, ...]:
    """Random queries, keys and values; few of them in a run without timing."""
    torch.manual_seed(0)
    size = size if timed else 2**10
    shapes = ((HEADS, queries, HEAD_DIM), (HEADS, size, HEAD_DIM), (HEADS, size, HEAD_DIM))
    return tuple(torch.randn(shape) for shape in shapes)


def _filled(keys: torch.Tensor, values: torch.Tensor) -> MemoryStore:
    store = fotmem.create_store("exact", num_heads=HEADS, head_dim=HEAD_DIM)
    store.add(keys, values)
    return store


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("size", SIZES)
def test_search(tensors: tuple[torch.Tensor, ...], queries: int, compare: Compare) -> None:
    query, keys, values = tensors
    store = _filled(keys, values)
    compare(
        lambda: store.search(query, TOP_K),
        lambda: (query @ keys.transpose(1, 2)).topk(TOP_K),
        rounds=40 if queries == 1 else 6,
    )


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("size", SIZES)
def test_attend(tensors: tuple[torch.Tensor, ...], queries: int, compare: Compare) -> None:
    query, keys, values = tensors
    store = _filled(keys, values)
    scale = HEAD_DIM**-0.5
    compare(
        lambda: store.attend(query, top_k=None, scale=scale),
        lambda: scaled_dot_product_attention(query[None], keys[None], values[None]),
        rounds=40 if queries == 1 else 6,
    )
