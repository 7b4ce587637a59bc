"""Hub keys: few keys that are the best of many queries."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores.brute_force import in_blocks, largest
from fotmem.stores.centring import lengths_of, shortened, usual_length
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.saved_index import Arrays, writable_tensor

SLACK = 1.05
"""Hub keys are chosen anew when the keys have grown by this factor; in between they only grow."""
_NONE = torch.iinfo(torch.long).max


class HubKeys(NamedTuple):
    """Keys far from all others, kept aside: every query is compared with them.

    Attention queries do not look like keys: most point away from the mean key, and give most of
    their weight to the same few keys, such as the first token of a window (an attention sink, Xiao
    et al. 2023, arXiv:2309.17453). These lie so far from all others that an index seldom finds
    them. Hub keys are the ``sqrt(N)`` keys with the smallest inner product with the mean key; and
    the longest, ``sqrt(N)`` at most, of those that are more than twice as long as is usual.
    """

    against: Tensor
    """Shape ``[H, D]``: away from the mean key."""
    ids: Tensor
    """Shape ``[H, m]``, int64, ascending; padded with the largest int64."""
    keys: Tensor
    """Shape ``[H, m, D]``, float32."""
    bar: Tensor
    """Shape ``[H, 1]``: a hub key lies farther against the mean key than this,"""
    length: Tensor
    """Shape ``[H, 1]``: or is longer than this."""
    bits: Tensor
    """Shape ``[H, n]``, uint8: a bit for each id from `first` on, set for hub keys; the first and
    the last bit are 0."""
    first: int = 0
    chosen_of: int = 0
    """Keys of a head when hub keys were last chosen."""

    @classmethod
    def of(cls, keys: Tensor) -> "HubKeys":
        """Learn mean and usual length from keys ``[H, n, D]``; there are no hub keys yet."""
        heads, _, dim = keys.shape
        against = -shortened(keys).mean(1)
        tiny = torch.finfo(keys.dtype).tiny
        against = against / against.abs().amax(1, keepdim=True).clamp(min=tiny)  # may be huge
        none = torch.empty(heads, 0, dtype=torch.long, device=keys.device)
        bar = keys.new_full((heads, 1), -torch.inf)
        bits = torch.zeros(heads, 1, dtype=torch.uint8, device=keys.device)
        return cls(against, none, keys.new_empty(heads, 0, dim), bar, usual_length(keys), bits)

    def grown(self, ids: Tensor, keys: Tensor, total: int) -> "HubKeys":
        """Add those of more keys that lie far enough out.

        Parameters
        ----------
        ids, keys : Tensor
            Shapes ``[n]`` and ``[H, n, D]``, float32.
        total : int
            Keys of a head altogether.
        """
        far = (self._heights(keys) > self.bar) | (lengths_of(keys) > self.length)  # [H, n]
        if not far.any():
            return self
        more = self.holding(
            torch.cat([self.held(), ids.expand(len(keys), -1).where(far, -1)], 1),
            torch.cat([self.keys, keys], 1),
        )
        return more._chosen(total) if total >= SLACK * self.chosen_of else more

    def _chosen(self, total: int) -> "HubKeys":
        """Keep the farthest and the longest only; the last of them set the bars."""
        none, most = self.ids == _NONE, min(self.most, math.isqrt(total))
        heights = self._heights(self.keys).masked_fill_(none, -torch.inf)
        lengths = lengths_of(self.keys).masked_fill_(none, 0)
        furthest, longest = heights.topk(most, dim=1), lengths.topk(most, dim=1)
        far = torch.zeros_like(none).scatter_(1, furthest.indices, True) & ~none
        long = torch.zeros_like(none).scatter_(1, longest.indices, True) & (lengths > self.length)
        chosen = self.holding(self.ids.where(far | long, -1), self.keys)
        bar, length = furthest.values[:, -1:], longest.values[:, -1:].maximum(self.length)
        return chosen._replace(bar=bar, length=length, chosen_of=total)

    def _heights(self, keys: Tensor) -> Tensor:
        """Return how far keys ``[H, n, D]`` lie against the mean key: ``[H, n]``."""
        return (keys @ self.against[..., None]).squeeze(2)

    def holding(self, ids: Tensor, keys: Tensor) -> "HubKeys":
        """Replace the hub keys: ids ``[H, m]``, -1 for none, and keys ``[H, m, D]``."""
        ids, order = ids.where(ids >= 0, _NONE).sort(dim=1)
        size = int((ids != _NONE).sum(1).max()) if ids.numel() else 0
        order = order[:, :size, None].expand(-1, -1, keys.shape[2])
        ids = ids[:, :size].contiguous()
        first, bits = _bits(ids)
        return self._replace(ids=ids, keys=keys.gather(1, order), bits=bits, first=first)

    def arrays(self) -> Arrays:
        """Return them as arrays, for `of_arrays`."""
        parts = {"against": self.against, "ids": self.held(), "keys": self.keys, "bar": self.bar}
        parts |= {"length": self.length, "chosen_of": torch.tensor([self.chosen_of])}
        return {name: part.cpu().numpy() for name, part in parts.items()}

    @classmethod
    def of_arrays(cls, arrays: Arrays, device: torch.device) -> "HubKeys":
        """Restore what `arrays` returned."""
        names = ("against", "ids", "keys", "bar", "length")
        against, ids, keys, bar, length = (
            writable_tensor(arrays[name]).to(device) for name in names
        )
        none = torch.zeros(len(ids), 1, dtype=torch.uint8, device=device)
        new = cls(against, ids, keys, bar, length, none, chosen_of=int(arrays["chosen_of"][0]))
        return new.holding(ids, keys)

    @property
    def most(self) -> int:
        """Most hub keys of a head."""
        return self.ids.shape[1]

    def held(self) -> Tensor:
        """Return the ids ``[H, m]``, -1 where a head has fewer."""
        return self.ids.where(self.ids != _NONE, -1)

    def search(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        """Find the best hub keys of queries ``[H, Q, D]``, float32."""
        length = block_length(self.ids.numel())
        return in_blocks(
            lambda some: self._search(queries[:, some], top_k, bias), queries.shape[1], length
        )

    def _search(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        scores = queries @ self.keys.transpose(1, 2)  # [H, Q, m]
        none = self.ids == _NONE
        if bias is not None:
            scores += bias(self.ids.where(~none, self.ids[:, :1]))[:, None]
        scores.masked_fill_(none[:, None], -torch.inf)
        scores, best = largest(scores, top_k)
        ids = self.ids.gather(1, best.flatten(1)).view(best.shape)
        return Hits(ids.where(scores > -torch.inf, -1), scores)

    def contain(self, ids: Tensor) -> Tensor:
        """Return which of ids ``[H, Q, K]`` are hub keys."""
        places = (ids.flatten(1) - self.first).clamp(0, 8 * self.bits.shape[1] - 1)
        bits = self.bits.gather(1, places >> 3) >> (places & 7)
        return (bits & 1).bool().view(ids.shape)


def _bits(ids: Tensor) -> tuple[int, Tensor]:
    """Set bits for ids ``[H, m]``: the id of the first bit, and bytes ``[H, n]``."""
    there = ids != _NONE
    first = int(ids.min()) - 1 if ids.numel() else 0
    places = ids.where(there, first) - first
    size = (int(places.max()) + 1) // 8 + 1 if ids.numel() else 1
    bits = torch.zeros(len(ids), size, dtype=torch.uint8, device=ids.device)
    return first, bits.scatter_add_(1, places >> 3, (there.byte() << (places & 7)).byte())
