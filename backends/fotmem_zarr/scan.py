"""Exact search over blocks of keys."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fotmem import Hits


def best_of(found: Iterable[Hits], top_k: int) -> Hits | None:
    """Keep the best of several sets of hits, ``[H, Q, k]`` each, of different keys."""
    best: Hits | None = None
    for hits in found:
        if best is not None:
            hits = Hits(torch.cat([best.ids, hits.ids], -1), torch.cat([best.scores, hits.scores], -1))
        if best is not None or hits.ids.shape[-1] > top_k:
            scores, order = hits.scores.topk(min(top_k, hits.scores.shape[-1]), dim=-1)
            hits = Hits(hits.ids.gather(-1, order), scores)
        best = hits
    return best


def scan(
    queries: Tensor, blocks: Iterable[tuple[int, Tensor]], top_k: int, *, first: int, limit: int
) -> Hits | None:
    """Search blocks of keys: the first id of each, and ``[H, n, D]``; None if there are no blocks.

    Ids before `first` are left out. Scores of about `limit` elements are held at a time.
    """

    def groups() -> Iterable[Hits]:
        ids, scores, held = [], [], 0
        for start, keys in blocks:
            skip = max(0, first - start)
            scores.append(queries @ keys[:, skip:].float().transpose(1, 2))  # [H, Q, n]
            ids.append(torch.arange(start + skip, start + keys.shape[1]))
            held += scores[-1].numel()
            if held > limit:
                yield _best(ids, scores, top_k)
                ids, scores, held = [], [], 0
        if scores:
            yield _best(ids, scores, top_k)

    return best_of(groups(), top_k)


def _best(ids: list[Tensor], scores: list[Tensor], top_k: int) -> Hits:
    together = torch.cat(scores, -1)
    best, order = together.topk(min(top_k, together.shape[-1]), dim=-1)
    return Hits(torch.cat(ids)[order], best)
