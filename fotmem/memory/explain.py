"""Which remembered tokens the last position attended to."""

from __future__ import annotations

from typing import NamedTuple

from fotmem.arguments import checked_integer
from fotmem.errors import LayerError, OptionError
from fotmem.memory.attached import AttachedModel
from fotmem.memory.decay import scale_and_bias
from fotmem.memory.trace import Trace

CANDIDATES = 32
"""Hits per head that are looked at when attention is dense."""


class AttendedToken(NamedTuple):
    """One remembered token that the last position attended to."""

    layer: int
    token_id: int
    position: int
    """Index in the order of reading: ``memory.tokens[position] == token_id``."""
    weight: float
    """Share of its attention that one query head gave it, from 0 to 1: of the head that gave most.

    Retrieval is the work of few heads (Wu et al. 2024, arXiv:2404.15574); a mean would hide them.
    """
    text: str
    """The token as text; empty without a tokenizer."""


def explain(attached: AttachedModel, tokenizer: object, top: int, row: int) -> list[AttendedToken]:
    """See `Memory.explain`."""
    top, row = checked_integer("top", top), checked_integer("row", row)
    if tokenizer is not None and not hasattr(tokenizer, "decode"):
        raise OptionError(f"tokenizer must be one of transformers, or None, got {tokenizer!r}")
    if top < 1:
        raise OptionError(f"top must be at least 1, got {top}")
    trace = attached.last_trace
    if trace is None:
        return []
    rows = len(trace.real)
    if not 0 <= row < rows:
        raise LayerError(
            f"the last call had {rows} rows, there is no row {row}; pass one from 0 to {rows - 1}"
        )
    shares = [
        (share, layer, position)
        for layer in trace.layers
        for position, share in _shares(attached, trace, layer, row).items()
    ]
    shares.sort(key=lambda each: -each[0])
    tokens = attached.contents.tokens
    return [
        AttendedToken(layer, token, position, share, _text(tokenizer, token))
        for share, layer, position in shares[:top]
        for token in [int(tokens[position])]
    ]


def _shares(attached: AttachedModel, trace: Trace, layer: int, row: int) -> dict[int, float]:
    """Return what share of its attention the last position gave to each hit of one layer."""
    last, store = trace.last(row), attached.contents.stores[layer]
    if last < 0 or len(store) == 0:
        return {}
    query, lse = (each[row, :, last] for each in trace.layers[layer])
    queries = query.view(store.num_heads, -1, store.head_dim)  # [H, G, D]
    scale, bias = scale_and_bias(store, attached.geometry(layer)[2], trace.options, trace.among)
    top_k = min(trace.options.top_k or CANDIDATES, len(store))
    hits = store.search(queries, top_k, bias=bias, among=trace.among)
    weights = (hits.scores * scale - lse.view(store.num_heads, -1, 1)).exp()
    shares: dict[int, float] = {}
    flat = (hits.ids.flatten().tolist(), weights.flatten().tolist())
    for position, share in zip(*flat, strict=True):
        shares[position] = max(share, shares.get(position, 0.0))
    shares.pop(-1, None)
    return shares


def _text(tokenizer: object, token_id: int) -> str:
    return "" if tokenizer is None else str(tokenizer.decode([token_id]))  # type: ignore[attr-defined]
