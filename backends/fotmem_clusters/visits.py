"""Brings together the queries that visit a node, so that each node is read once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Visit(NamedTuple):
    """Some nodes, and the pairs of a query and a node that visit each of them."""

    nodes: Tensor
    """Shape ``[c]``, int64."""
    pairs: Tensor
    """Shape ``[c, most]``, int64: places in the flattened choice of nodes."""
    there: Tensor
    """Shape ``[c, most]``, bool: which of these are pairs; others repeat one."""


def visits(chosen: Tensor, cost: int, per_pair: int, workspace: int) -> Iterator[Visit]:
    """Group pairs of a query and a node by node: about equally many for the nodes of a group.

    Parameters
    ----------
    chosen : Tensor
        Int64, any shape: the node of each pair.
    cost, per_pair : int
        Elements of temporaries for a node, and for each of its pairs.
    workspace : int
        Most elements of the temporaries of a group.
    """
    chosen = chosen.flatten()
    nodes, inverse, counts = chosen.unique(return_inverse=True, return_counts=True)
    order = inverse.argsort(stable=True)
    begins = counts.cumsum(0) - counts
    ranking = counts.argsort(descending=True, stable=True)
    sizes = counts[ranking].tolist()
    start = 0
    while start < len(sizes):
        most = sizes[start]
        stop = start + max(1, workspace // (cost + most * per_pair))
        part = ranking[start:stop]
        columns = torch.arange(most, device=chosen.device)
        there = columns < counts[part, None]
        yield Visit(nodes[part], order[begins[part, None] + columns.where(there, 0)], there)
        start = stop
