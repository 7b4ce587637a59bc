"""Attends to some clusters exactly, and to all others as their summaries estimate."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem_clusters.choosing import Limits, Pairs, choose
from fotmem_clusters.entries import gain, needle_risks, risk
from fotmem_clusters.reading import Reader
from fotmem_clusters.shapes import TINY
from fotmem_clusters.view import Viewer

CACHED = 2**18
"""Elements of temporaries of which several are used at a time: they stay in the cache."""
WORKSPACE = 2**23
"""Elements of the largest temporary."""
LEAST = 1e-6
"""Least gain that is compared."""


class Attended(NamedTuple):
    """Attention to all keys of a tree, most of it estimated."""

    out: Tensor
    """Shape ``[H, Q, D]``."""
    lse: Tensor
    """Shape ``[H, Q]``."""
    error: Tensor | None
    """Shape ``[H, Q]``: the estimated relative error of `out`, if it was asked for."""
    read: Tensor | None
    """Shape ``[H, Q]``: the keys that were read, if that was asked for."""


def attend_to_clusters(
    viewer: Viewer,
    queries: Tensor,
    *,
    limits: Limits,
    scale: float,
    errors: bool = False,
) -> Attended:
    """Attend with queries ``[H, Q, D]``, float32, to all rows of a tree that is not empty.

    Parameters
    ----------
    viewer : Viewer
        Shows the tree, with a bias if there is one.
    queries : Tensor
    limits : Limits
        How much each query reads.
    scale : float
        Factor of the inner products.
    errors : bool
        Whether to estimate the error of the output, too, and to count what is read.
    """
    reader = Reader(viewer.tree, viewer.biases)
    heads, _, dim = queries.shape
    per_query = 2 * viewer.seen + heads * min(viewer.most, limits.clusters) * dim
    length = max(1, WORKSPACE // per_query)
    parts = (
        _Attention(viewer, some, limits).result(reader, errors=errors)
        for some in (queries * scale).split(length, 1)
    )
    return _joined(parts)


class _Estimate(NamedTuple):
    """What queries ``[H, q, D]`` expect of entries ``[H, q, E]``."""

    queries: Tensor
    scores: Tensor
    deviations: Tensor
    scales: Tensor
    """Shape ``[H, q, 1]``: the relative error of the output at a risk of 1."""
    pairs: Pairs
    """What they read."""
    predicted: Tensor
    """Shape ``[n]``: what the keys of that are expected to gain over its scores."""


class _Attention:
    """Attention with some queries: to what they read, and to estimates of what they do not.

    Temporaries of queries and entries are computed for a few queries at a time, for the cache;
    clusters are read for all of them at once.
    """

    def __init__(self, viewer: Viewer, queries: Tensor, limits: Limits) -> None:
        self._viewer, self._view, self._limits = viewer, viewer.view(queries, limits), limits
        length = max(1, CACHED // self._view.entries.log_sizes.numel())
        self._estimates = [self._estimate(some) for some in queries.split(length, 1)]

    def _estimate(self, queries: Tensor) -> _Estimate:
        entries = self._view.entries
        scores = entries.scores(queries)
        deviations = entries.deviations(queries, self._viewer.tree.shapes)
        gains = gain(deviations, entries.bounds)
        shares = (scores + gains).softmax(2)
        rough = (shares.to(entries.values.dtype) @ entries.values).float()
        scales = self._viewer.value_norms / rough.norm(dim=2, keepdim=True).clamp(min=TINY)
        count = self._view.nodes.shape[1]
        shares, steep = shares[..., :count], deviations[..., :count]
        pairs = choose(shares * risk(steep), needle_risks(shares, steep), self._limits, scales)
        return _Estimate(queries, scores, deviations, scales, pairs, pairs.of(gains))

    def result(self, reader: Reader, *, errors: bool) -> Attended:
        """Return the attention to everything."""
        nodes = self._viewer.tree.clusters.numbered(self._view.nodes).view(-1)
        count = self._view.nodes.shape[1]
        asking, wanted = [], []
        for each in self._estimates:
            owners, entries = each.pairs
            asking.append(each.queries.flatten(0, 1).index_select(0, owners))
            wanted.append(nodes[owners // each.queries.shape[1] * count + entries])
        outs, lses = reader.attend(torch.cat(asking), torch.cat(wanted))
        lengths = [len(each) for each in wanted]
        read = zip(outs.split(lengths), lses.split(lengths), strict=True)
        return _joined(
            self._merged(each, nodes, *found, errors=errors)
            for each, nodes, found in zip(self._estimates, wanted, read, strict=True)
        )

    def _merged(
        self, estimate: _Estimate, nodes: Tensor, outs: Tensor, lses: Tensor, *, errors: bool
    ) -> Attended:
        """Merge clusters ``[n]`` that were read with the estimate of all others."""
        queries, scores, deviations, scales, pairs, predicted = estimate
        entries, tree = self._view.entries, self._viewer.tree
        shape = (*queries.shape[:2], 1)
        origin = queries @ tree.summaries.origin.transpose(1, 2)
        known = pairs.of(scores)
        lses = lses.masked_fill(known == -torch.inf, -torch.inf)
        gained = lses - known - origin.view(-1)[pairs.owners]
        right = _share(gained, predicted, pairs.owners, shape).sqrt_()
        deviations = deviations * right
        rest = (scores + gain(deviations, entries.bounds)).view(-1)
        rest = rest.index_fill_(0, pairs.places(scores), -torch.inf).view(scores.shape)
        top = rest.amax(2, keepdim=True) + origin
        top.view(-1).scatter_reduce_(0, pairs.owners, lses, "amax")
        weights, exact = rest.sub_(top - origin).exp_(), (lses - top.view(-1)[pairs.owners]).exp_()
        total = weights.sum(2, keepdim=True)
        total.view(-1).index_add_(0, pairs.owners, exact)
        out = entries.output(queries * right, weights, tree.shapes)
        out.view(-1, out.shape[2]).index_add_(0, pairs.owners, outs * exact[:, None])
        lse = top + total.log()
        error = read = None
        if errors:
            sizes = tree.summaries.sizes.view(-1)[nodes]
            read = sizes.new_zeros(top.numel()).index_add_(0, pairs.owners, sizes).view(shape[:2])
            shares = weights.div_(total).mul_(risk(deviations))
            error = (shares.norm(dim=2, keepdim=True) * scales).squeeze(2)
        return Attended(out / total, lse.squeeze(2), error, read)


def _share(gained: Tensor, predicted: Tensor, owners: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the share of the predicted gain that there was, up to 1.

    Of clusters that were read, it is known how much their keys gain over their means.
    """
    sums = predicted.new_zeros(2, *shape)
    sums[0].view(-1).index_add_(0, owners, gained.nan_to_num_(0, 0, 0))
    sums[1].view(-1).index_add_(0, owners, predicted)
    return (sums[0] / sums[1].clamp_(min=LEAST)).clamp_(0, 1)


