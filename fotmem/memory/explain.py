"""Which remembered tokens the last position attended to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from fotmem.memory.decay import Weighing
    from fotmem.memory.memory import Memory

CANDIDATES = 32
"""Hits per head that are looked at when attention is dense."""


@dataclass
class Trace:
    """What is kept of a forward call's last step to explain it later."""

    real: Tensor
    """Shape ``[B, T]``, bool: which positions of the step are not padding."""
    top_k: int | None
    """Hits per query and head in that step."""
    weighing: Weighing
    """Of memory in that step."""
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per memory layer: queries ``[B, H * G, T, D]`` and total lse ``[B, H * G, T]``."""

    def last(self, row: int) -> int:
        """Return the last position of a row that is not padding."""
        positions = self.real[row].nonzero()
        return int(positions[-1]) if len(positions) else -1


class Attended(NamedTuple):
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


def explain(memory: Memory, trace: Trace, tokenizer: object, top: int, row: int) -> list[Attended]:
    """See `Memory.explain`."""
    found = []
    last = trace.last(row)
    if last < 0:
        return []
    for layer, (query, lse) in trace.layers.items():
        store = memory.stores[layer]
        if len(store) == 0:
            continue
        _, _, scale = memory.geometry(layer)
        last_query = query[row, :, last].view(store.num_heads, -1, store.head_dim)  # [H, G, D]
        last_lse = lse[row, :, last].view(store.num_heads, -1, 1)
        scale, bias = trace.weighing.of(store, memory.windowing.window, scale)
        hits = store.search(last_query, min(trace.top_k or CANDIDATES, len(store)), bias=bias)
        weights = (hits.scores * scale - last_lse).exp()
        shares: dict[int, float] = {}
        for token, share in zip(
            hits.ids.flatten().tolist(), weights.flatten().tolist(), strict=True
        ):
            shares[token] = max(share, shares.get(token, 0.0))
        shares.pop(-1, None)
        found += [(layer, token, share) for token, share in shares.items()]
    found.sort(key=lambda entry: -entry[2])
    tokens = memory.tokens
    return [
        Attended(
            layer, int(tokens[position]), position, weight, _text(tokenizer, int(tokens[position]))
        )
        for layer, position, weight in found[:top]
    ]


def _text(tokenizer: object, token_id: int) -> str:
    return "" if tokenizer is None else str(tokenizer.decode([token_id]))  # type: ignore[attr-defined]
