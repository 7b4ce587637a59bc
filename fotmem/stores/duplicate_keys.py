"""Equal vectors: an index has them once, and hits all of them."""

import numpy as np
from numpy.typing import NDArray

from fotmem.stores.arrays import Ids


class Copies:
    """Vectors of a head that equal earlier ones, their owners."""

    def __init__(self) -> None:
        self._of: dict[int, list[int]] = {}
        self._owners = np.empty(0, dtype=np.int64)  # ascending

    def note(self, owners: Ids, ids: Ids) -> None:
        """Let the vectors of these ids ``[n]``, ascending, be copies of their owners ``[n]``."""
        for owner, copied in zip(owners.tolist(), ids.tolist(), strict=True):
            self._of.setdefault(owner, []).append(copied)
        self._owners = np.union1d(self._owners, owners)

    def among(self, found: Ids) -> bool:
        """Tell whether some of these hits ``[Q, K]`` have copies."""
        return len(self._owners) > 0 and bool(self._owned(found).any())

    def following(self, found: Ids, top_k: int) -> Ids:
        """Let its copies follow each hit ``[Q, K]``: ``[Q, top_k]``, -1 where there is none."""
        owns = self._owned(found)
        owners, which = np.unique(found[owns], return_inverse=True)
        table = np.full((len(owners), top_k), -1, dtype=np.int64)
        for some, owner in zip(table, owners.tolist(), strict=True):
            same = [owner, *self._of[owner][-top_k + 1 :]][:top_k]
            some[: len(same)] = same
        rows = np.full(found.shape, -1)
        rows[owns] = which
        counts = np.ones(found.shape, dtype=np.int64)
        counts[owns] = (table >= 0).sum(1)[which]
        ends = counts.cumsum(1).clip(max=top_k)  # of each hit and its copies
        flat = np.diff(ends, prepend=0, axis=1).ravel()
        source = np.repeat(np.arange(found.size), flat)
        number = np.arange(len(source)) - np.repeat(flat.cumsum() - flat, flat)
        row = rows.ravel()[source]
        ids = found.ravel()[source]
        copied = row >= 0
        ids[copied] = table[row[copied], number[copied]]
        every = np.full((len(found), top_k), -1, dtype=np.int64)
        every[np.arange(top_k) < ends[:, -1:]] = ids
        return every

    def _owned(self, found: Ids) -> NDArray[np.bool_]:
        if not len(self._owners):
            return np.zeros(found.shape, dtype=np.bool_)
        owned: NDArray[np.bool_] = self._owners[np.searchsorted(self._owners[:-1], found)] == found
        return owned

    def copy(self) -> "Copies":
        """Return independent copies."""
        twin = Copies()
        twin._of, twin._owners = {owner: list(ids) for owner, ids in self._of.items()}, self._owners
        return twin


def first_equal(vectors: NDArray[np.float32]) -> Ids:
    """Tell of each vector ``[n, D]`` which one is the first that equals it: ``[n]``."""
    draw = np.random.default_rng(0).integers(2**63, size=vectors.shape[1], dtype=np.int64)
    hashes = (vectors.view(np.int32) * draw).sum(1)
    _, firsts, places = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = firsts[places]
    same = (vectors[earlier] == vectors).all(1)
    return np.where(same, earlier, np.arange(len(vectors)))
