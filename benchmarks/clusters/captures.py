"""Keys, values and queries of a model that reads a text, as a memory in bfloat16 keeps them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.clusters.plan import STEP, Plan
from fotmem.errors import StorageError
from fotmem.files import read_text
from fotmem.measure.capture import Capture, KeyValues, capture_model
from fotmem.measure.reading import OVERLAP
from fotmem.models.load import load_model
from fotmem.models.tokens import token_ids

QUERIES = 512
"""Captured queries of a head."""
MOVED = 0.1
"""Noise on keys that come again, in units of their standard deviation."""
DTYPE = torch.bfloat16


class Layer(NamedTuple):
    """What is captured of a layer."""

    name: str
    """Of the files of indexes."""
    rows: KeyValues
    queries: Tensor
    """Shape ``[H, Q, D]``, float32."""
    scale: float


def captured(model: str, text: Path, plan: Plan, folder: Path) -> Capture:
    """Return the capture of a model that reads a text; make or finish it if need be."""
    place = folder / f"{model}-{text.stem}-{plan.tokens}"
    try:
        return Capture.open(place)
    except StorageError:  # it is missing or incomplete
        loaded, tokenizer = load_model(model)
    return capture_model(
        loaded,
        token_ids(tokenizer, read_text(text)),
        place,
        tokens=plan.tokens,
        queries=QUERIES,
        layers=plan.layers,
        window=plan.window,
        overlap=OVERLAP,
        progress=True,
    )


def rows_of(capture: Capture, layer: int) -> KeyValues:
    """Return all keys and values ``[H, N, D]`` of a layer, rounded as a memory rounds them."""
    return KeyValues(*(each.to(DTYPE) for each in capture.rows(layer)))


def queries_of(capture: Capture, layer: int, count: int) -> Tensor:
    """Return queries ``[H, count, D]`` after all tokens, rounded too, but in float32.

    So a store's answer comes back in float32, and what is measured is not its rounding.
    """
    return capture.queries(layer)[:, :count].to(DTYPE).float().contiguous()


def blocks(rows: KeyValues, stop: int | None = None) -> list[KeyValues]:
    """Cut rows into what is added at a time."""
    end = rows.keys.shape[1] if stop is None else stop
    starts = range(0, end, STEP)
    return [KeyValues(*(each[:, i : min(i + STEP, end)] for each in rows)) for i in starts]


def several_texts(captures: Sequence[Capture], layer: int) -> KeyValues:
    """Return the rows of several texts, one after the other."""
    every = zip(*(rows_of(capture, layer) for capture in captures), strict=True)
    return KeyValues(*(torch.cat(parts, 1) for parts in every))


def lengthened(rows: KeyValues, tokens: int) -> KeyValues:
    """Return `tokens` rows: these, then the same again and again, each key moved a little.

    What is made so serves to measure times only.
    """
    count = rows.keys.shape[1]
    keys, values = (each.new_empty(len(each), tokens, each.shape[2]) for each in rows)
    spread = float(rows.keys[:, :: max(1, count // 4096)].float().std())
    for start in range(0, tokens, count):
        stop = min(start + count, tokens)
        keys[:, start:stop], values[:, start:stop] = (each[:, : stop - start] for each in rows)
        if start:
            draw = torch.Generator().manual_seed(start)
            shape = keys[:, start:stop].shape
            keys[:, start:stop] += torch.randn(shape, generator=draw) * (MOVED * spread)
    return KeyValues(keys, values)
