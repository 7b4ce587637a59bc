"""Attends to some clusters exactly, and to the others as their summaries estimate."""

from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Bias, HubKeys
from fotmem_clusters.reading import Reader
from fotmem_clusters.summaries import Summaries, gain
from fotmem_clusters.tree import Tree

WORKSPACE = 2**21
"""Elements of the largest temporary."""
LEAST = 1e-6
"""Least variance: a cluster of equal keys is read for its weight alone."""


def attend_to_clusters(
    tree: Tree,
    queries: Tensor,
    *,
    budget: int,
    scale: float,
    bias: Bias | None = None,
    hubs: HubKeys | None = None,
) -> PartialAttention:
    """Attend with queries ``[H, Q, D]``, float32, to all rows of a tree that is not empty.

    Parameters
    ----------
    tree : Tree
    queries : Tensor
    budget : int
        Rows that each query reads, about.
    scale : float
        Factor of the inner products.
    bias : callable, optional
        Takes rows; what to add to inner products, before `scale`.
    hubs : HubKeys, optional
        Rows that are left out where clusters are read.
    """
    nodes = tree.nodes
    reader = Reader(tree, bias=bias, scale=scale, hubs=hubs)
    nprobe = nodes.nprobe(budget)
    per_query = len(queries) * (6 * nodes.sizes.shape[1] + nprobe * (tree.keys.head_dim + 2))
    step = max(1, WORKSPACE // per_query)
    parts = [_attend(reader, nodes, some, nprobe) for some in (queries * scale).split(step, 1)]
    return PartialAttention(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


class _Estimate(NamedTuple):
    """What queries ``[H, Q, D]`` expect of each cluster."""

    weights: Tensor
    """Shape ``[H, Q, C]``: log of the weight, if all its keys were as the mean."""
    variances: Tensor
    """Shape ``[H, Q, C]``: of the scores of its keys."""


def _attend(reader: Reader, nodes: Summaries, queries: Tensor, nprobe: int) -> PartialAttention:
    keys, values = (each.to(queries.dtype) for each in nodes.means)
    sizes = nodes.sizes[:, None]
    base = torch.baddbmm(reader.log_sizes[:, None], queries, keys.transpose(1, 2))
    variances = nodes.shape.spread_along(queries)[..., None] * nodes.spreads[:, None]
    gains = gain(variances, sizes)
    uncertain = base + gains + variances.clamp(min=LEAST).log() / 2
    chosen = uncertain.topk(nprobe, -1, sorted=False).indices  # [H, Q, P]
    outs, lses = reader.attend(queries, chosen)
    # Of those that were read, it is known how much their keys gain over their means.
    seen = (lses - base.gather(2, chosen)).nan_to_num(0, 0, 0).sum(-1)
    predicted = gains.gather(2, chosen).sum(-1)
    right = (seen / predicted.clamp(min=LEAST)).clamp(0, 1)[..., None]
    rest = base + gain(variances * right, sizes)
    rest = rest.scatter(2, chosen, -torch.inf)
    lse = torch.logaddexp(rest.logsumexp(-1), lses.logsumexp(-1))[..., None]
    weights = (rest - lse).exp()
    out = weights @ values + (weights @ nodes.spreads[..., None]) * nodes.shape.shift(queries)
    out += ((lses - lse).exp()[:, :, None] @ outs).squeeze(2)
    return PartialAttention(out, lse.squeeze(-1))


def best_rows(tree: Tree, queries: Tensor, top_k: int, *, budget: int) -> Tensor:
    """Find the rows ``[H, Q, at most top_k]`` with the largest inner products, among those read.

    Queries are ``[H, Q, D]``, float32; -1 where fewer were read.
    """
    nodes = tree.nodes
    reader, nprobe = Reader(tree), nodes.nprobe(budget)
    capacity = tree.clusters.capacity
    step = max(1, WORKSPACE // (len(queries) * (3 * nodes.sizes.shape[1] + nprobe * capacity)))
    parts = [_best_rows(reader, nodes, some, top_k, nprobe) for some in queries.split(step, 1)]
    return torch.cat(parts, 1)


def _best_rows(
    reader: Reader, nodes: Summaries, queries: Tensor, top_k: int, nprobe: int
) -> Tensor:
    means = queries @ nodes.keys.to(queries.dtype).transpose(1, 2)
    variances = nodes.shape.spread_along(queries)[..., None] * nodes.spreads[:, None]
    # About the largest of that many normal numbers.
    highest = means + (2 * variances * nodes.sizes.clamp(min=1).log()[:, None]).sqrt()
    highest.masked_fill_((nodes.sizes == 0)[:, None], -torch.inf)
    return reader.best(queries, highest.topk(nprobe, -1, sorted=False).indices, top_k)
