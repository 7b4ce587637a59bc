"""Faults that waste memory."""

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fotmem.attention import PartialAttention, dense_attention, topk_attention
from fotmem.plugin import StoreCapabilities
from fotmem.stores import Hits
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore


@caught_by("temporaries_of_search")
class AllScoresAtOnce(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return self._best(queries.float(), self.all_keys, top_k)


@caught_by("temporaries_of_search")
class AllScoresAtOnceInNumpy(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        keys = self.all_keys.float().numpy()
        scores = torch.from_numpy(queries.float().numpy() @ keys.transpose(0, 2, 1))
        scores, ids = scores.topk(top_k, dim=-1)
        return Hits(ids, scores)


@caught_by("temporaries_of_search")
class AllScoresAtOnceInAThread(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        found: list[Hits] = []
        ask = threading.Thread(
            target=lambda: found.append(self._best(queries.float(), self.all_keys, top_k))
        )
        ask.start()
        ask.join()
        return found[0]


@caught_by("temporaries_of_attend")
class AllValuesAtOnce(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is None:
            return super().attend_rows(queries, top_k, scale)
        hits = self._search_live(queries, min(top_k, len(self)))
        values = self.value_rows(hits.ids.clamp(min=self.forgotten_rows))
        return topk_attention(hits.scores, values, scale=scale, dtype=queries.dtype)


@caught_by("temporaries_of_attend")
class AllWeightsAtOnce(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is not None:
            return super().attend_rows(queries, top_k, scale)
        keys, values = self.all_keys.float(), self.all_values.float()
        scores = queries.float() @ keys.transpose(1, 2) * scale
        return PartialAttention(scores.softmax(-1) @ values, scores.logsumexp(-1))


@caught_by("adding_is_amortised")
class EachAddCopiesAll(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        rows = torch.cat([self.rows[:, :, : self.size], torch.stack([keys, values])], 2)
        self.rows, self.size = rows, rows.shape[2]


@caught_by("searching_keeps_nothing")
class QueriesAreNoted(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        vars(self).setdefault("noted", []).append(queries)
        return super().search_rows(queries, top_k)


@caught_by("forgetting_frees_memory", StoreCapabilities(exact=True, forgets=True))
class KeepsWhatIsForgotten(PlainStore):
    pass


@caught_by("half_precision_takes_half", message="it keeps keys and values in float32")
class KeepsFloat32(PlainStore):
    def room(self, tokens: int) -> Tensor:
        return super().room(tokens).float()

    def key_rows(self, ids: Tensor) -> Tensor:
        return super().key_rows(ids).to(self.dtype)

    def value_rows(self, ids: Tensor) -> Tensor:
        return super().value_rows(ids).to(self.dtype)


@caught_by("no_copy_of_all_keys", message="search with one query .* it copies all of them to float")
class FloatCopyOfAllKeys(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        return super()._best(queries, keys.float(), top_k)


@caught_by("no_copy_of_all_keys", message="search with one query .* it copies all of them to float")
class FloatCopyOfAllKeysInNumpy(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        wide = np.empty(keys.shape, np.float32)
        torch.from_numpy(wide).copy_(keys)
        return super()._best(queries, torch.from_numpy(wide), top_k)


@caught_by("no_copy_of_all_keys", message="attend to all with one query .* copies all of them")
class FloatCopyOfAllValues(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is not None:
            return super().attend_rows(queries, top_k, scale)
        keys, values = (
            self.rows[i, None, :, self.forgotten_rows : self.size].float() for i in range(2)
        )
        out, lse = dense_attention(queries[None], keys, values, scale=scale)
        return PartialAttention(out[0], lse[0])


@caught_by("no_copy_of_all_keys", message=r"live_blocks yields keys and values in 1 piece\(s\)")
class StreamsInOnePiece(PlainStore):
    def live_blocks(self) -> Any:
        yield self.all_keys[:, self.forgotten_rows :], self.all_values[:, self.forgotten_rows :]
