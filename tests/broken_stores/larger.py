"""Faults that appear only at the sizes of `StoreContract.large`."""

import torch
from torch import Tensor

from fotmem.stores import Hits
from tests.broken_stores.registry import APPROXIMATE, caught_by
from tests.plain_stores import PlainStore


@caught_by(
    "keys_beyond_24_bits",
    message=r"keys beyond the 2\*\*24-th are wrong, as if they were counted in float32",
    large=True,
)
class KeysAreCountedInFloat32(PlainStore):
    """Keeps only the rows that are not forgotten."""

    dropped = 0

    def forget_rows(self, count: int) -> None:
        self.rows = self.rows[:, :, count : self.size].clone()
        self.size -= count
        self.dropped += count

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        return Hits((ids + self.dropped).float().long(), scores)

    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        return super()._take(rows, ids - self.dropped)


@caught_by("many_queries_of_an_index", message="search did not answer all of 132,072", large=True)
class AnIndexAnswers65535(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        hits = super().search_rows(queries, top_k)
        if self.size > 4_000:
            hits.scores[:, 2**16 - 1 :] = 0
        return hits


@caught_by(
    "many_heads_with_an_index",
    APPROXIMATE,
    message="a store of 40 heads with an index gives wrong answers: hits of head 32,",
    large=True,
)
class AnIndexHas32Heads(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        if self.size < 4_000:
            return Hits(ids, scores)
        return Hits(ids[torch.arange(len(ids)) % 32], scores)


class OffsetsWrapAround(PlainStore):
    """With int32, the fault appears only with more memory than a test may take."""

    offset_dtype = torch.int32

    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        flat, room = self.rows.view(-1), self.rows.shape[2]
        first = 0 if rows.data_ptr() == self.rows.data_ptr() else self.num_heads
        heads = torch.arange(first, first + self.num_heads)[:, None, None]
        starts = ((heads * room + ids) * self.head_dim)[..., None]
        offsets = (starts + torch.arange(self.head_dim)).to(self.offset_dtype)
        return flat[offsets.long() % len(flat)]


class OffsetsWrapAroundIn16Bits(OffsetsWrapAround):
    offset_dtype = torch.int16
