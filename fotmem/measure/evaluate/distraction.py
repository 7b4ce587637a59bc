"""The distraction evaluation: how other documents draw attention away from the right one.

Distraction of Tworkowski et al. 2023 (arXiv:2307.03170, section 3.3).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fotmem.attention import dense_attention
from fotmem.measure.bench.figures import Figure, interval, ratio
from fotmem.measure.capture import KeyValues
from fotmem.measure.evaluate.documents import Document, check
from fotmem.measure.reading import overlap_of
from fotmem.memory.contents import looked_up
from fotmem.memory.decay import scale_and_bias

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


@dataclass(frozen=True)
class DistractionRow:
    """The result with one number of documents in memory."""

    documents: int
    right_document: Figure
    """Attention on the keys of the right document, as a share of the attention on all remembered
    keys: a mean over memory layers, query heads and positions, with an interval over documents."""
    right_document_weighted: Figure
    """The same share, each query weighted by its attention on memory."""
    memory_share: Figure
    """Share of all attention that goes to memory; the rest stays in the window."""
    heads: dict[int, list[float]]
    """`right_document` of each query head, by memory layer."""
    searched: int
    """Number of documents that were searched for."""
    seconds: float
    """Of searching; documents are read once for all rows."""

    @property
    def uniform(self) -> float:
        """The share of the right document if the model does not distinguish documents."""
        return 1 / self.documents


def measure_distraction(
    model: Any, memory: Memory, documents: Sequence[Document]
) -> Iterator[DistractionRow]:
    """Search for every document among 1, 2, 4, ... documents in memory; yield a row for each.

    The text that follows a document runs through the model as one window, which attends to memory
    as usual, with top k and decay, but without recent tokens. Attention is then computed from the
    queries of that window to all remembered keys, without decay, because documents have no order.

    Raises
    ------
    OptionError
        As `check`.
    """
    longest = max((len(each.queries) for each in documents), default=0)
    check(len(documents), longest, memory.options.split_above)
    return _measured(model, memory, documents)


def _measured(
    model: Any, memory: Memory, documents: Sequence[Document]
) -> Iterator[DistractionRow]:
    recent, memory.recent = memory.recent, 0
    try:
        read = [_read(memory, each) for each in documents]
        size = 1
        while size <= len(documents):
            yield _row_of(model, memory, documents, read, size)
            size *= 2
    finally:
        memory.clear()
        memory.recent = recent


def _row_of(
    model: Any,
    memory: Memory,
    documents: Sequence[Document],
    read: Sequence[dict[int, KeyValues]],
    size: int,
) -> DistractionRow:
    """Search for every document among `size` of them."""
    begin, asked = time.perf_counter(), []
    for start in range(0, len(documents), size):
        group = range(start, start + size)
        _remember(memory, [read[number] for number in group])
        keys = _split_keys(memory, [len(documents[number].tokens) for number in group])
        for right, number in enumerate(group):
            asked.append(_ask(model, memory, documents[number], keys, right))
    return _row(size, memory.layers, torch.stack(asked), time.perf_counter() - begin)


def _read(memory: Memory, document: Document) -> dict[int, KeyValues]:
    """Return the keys and values of a document that is read by itself, by memory layer."""
    text = [*document.before, *document.tokens]
    seen = list(memory.observe(text, overlap=overlap_of(memory)))
    first = len(document.before)
    return {
        layer: KeyValues(
            torch.cat([window[layer].keys for window in seen], 1)[:, first:],
            torch.cat([window[layer].values for window in seen], 1)[:, first:],
        )
        for layer in memory.layers
    }


def _remember(memory: Memory, documents: Sequence[dict[int, KeyValues]]) -> None:
    """Fill the stores of a memory with these documents, one after another, and nothing else."""
    memory.clear()
    for document in documents:
        for layer, rows in document.items():
            memory.store(layer).add(rows.keys, rows.values)


def _split_keys(memory: Memory, lengths: list[int]) -> dict[int, Sequence[Tensor]]:
    """Return the stored keys of each document, by layer."""
    ids = torch.arange(sum(lengths))
    return {
        layer: looked_up(store, ids.to(store.device))[0].split(lengths, 1)
        for layer, store in memory.stores.items()
    }


def _ask(
    model: Any, memory: Memory, document: Document, keys: dict[int, Sequence[Tensor]], right: int
) -> Tensor:
    """Search for a document; return the `AttentionShare` of each memory layer.

    Shape ``[layers, 3, H * G]``: means over positions.
    """
    with torch.no_grad():
        model(torch.tensor([document.queries], device=model.device))
    found = [_attention(memory, layer, some, right) for layer, some in keys.items()]
    parts = [torch.stack(each)[..., document.evaluated] for each in found]
    return torch.stack([each.mean(2).cpu() for each in parts])


class AttentionShare(NamedTuple):
    """The shares of a layer's attention, by query head and position: ``[H * G, T]``."""

    right: Tensor
    """On the right document, as a share of `memory`."""
    weight: Tensor
    """On the right document, as a share of all attention."""
    memory: Tensor
    """On all documents, as a share of all attention."""


def _attention(memory: Memory, layer: int, keys: Sequence[Tensor], right: int) -> AttentionShare:
    """Attend from the queries of the last call to the keys of documents, each ``[H, n, D]``."""
    trace, store = memory.attached_model.last_trace, memory.store(layer)
    assert trace is not None
    queries, _, total = (each[0].to(store.device) for each in trace.layers[layer])
    asked = queries.reshape(store.num_heads, -1, store.head_dim)  # [H, G * T, D]
    _, _, scale = memory.attached_model.geometry(layer)
    scale, bias = scale_and_bias(store, layer, scale, trace.options)
    found = torch.stack([_lse(asked, each, scale).reshape(total.shape) for each in keys])
    shares = found.softmax(0)

    seen = store.attend(asked, top_k=trace.options.top_k, scale=scale, bias=bias).lse.reshape(
        total.shape
    )
    local = total + torch.log1p(-(seen - total).clamp(max=0).exp())
    of_all = (found.logsumexp(0) - local).sigmoid()
    return AttentionShare(shares[right], shares[right] * of_all, of_all)


def _lse(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    queries, keys = queries[None].float(), keys[None]
    return dense_attention(queries, keys, keys, scale=scale).lse[0]


def _row(size: int, layers: Sequence[int], asked: Tensor, seconds: float) -> DistractionRow:
    """Combine the shares ``[documents, layers, 3, H * G]``."""
    right, weight, memory = asked.mean((1, 3)).unbind(1)
    heads = asked[:, :, 0].mean(0).tolist()
    return DistractionRow(
        documents=size,
        right_document=interval(np.mean, right),
        right_document_weighted=interval(ratio, weight, memory),
        memory_share=interval(np.mean, memory),
        heads=dict(zip(layers, heads, strict=True)),
        searched=len(asked),
        seconds=seconds,
    )
