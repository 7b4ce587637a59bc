"""Exact search over blocks of keys."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fotmem import Hits


def best_of(found: Iterable[Hits], top_k: int) -> Hits | None:
    """Keep the best of several sets of hits, ``[H, Q, k]`` each, of different keys."""
    best: Hits | None = None
    for ids, scores in found:
        together = (ids, scores) if best is None else _joined(best, ids, scores)
        best = Hits(*together)
        if best.ids.shape[-1] > top_k:
            kept, order = best.scores.topk(top_k, dim=-1)
            best = Hits(best.ids.gather(-1, order), kept)
    return best


def _joined(best: Hits, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    together = torch.cat([best.scores, scores], -1)
    order = together.argsort(-1, descending=True)
    return torch.cat([best.ids, ids], -1).gather(-1, order), together.gather(-1, order)


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
