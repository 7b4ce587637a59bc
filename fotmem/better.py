"""Better hits than those that were found first."""

import numpy as np
import torch
from torch import Tensor

from fotmem.arrays import Ids, Scores
from fotmem.search import best_hits
from fotmem.store import Hits


class Better:
    """Collects keys that score more than the last hit of a query, and puts them among the hits.

    There are few: most of what is looked at is no better, and costs only a comparison.

    Parameters
    ----------
    hits : Hits
        Of ``[H, Q, K]``, on any device; `join` changes them.
    """

    def __init__(self, hits: Hits) -> None:
        self._hits = hits
        self.bar: Scores = hits.scores.cpu().numpy()[..., -1]
        """Shape ``[H, Q]``: the score of the last hit, -inf where there are fewer than K."""
        self._found: list[tuple[Ids, Ids, Scores]] = []  # number of the query, id, score

    def note(self, head: int, rows: Ids, ids: Ids, scores: Scores) -> None:
        """Note those of keys with `ids` ``[n]`` that are better for queries `rows` ``[R]``.

        None of the keys is among the hits of these queries. Scores: ``[R, n]``.
        """
        better = scores > self.bar[head, rows, None]
        top_k = self._hits.ids.shape[2]
        if np.count_nonzero(better) > top_k * len(rows):
            last = np.argpartition(scores, -top_k, axis=1)[:, :-top_k]
            np.put_along_axis(better, last, False, axis=1)
        places, columns = better.nonzero()
        if len(places):
            numbers = head * self.bar.shape[1] + rows[places]
            self._found.append((numbers, ids[columns], scores[better]))

    def note_each(self, heads: Ids, rows: Ids, ids: Ids, scores: Scores) -> None:
        """Note those that are better of keys ``[n]``, each scored for a query of its own."""
        better = scores > self.bar[heads, rows]
        if better.any():
            numbers = heads * self.bar.shape[1] + rows
            self._found.append((numbers[better], ids[better], scores[better]))

    def join(self) -> None:
        """Put what is better among the hits, best first."""
        if not self._found:
            return
        numbers, ids, scores = map(np.concatenate, zip(*self._found, strict=True))
        order = numbers.argsort(kind="stable")
        which, first, counts = np.unique(numbers[order], return_index=True, return_counts=True)
        rows = np.repeat(np.arange(len(which)), counts)
        columns = np.arange(len(order)) - first.repeat(counts)
        device, (_, queries, top_k) = self._hits.ids.device, self._hits.ids.shape

        def table(found: Ids | Scores, none: float) -> Tensor:
            cells = np.full((len(which), counts.max()), none, found.dtype)
            cells[rows, columns] = found[order]
            return torch.from_numpy(cells).to(device)

        where = divmod(which, queries)
        old = Hits(*(each[where] for each in self._hits))
        best = best_hits([old, Hits(table(ids, -1), table(scores, -np.inf))], top_k)
        for each, joined in zip(self._hits, best, strict=True):
            each[where] = joined
