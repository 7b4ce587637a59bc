"""Sets of ids, as ranges: which keys a search may find."""

from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from fotmem.arguments import checked_integer
from fotmem.errors import OptionError, shown

END_OF_IDS = 2**63 - 1
"""Ids are below it: they, and the next one, are int64."""


class IdRanges:
    """An immutable set of ids, kept as ranges that are sorted and do not touch.

    `search` and `attend` of a store look only at keys whose ids are in such a set, if it is passed
    as `among`: the documents that a question is about, or all but those that were removed.

    Parameters
    ----------
    ranges : iterable of tuple of int
        Pairs of the first id and the id after the last one, from 0 to ``2**63 - 1``, in any order.
        Ranges may overlap, touch or be empty.

    Raises
    ------
    OptionError
        A range is no pair of integers, or it is negative or ends before it starts.

    Examples
    --------
    >>> documents = IdRanges([(0, 100), (250, 300)])
    >>> len(documents), list(documents)
    (150, [(0, 100), (250, 300)])
    >>> documents.contains(torch.tensor([99, 100, 250]))
    tensor([ True, False,  True])
    >>> documents.complement(0, 1000)
    IdRanges([(100, 250), (300, 1000)])
    """

    __slots__ = ("_bounds",)

    _bounds: Tensor
    """Shape ``[2 * R]``, int64, ascending: where ranges start and stop."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[int] = []
        for start, stop in sorted(map(_checked_range, ranges)):
            if merged and start <= merged[-1]:
                merged[-1] = max(merged[-1], stop)
            elif start < stop:
                merged += start, stop
        self._bounds = torch.tensor(merged, dtype=torch.long, device="cpu")

    @classmethod
    def _of(cls, bounds: Tensor) -> Self:
        """Make the set of these ranges ``[2 * R]``, which do not touch; drop empty ones."""
        pairs = bounds.view(-1, 2)
        ranges = cls.__new__(cls)
        ranges._bounds = pairs[pairs[:, 0] < pairs[:, 1]].flatten()
        return ranges

    def __len__(self) -> int:
        """Count the ids."""
        return int((self._bounds[1::2] - self._bounds[::2]).sum())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges, lowest first: the first id, and the id after the last one."""
        bounds = self._bounds.tolist()
        return zip(bounds[::2], bounds[1::2], strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdRanges) and torch.equal(self._bounds, other._bounds)

    def __hash__(self) -> int:
        return hash(tuple(self._bounds.tolist()))

    def __repr__(self) -> str:
        return f"IdRanges({list(self)})"

    def contains(self, ids: Tensor) -> Tensor:
        """Return which of these ids are in the set.

        Parameters
        ----------
        ids : Tensor
            Int64, of any shape, on any device.

        Returns
        -------
        Tensor
            Bool, of the same shape, on the same device.
        """
        # Within a range, an odd number of bounds is not above the id.
        bounds = self._bounds.to(ids.device)
        return (torch.bucketize(ids.long().contiguous(), bounds, right=True) & 1).bool()

    def at(self, positions: Tensor) -> Tensor:
        """Return ids by their positions in the set, counted from 0 in ascending order.

        Parameters
        ----------
        positions : Tensor
            Int64, of any shape, on any device, from 0 to before ``len(self)``.
        """
        starts, stops = self._bounds.to(positions.device).view(-1, 2).unbind(1)
        ends = (stops - starts).cumsum(0)  # the position after each range
        which = torch.bucketize(positions.contiguous(), ends, right=True)
        return positions + (stops - ends)[which]

    def positions(self, ids: Tensor) -> Tensor:
        """Return how many ids of the set are below each of these: the inverse of `at`.

        Parameters
        ----------
        ids : Tensor
            Int64, of any shape, on any device.
        """
        starts, stops = self._bounds.to(ids.device).view(-1, 2).t().contiguous()
        if not len(starts):
            return torch.zeros_like(ids)
        before = (stops - starts).cumsum(0) - (stops - starts)  # ids in the ranges before each
        # The last range that begins at an id or before it.
        last = (torch.bucketize(ids.contiguous(), starts, right=True) - 1).clamp(min=0)
        inside = torch.minimum(ids - starts[last], (stops - starts)[last]).clamp(min=0)
        counted: Tensor = before[last] + inside
        return counted

    def intersection(self, other: "IdRanges") -> "IdRanges":
        """Return the ids that are in both sets."""
        cuts = torch.cat([self._bounds, other._bounds]).unique()
        starts, stops = cuts[:-1], cuts[1:]
        both = self.contains(starts) & other.contains(starts)
        return self._of(torch.stack([starts[both], stops[both]], 1).flatten())

    def within(self, start: int, stop: int) -> "IdRanges":
        """Return the ids from `start` to before `stop` that are in the set."""
        return self._of(self._bounds.clamp(start, stop))

    def complement(self, start: int, stop: int) -> "IdRanges":
        """Return the ids from `start` to before `stop` that are not in the set."""
        start, stop = _checked_range((start, stop))
        ends = self._bounds.new_tensor([start, stop])
        return self._of(torch.cat([ends[:1], self._bounds.clamp(start, stop), ends[1:]]))

    def _shifted(self, distance: int) -> "IdRanges":
        return self._of(self._bounds + distance) if distance else self


def _checked_range(given: object) -> tuple[int, int]:
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise OptionError(
            "each range of ids must be a pair: the first id, and the id after the last one, "
            f"got {shown(given)}; such as (0, 100)"
        )
    start = checked_integer("start of a range of ids", given[0], least=0, most=END_OF_IDS)
    stop = checked_integer("stop of a range of ids", given[1], least=0, most=END_OF_IDS)
    if stop < start:
        raise OptionError(
            f"a range of ids must not stop before it starts, got {shown(given)}; "
            f"did you mean ({stop}, {start})?"
        )
    return start, stop
