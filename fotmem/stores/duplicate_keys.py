"""Duplicate keys: an index holds equal vectors once, and a search returns all of them."""

import numpy as np
from numpy.typing import NDArray

from fotmem.stores.arrays import Ids


class DuplicateKeys:
    """Vectors of a head that equal earlier ones, their originals."""

    def __init__(self) -> None:
        self._of: dict[int, list[int]] = {}
        self._originals = np.empty(0, dtype=np.int64)  # ascending

    def note(self, originals: Ids, ids: Ids) -> None:
        """Note that vectors ``ids [n]``, ascending, are duplicates of ``originals [n]``."""
        for original, copied in zip(originals.tolist(), ids.tolist(), strict=True):
            self._of.setdefault(original, []).append(copied)
        self._originals = np.union1d(self._originals, originals)

    def among(self, found: Ids) -> bool:
        """Return whether some of these hits ``[Q, K]`` have duplicates."""
        return len(self._originals) > 0 and bool(self._with_duplicates(found).any())

    def following(self, found: Ids, top_k: int) -> Ids:
        """Insert its duplicates after each hit ``[Q, K]``: ``[Q, top_k]``, padded with -1."""
        has = self._with_duplicates(found)
        originals, which = np.unique(found[has], return_inverse=True)
        table = np.full((len(originals), top_k), -1, dtype=np.int64)
        for some, original in zip(table, originals.tolist(), strict=True):
            same = [original, *self._of[original][-top_k + 1 :]][:top_k]
            some[: len(same)] = same
        rows = np.full(found.shape, -1)
        rows[has] = which
        counts = np.ones(found.shape, dtype=np.int64)
        counts[has] = (table >= 0).sum(1)[which]
        ends = counts.cumsum(1).clip(max=top_k)  # of each hit and its duplicates
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

    def _with_duplicates(self, found: Ids) -> NDArray[np.bool_]:
        if not len(self._originals):
            return np.zeros(found.shape, dtype=np.bool_)
        has: NDArray[np.bool_] = (
            self._originals[np.searchsorted(self._originals[:-1], found)] == found
        )
        return has

    def array(self) -> Ids:
        """Return originals and their duplicates ``[2, n]``, for `of_array`."""
        pairs = [(original, copied) for original, ids in self._of.items() for copied in ids]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2).T

    @classmethod
    def of_array(cls, pairs: Ids) -> "DuplicateKeys":
        """Restore those of an array ``[2, n]``."""
        new = cls()
        new.note(pairs[0], pairs[1])
        return new

    def copy(self) -> "DuplicateKeys":
        """Return an independent copy."""
        twin = DuplicateKeys()
        twin._of, twin._originals = (
            {original: list(ids) for original, ids in self._of.items()},
            self._originals,
        )
        return twin


def first_equal(vectors: NDArray[np.float32]) -> Ids:
    """Find the first vector that equals each of ``[n, D]``: ``[n]``."""
    draw = np.random.default_rng(0).integers(2**63, size=vectors.shape[1], dtype=np.int64)
    hashes = (vectors.view(np.int32) * draw).sum(1)
    _, firsts, places = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = firsts[places]
    same = (vectors[earlier] == vectors).all(1)
    return np.where(same, earlier, np.arange(len(vectors)))