def _joined(parts: Iterable[Attended]) -> Attended:
    """Join the attention of several queries."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    out, lse, error, read = (
        None if each[0] is None else torch.cat(each, 1) for each in zip(*parts, strict=True)
    )
    assert out is not None
    assert lse is not None
    return Attended(out, lse, error, read)


def best_rows(viewer: Viewer, queries: Tensor, top_k: int, *, clusters: int) -> Tensor:
    """Find the rows ``[H, Q, at most top_k]`` with the largest inner products, among those read.

    Queries are ``[H, Q, D]``, float32; -1 where fewer were read.
    """
    reader, parts = Reader(viewer.tree), []
    for some in queries.split(max(1, WORKSPACE // (2 * viewer.seen)), 1):
        view = viewer.view(some, Limits(torch.inf, clusters))
        entries, count = view.entries, view.nodes.shape[1]
        # About the largest of that many normal numbers.
        highest = entries.scores(some) - entries.log_sizes.clamp(min=0)
        highest += entries.bounds * entries.deviations(some, viewer.tree.shapes)
        chosen = highest[..., :count].topk(min(count, clusters), sorted=False).indices
        nodes = view.nodes[:, None].expand(-1, chosen.shape[1], -1).gather(2, chosen)
        parts.append(reader.best(some, nodes, top_k))
    return torch.cat(parts, 1)
