"""What one decoding step costs besides the model and the reading of keys.

Three models take the same steps in turn: the plain one; a plain one whose memory layers also read
keys and values by hand; and one with a memory. What the third takes longer than the second is the
rest: checks, Python, copies, ids, locks, merging. CPU time of one thread: other work on the machine
disturbs it little.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from torch import Tensor

import fotmem
from benchmarks.bare import bare_search
from benchmarks.kept import LAYERS, STEP, drawn
from fotmem.attention import topk_attention
from fotmem.models.model_parts import cache_argument
from fotmem.stores import MemoryStore

TOP_K = 32
OWN = {"zarr": TOP_K, "clusters": None}
"""Stores without a library of another, and what they are asked: their `attend_rows` is reading."""
ROWS: list[tuple[str, ...]] = []
"""What was measured, as rows of `table`."""
Call = Callable[[], object]
Read = Callable[[Tensor], object]


@torch.no_grad()
def measure(model: Any, name: str, tokens: int, *, local: int, rounds: int) -> None:
    """Measure steps with one store of random rows in all memory layers."""
    reading, remembering, top_k = copy.deepcopy(model), copy.deepcopy(model), OWN.get(name, TOP_K)
    how: dict[str, Any] = {"layers": LAYERS, "window": local + rounds + 1, "top_k": top_k}
    with fotmem.attach(remembering, name, **how) as memory:
        store, asked = filled(memory.store(LAYERS[0]), tokens), list[Tensor]()
        memory.attached_model.contents.stores.update(dict.fromkeys(LAYERS, store))
        insert(reading, by_hand(store, name, top_k), asked)
        ids = torch.arange(local + rounds + 1)[None] % 50
        steps = [decoder(each, ids, local) for each in (model, reading, remembering)]
        attend = store.attend

        def noted(queries: Tensor, **how: Any) -> object:
            asked.append(queries)  # for the next step of `reading`
            return attend(queries, **how)

        with mock.patch.object(store, "attend", noted):
            taken = [[seconds(step) for step in steps] for _ in range(rounds + 1)]
    note(name, tokens, taken[1:])


def filled(store: MemoryStore, tokens: int) -> MemoryStore:
    """Fill a store with random keys and values."""
    generator = torch.Generator().manual_seed(0)
    sizes = (min(STEP, tokens - start) for start in range(0, tokens, STEP))
    pairs = ((drawn(store, size, generator), drawn(store, size, generator)) for size in sizes)
    store.fill((keys.to(store.dtype), values.to(store.dtype)) for keys, values in pairs)
    return store


def by_hand(store: Any, name: str, top_k: int | None) -> Read:
    """Return what reads keys and values for queries ``[H, Q, D]``, and attends to them."""
    scale = store.head_dim**-0.5
    if top_k is None or name in OWN:
        return lambda queries: store.attend_rows(queries, top_k, scale)
    keys, values = (each.since(0)[1] for each in (store.stored_keys, store.stored_values))
    search, heads = bare_search(store, name, keys), torch.arange(len(keys))[:, None, None]

    def read(queries: Tensor) -> object:
        ids, scores = search(queries.float(), top_k)
        return topk_attention(scores, values[heads, ids], scale=scale, dtype=queries.dtype)

    return read


def insert(model: Any, read: Read, asked: list[Tensor]) -> None:
    """Let the memory layers of a plain model read with these queries, layer by layer."""
    for layer in LAYERS:
        attention = model.model.layers[layer].self_attn

        def forward(*args: Any, plain: Call = attention.forward, **kwargs: Any) -> object:
            if asked:
                read(asked.pop(0).roll(1, 0))  # of another head: no cache holds these rows
            return plain(*args, **kwargs)

        attention.forward = forward


def decoder(model: Any, ids: Tensor, local: int) -> Call:
    """Read a local context; return what decodes the next token at each call."""
    name = cache_argument(type(model))
    cache, places = model(ids[:, :local])[1], iter(range(local, ids.shape[1]))

    def step() -> object:
        place = next(places)
        return model(ids[:, place : place + 1], **{name: cache})

    return step


def seconds(step: Call) -> float:
    """Time a step."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def note(name: str, tokens: int, taken: list[list[float]]) -> None:
    """Remember a row of the table."""
    plain, reading, whole = (list(each) for each in zip(*taken, strict=True))
    rest = [of_all - of_two for of_all, of_two in zip(whole, reading, strict=True)]
    read = [of_two - of_one for of_two, of_one in zip(reading, plain, strict=True)]
    times = [statistics.median(each) for each in (whole, plain, read, rest)]
    share = 100 * times[-1] / times[0]
    ROWS.append((name, f"{tokens:,}", *(f"{1e3 * each:.1f} ms" for each in times), f"{share:.0f}%"))


def table() -> Table:
    """Return all that was measured."""
    parts = ("store", "tokens", "step", "model", "reading keys", "rest", "share of the rest")
    built = Table(*parts, title="a decoding step, CPU time of one thread")
    for row in ROWS:
        built.add_row(*row)
    return built
