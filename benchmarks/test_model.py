"""A model with memory against the plain model, and against the released code's method."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from benchmarks.conftest import Compare
from fotmem.plugin.create import create_adapter
from fotmem.stores import MemoryStore
from tests import tiny

LAYERS = [17, 20, 23]
LOCAL = 256


@pytest.fixture
def plain(timed: bool, request: pytest.FixtureRequest) -> Any:
    """The demo model in a run with timing, otherwise a tiny one with as many layers."""
    return request.getfixturevalue("smollm2") if timed else tiny.llama(num_hidden_layers=24)


@pytest.fixture
def remembered(timed: bool) -> int:
    """Number of tokens in memory."""
    return 2**16 if timed else 2**8


@pytest.fixture
def window(timed: bool) -> int:
    """Tokens of local context."""
    return 512 if timed else 32


def decoder(model: Any, local: int) -> Callable[[], object]:
    """Decode one more token at each call, after a local context."""
    ids = torch.arange(1, local + 1)[None] % 50
    with torch.no_grad():
        cache = model(ids).past_key_values

    @torch.no_grad()
    def step() -> object:
        return model(ids[:, :1], **tiny.cached(cache))

    return step


def fill(memory: fotmem.Memory, tokens: int) -> None:
    """Fill the stores with random keys: exact search takes the same time for any."""
    generator = torch.Generator().manual_seed(0)
    for layer in memory.layers:
        store = memory.store(layer)
        shape = (store.num_heads, tokens, store.head_dim)
        store.add(*(torch.randn(shape, generator=generator) for _ in range(2)))


def test_decode_with_empty_memory(plain: Any, window: int, compare: Compare) -> None:
    model = copy.deepcopy(plain)
    with fotmem.attach(model, layers=LAYERS, window=window):
        local = window // 4
        compare(decoder(model, local), decoder(plain, local), rounds=31)


@pytest.mark.parametrize("top_k", [32, None], ids=["top32", "dense"])
def test_decode_against_concatenation(
    plain: Any, window: int, remembered: int, top_k: int | None, compare: Compare
) -> None:
    model, released = copy.deepcopy(plain), copy.deepcopy(plain)
    with fotmem.attach(model, layers=LAYERS, window=window, top_k=top_k) as memory:
        fill(memory, remembered)
        for layer in LAYERS:
            concatenate_memory(released.model.layers[layer].self_attn, memory.store(layer))
        local = window // 4
        compare(decoder(model, local), decoder(released, local), rounds=15)


@pytest.mark.parametrize("attend", [True, False], ids=["attending", "not attending"])
@pytest.mark.parametrize("before", [0, 2**12, 2**14])
def test_read(
    plain: Any, window: int, before: int, attend: bool, timed: bool, compare: Compare
) -> None:
    """Reading one window, with ``before`` tokens in memory, against the bare prefill of it."""
    model = copy.deepcopy(plain)
    ids = torch.arange(1, window + 1)[None] % 50
    with fotmem.attach(model, layers=LAYERS, window=window) as memory:
        fill(memory, before if timed else min(before, 64))
        full = memory.attached_model.contents

        def read() -> None:
            memory.attached_model.contents = full.copy()
            memory.read(ids, attend=attend)

        compare(read, torch.no_grad()(lambda: plain.model(ids)), rounds=7)


def concatenate_memory(attention: Any, store: MemoryStore) -> None:
    """Attend as the released code does: dense, over memory and local keys in one tensor."""
    ids = torch.arange(len(store)).expand(store.num_heads, 1, -1)
    memory_keys, memory_values = store.keys(ids).transpose(0, 1), store.values(ids).transpose(0, 1)
    adapter = create_adapter(fotmem.available_adapters()["llama"]).for_layer(attention)

    def forward(
        module: Any,
        hidden_states: Tensor,
        position_embeddings: Any,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        query, key, value = adapter.project(module, hidden_states)
        query, key = adapter.rotate(query, key, position_embeddings)
        cache = past_key_values if cache is None else cache
        key, value = cache.update(key, value, module.layer_idx)
        if query.shape[2] > 1:  # the local context, which is not timed
            output = adapter.attend(module, query, key, value, attention_mask)
            return adapter.project_out(module, output), None
        keys = torch.cat([key, memory_keys], 2)
        values = torch.cat([value, memory_values], 2)
        folded = query.view(1, store.num_heads, -1, store.head_dim)  # [1, H, G, D]
        weights = (folded @ keys.transpose(2, 3) * module.scaling).softmax(-1)
        return adapter.project_out(module, (weights @ values).view(1, 1, -1)), None

    attention.forward = MethodType(forward, attention)
