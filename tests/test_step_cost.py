"""What a decoding step asks of torch besides the model: calls are counted, no time is taken."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fotmem
from fotmem.stores import MemoryStore, indexed_store
from fotmem.testing.store.naive import draw
from tests import tiny

TOKENS = 2000


class Calls(TorchDispatchMode):
    """Counts, inside ``with``, what torch runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += 1
        return func(*args, **(kwargs or {}))


def calls(ask: Callable[[], object]) -> int:
    """Count what torch runs for a question that was asked before."""
    ask()
    counted = Calls()
    with counted:
        ask()
    return counted.count


def filled(name: str) -> MemoryStore:
    store = fotmem.create_store(name, num_heads=2, head_dim=8)
    store.add(draw(2, TOKENS, 8), draw(2, TOKENS, 8, seed=1))
    return store


@pytest.mark.parametrize(
    "name, most", [("exact", 37), ("faiss-flat", 32), ("faiss-ivf", 44), ("hnsw", 38)]
)
def test_a_query_takes_few_calls(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (spec := fotmem.available_stores()[name]).available:
        pytest.skip(spec.reason)
    monkeypatch.setattr(indexed_store, "EXACT_BELOW", 512)
    store, queries = filled(name), draw(2, 3, 8, seed=2)
    found = calls(lambda: store.attend(queries, top_k=8, scale=0.3))
    assert found <= most


@torch.no_grad()
def test_a_step_takes_few_calls_more_than_one_of_the_plain_model() -> None:
    model = tiny.llama()
    ids = tiny.ids(8)

    def step() -> int:
        cache = model(ids, use_cache=True)[1]
        return calls(lambda: model(ids[:, :1], **tiny.cached(cache)))

    plain = step()
    with fotmem.attach(model, layers=[1], window=16) as memory:
        store = memory.store(1)
        store.add(draw(2, TOKENS, 8), draw(2, TOKENS, 8, seed=1))
        of_store = calls(lambda: store.attend(draw(2, 2, 8), top_k=8, scale=0.3))
        assert step() - plain - of_store <= 75
