"""Approximate search: read the most promising clusters, and score their keys."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fotmem.disk import ChunkCache, look_up_rows
from fotmem.stores import Hits
from fotmem_zarr.index.limits import CLUSTER
from fotmem_zarr.index.segment import Segment

FEW = 2**16
"""Rows up to which a query reads `nprobe` clusters."""


class ClusterSearch:
    """Searches segments together. Their clusters are numbered across all segments.

    Parameters
    ----------
    segments : sequence of Segment
        At least one, in order.
    cache : ChunkCache
    nprobe : int
        Clusters that a query reads of up to ``FEW`` rows.
    first : int
        Rows before this one are left out.
    workspace : int
        Most elements of a temporary.
    candidates : int
        Most scores that are held at a time.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        cache: ChunkCache,
        *,
        nprobe: int,
        first: int,
        workspace: int,
        candidates: int,
    ) -> None:
        self.segments = segments
        self.cache = cache
        self.nprobe = nprobe
        self.first = first
        self.workspace = workspace
        self.candidates = candidates
        counts = [segment.clusters for segment in segments]
        self.offsets = torch.tensor([0, *counts]).cumsum(0)
        self.clusters = sum(counts)
        self.sizes = torch.cat([segment.index.sizes for segment in segments], 1).flatten()
        """``[H * clusters]``, int32: keys of each cluster."""

    def clusters_per_query(self, top_k: int) -> int:
        """Return how many clusters each query reads.

        With more keys, the best of them lie in more clusters: the count grows with the square root
        of the keys. In each of several segments they lie in nearly as many clusters as in a single
        large segment: the count grows with the square root of the number of equal segments. It also
        grows with the share of forgotten rows.
        """
        sizes = [min(segment.rows, segment.end - self.first) for segment in self.segments]
        effective = sum(sizes) ** 2 / sum(size * size for size in sizes)
        stored = sum(segment.rows for segment in self.segments) / sum(sizes)
        more = max(1.0, math.sqrt(sum(sizes) / FEW)) * math.sqrt(effective) * stored
        return min(self.clusters, round(max(self.nprobe, 4 * top_k / CLUSTER) * more))

    def search(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best keys for queries ``[H, Q, D]``, float32."""
        nprobe = self.clusters_per_query(top_k)
        top_k = min(top_k, nprobe * CLUSTER)
        chosen = self._choose(queries, nprobe)
        self.cache.count_probed(int((chosen >= 0).sum()))
        heads = torch.arange(queries.shape[0])[:, None].expand(queries.shape[:2])
        # Head by head, so that queries that read the same clusters come together.
        step = max(1, self.candidates // (nprobe * CLUSTER))
        parts = [
            self._score(*part, top_k)
            for part in zip(
                queries.flatten(0, 1).split(step),
                heads.flatten().split(step),
                chosen.flatten(0, 1).split(step),
                strict=True,
            )
        ]
        ids, scores = (
            torch.cat(part).unflatten(0, queries.shape[:2]) for part in zip(*parts, strict=True)
        )
        return Hits(ids, scores)

    def _choose(self, queries: Tensor, nprobe: int) -> Tensor:
        """Choose the clusters ``[H, Q, nprobe]`` of each query; -1 where there are fewer."""
        step = max(1, self.workspace // (self.clusters * queries.shape[0]))
        parts = []
        for block in queries.split(step, dim=1):
            estimates = torch.cat([each.index.estimate(block) for each in self.segments], -1)
            best = estimates.topk(nprobe, dim=-1, sorted=False)
            parts.append(best.indices.where(best.values > -torch.inf, -1))
        return torch.cat(parts, 1)

    def _score(
        self, queries: Tensor, heads: Tensor, chosen: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor]:
        """Find the best keys of clusters ``[n, nprobe]`` for queries ``[n, D]`` of `heads`."""
        keys = torch.where(chosen < 0, -1, heads[:, None] * self.clusters + chosen)
        clusters, inverse, counts = keys.flatten().unique(return_inverse=True, return_counts=True)
        pairs = inverse.argsort()  # pairs of query and cluster, by cluster
        begins = counts.cumsum(0) - counts
        found = queries.new_full((keys.numel(), CLUSTER), -torch.inf)
        for part, most in self._batches(counts, skip=int(clusters[0] < 0)):
            columns = torch.arange(most)
            there = columns < counts[part, None]
            pair = pairs[begins[part, None] + columns.where(there, 0)]  # [c, most]
            members = self._read(clusters[part])
            # In this order: torch multiplies few rows by many columns several times slower.
            scores = members @ queries[pair // keys.shape[1]].transpose(1, 2)  # [c, CLUSTER, most]
            scores.masked_fill_(self._hidden(clusters[part])[..., None], -torch.inf)
            found[pair[there]] = scores.transpose(1, 2)[there]
        scores, places = found.view(len(queries), -1).topk(top_k, dim=-1)
        cluster = keys.gather(1, places // CLUSTER)
        hit = scores > -torch.inf
        rows = torch.full_like(places, -1)
        rows[hit] = self._rows(cluster[hit], places[hit] % CLUSTER)
        return rows, scores

    def _batches(self, counts: Tensor, skip: int) -> Iterator[tuple[Tensor, int]]:
        """Group clusters that about equally many queries want: bounded work for each group."""
        order = counts[skip:].argsort(descending=True, stable=True) + skip
        dim = self.segments[0].layer.head_dim
        while len(order):
            most = int(counts[order[0]])
            step = max(1, self.workspace // (CLUSTER * dim + most * (dim + CLUSTER)))
            yield order[:step], most
            order = order[step:]

    def _read(self, clusters: Tensor) -> Tensor:
        """Read clusters ``[c]``, float32: ``[c, CLUSTER, D]``."""
        keys = [segment.keys for segment in self.segments]
        located = zip(*(each.tolist() for each in self._locate(clusters)), strict=True)
        chunks = [(keys[i], head * keys[i].chunks_per_head + number) for head, i, number in located]
        return self.cache.read(chunks).float()

    def _hidden(self, clusters: Tensor) -> Tensor:
        """Mark the places of clusters ``[c]`` that hold no live key: ``[c, CLUSTER]``."""
        columns = torch.arange(CLUSTER)
        hidden = columns >= self.sizes[clusters, None]
        if self.segments[0].first < self.first:
            every = clusters.repeat_interleave(CLUSTER)
            rows = self._rows(every, columns.repeat(len(clusters)))
            hidden |= rows.view(-1, CLUSTER) < self.first
        return hidden

    def _rows(self, clusters: Tensor, columns: Tensor) -> Tensor:
        """Look up the row numbers of keys ``[n]``."""
        head, segment, number = self._locate(clusters)
        places = number * CLUSTER + columns
        arrays = [each.ids for each in self.segments]
        lengths = torch.tensor([ids.chunk_rows for ids in arrays])[segment]
        found = torch.empty_like(places)
        for length in lengths.unique().tolist():  # another budget, another length
            here = lengths == length
            some = segment[here], head[here], places[here]
            found[here] = look_up_rows(self.cache, arrays, *some, self.workspace).long()
        for n in segment.unique().tolist():
            here = segment == n
            found[here] = self.segments[n].rows_of(found[here])
        return found

    def _locate(self, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split numbers into head, segment, and cluster of this head of the segment."""
        head = clusters // self.clusters
        cluster = clusters % self.clusters
        segment = torch.bucketize(cluster, self.offsets, right=True) - 1
        return head, segment, cluster - self.offsets[segment]
