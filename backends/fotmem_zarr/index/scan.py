"""Exact search over blocks of keys."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fotmem.stores import Hits, best_hits


def scan_blocks(
    queries: Tensor, blocks: Iterable[tuple[int, Tensor]], top_k: int, *, first: int, limit: int
) -> list[Hits]:
    """Search blocks of keys, each a first row and ``[H, n, D]``; no hits if there are no blocks.

    Rows before `first` are left out. About `limit` scores are held at a time.
    """
    best: list[Hits] = []
    ids, scores, held = [], [], 0
    for start, keys in blocks:
        skip = max(0, first - start)
        scores.append(queries @ keys[:, skip:].float().transpose(1, 2))  # [H, Q, n]
        ids.append(torch.arange(start + skip, start + keys.shape[1]))
        held += scores[-1].numel()
        if held > limit:
            best = [best_hits([*best, _best(ids, scores, top_k)], top_k)]
            ids, scores, held = [], [], 0
    return [best_hits([*best, _best(ids, scores, top_k)], top_k)] if scores else best


def _best(ids: list[Tensor], scores: list[Tensor], top_k: int) -> Hits:
    together = torch.cat(scores, -1)
    best, order = together.topk(min(top_k, together.shape[-1]), dim=-1)
    return Hits(torch.cat(ids)[order], best)
