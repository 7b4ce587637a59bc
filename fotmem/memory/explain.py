"""Which remembered tokens the last position attended to."""

from __future__ import annotations

from typing import NamedTuple

from fotmem.arguments import checked_integer
from fotmem.errors import AttachError, LayerError, OptionError, shown
from fotmem.memory.attached import AttachedModel
from fotmem.memory.attend_memories import best_of_all
from fotmem.memory.cache import MemoryCache
from fotmem.memory.recent import recent_logits
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


def traced(attached: AttachedModel, cache: object) -> Trace | None:
    """Return the trace of the last call with a cache; of the last one here if it is None."""
    if cache is None:
        return attached.last_trace
    if not isinstance(cache, MemoryCache):
        raise OptionError(f"cache must be what a call returned, got {shown(cache)}")
    if cache.attached is not attached.default:
        raise AttachError("this cache is of another model; explain it by a memory of that model")
    return cache.trace


def explain(
    attached: AttachedModel, trace: Trace | None, tokenizer: object, top: int, row: int
) -> list[AttendedToken]:
    """See `Memory.explain`."""
    top, row = checked_integer("top", top), checked_integer("row", row)
    if tokenizer is not None and not hasattr(tokenizer, "decode"):
        raise OptionError(f"tokenizer must be one of transformers, or None, got {tokenizer!r}")
    if top < 1:
        raise OptionError(f"top must be at least 1, got {top}")
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
    last, seen = trace.last(row), [each.view() for each in trace.seen[row]]
    views = [view for view in seen if view is not None]
    mine = [view.contents is attached.contents for view in views]
    if last < 0 or not any(mine) or len(views) < len(seen) or not len(attached.contents):
        return {}
    asked, query, lse = (each[row, :, last] for each in trace.layers[layer])
    heads, head_dim, scale = attached.geometry(layer)
    queries, near = (each.view(heads, -1, head_dim) for each in (asked, query))  # [H, G, D]
    top_k = min(views[0].options.top_k or CANDIDATES, max(len(view.store(layer)) for view in views))
    (ids, logits), places = best_of_all(views, layer, queries, top_k, scale)
    weights = (logits - lse.view(heads, -1, 1)).exp()
    ids = ids.where(places == mine.index(True), -1)
    recent, logits = recent_logits(attached, views[mine.index(True)], layer, near)
    near_weights = (logits - lse.view(heads, -1, 1)).exp()
    shares: dict[int, float] = {}
    for some, given in ((ids, weights), (recent.expand(near_weights.shape), near_weights)):
        for position, share in zip(some.flatten().tolist(), given.flatten().tolist(), strict=True):
            shares[position] = max(share, shares.get(position, 0.0))
    shares.pop(-1, None)
    return shares


def _text(tokenizer: object, token_id: int) -> str:
    return "" if tokenizer is None else str(tokenizer.decode([token_id]))  # type: ignore[attr-defined]
