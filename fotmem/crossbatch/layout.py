"""Which windows of a batch are of which document, and which windows each of them attends to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from fotmem.crossbatch.pattern import documents
from fotmem.errors import ShapeError


class Layout:
    """The windows of documents: one document after another, each with its oldest window first.

    Parameters
    ----------
    rows : int
        Number of windows in the batch.
    counts : sequence of int, optional
        How many of them each document has, at least two. Default: two.

    Attributes
    ----------
    seen : list of int
        The windows that others attend to: all but the last one of each document.
    later : list of int
        The windows that attend to others: all but the first one of each document.

    Raises
    ------
    ShapeError
        The batch has another number of windows.
    """

    def __init__(self, rows: int, counts: Sequence[int] | None = None) -> None:
        chosen = [2] * (rows // 2) if counts is None else [*counts]
        if sum(chosen) != rows or min(chosen, default=0) < 2:
            each = "two" if counts is None else f"{chosen}, at least two each,"
            expected = f"[W, T]: {each} windows of the documents, one document after another"
            raise ShapeError("input_ids", expected=expected, actual=(rows,))
        starts = accumulate(chosen, initial=0)
        self._documents = [range(start, stop) for start, stop in pairwise(starts)]
        self._of = torch.arange(len(chosen)).repeat_interleave(torch.tensor(chosen))
        """The document of each window."""
        self.seen = [window for document in self._documents for window in document[:-1]]
        self.later = [window for document in self._documents for window in document[1:]]

    def __len__(self) -> int:
        """Count the documents."""
        return len(self._documents)

    def doubled(self, windows: Tensor) -> Tensor:
        """Return `seen` windows, then `later` ones, of a tensor with all windows as its rows."""
        return windows[[*self.seen, *self.later]]

    def single(self, doubled: Tensor) -> Tensor:
        """Return all windows, in their order: `later` ones as such, first ones as `seen`."""
        rows = dict(zip(self.seen, range(len(self.seen)), strict=True))
        rows |= zip(self.later, range(len(self.seen), len(doubled)), strict=True)
        return doubled[[rows[window] for window in range(len(rows))]]

    def contexts(self, d: int) -> list[list[int]]:
        """List the windows that each of `later` attends to, by their places in `seen`.

        They are those before it in its own document, and the ones of ``d - 1`` other documents;
        none if `d` is 0.

        Raises
        ------
        OptionError
            `d` is not from 0 to the number of documents.
        """
        places = dict(zip(self.seen, range(len(self.seen)), strict=True))
        found: list[list[int]] = []
        for own, chosen in zip(self._documents, documents(len(self._documents), d), strict=True):
            others = [window for other in chosen[1:] for window in self._documents[other][:-1]]
            for place in range(1, len(own)):
                context = [*own[:place], *others] if chosen else []
                found.append([places[window] for window in context])
        return found

    def ages(self, ages: Tensor) -> Tensor:
        """Return how old each of `seen` is for each of `later`.

        Parameters
        ----------
        ages : Tensor
            Shape ``[B]``: how old the last window but one of each document is for the last one. For
            windows of other documents it is as old.

        Returns
        -------
        Tensor
            Shape ``[len(later), len(seen)]``, in windows.
        """
        of, seen, later = self._of, torch.tensor(self.seen), torch.tensor(self.later)[:, None]
        last = of.bincount().cumsum(0)[of[seen]] - 1
        since = torch.where(self.negatives(), last, later) - seen
        return since - 1 + ages.cpu()[of[seen]]

    def negatives(self) -> Tensor:
        """Return which of `seen` are of another document than each of `later`.

        Returns
        -------
        Tensor
            Bool ``[len(later), len(seen)]``.
        """
        return self._of[self.later][:, None] != self._of[self.seen]

    def recent(self, d: int, ages: Tensor) -> list[int | None]:
        """List the window that stands directly before each of `later`, by its place in `seen`.

        It is the one before it in its own document. If that is two windows old or older, it is the
        last one of `seen` of the next document, as in a memory that read something else since; if
        `d` is less than 2, none.
        """
        places = dict(zip(self.seen, range(len(self.seen)), strict=True))
        found: list[int | None] = []
        for number, own in enumerate(self._documents):
            following = self._documents[(number + 1) % len(self)]
            other = places[following[-2]] if d > 1 else None
            adjacent = d > 0 and int(ages[number]) == 1
            found += [places[window - 1] if adjacent else other for window in own[1:]]
        return found
