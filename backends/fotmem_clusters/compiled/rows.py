"""The keys and values of clusters, where compiled functions read them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Bias, GrowingRows
from fotmem_clusters.compiled.shown import Array, raw
from fotmem_clusters.tree import Tree

COPIED = 2**12
"""Clusters whose rows are copied at a time, where they are in a directory."""


class Rows(NamedTuple):
    """The keys and values of some clusters."""

    first: int
    """The first of these among all clusters that are read."""
    members: Array
    """Shape ``[c, S]``, int32: rows of each."""
    sizes: Array
    """Shape ``[c]``, int32: how many these are; others are not."""
    keys: Array
    """Shape ``[K, D]``."""
    key_bases: Array
    """Shape ``[c]``, int64: what to add to rows for their places in `keys`."""
    values: Array
    """Shape ``[V, D]``."""
    value_bases: Array
    """Shape ``[c]``, int64."""
    biases: Array
    """Shape ``[c, S]``, float32: of rows; ``[0, S]``: there are none."""


def rows_of(tree: Tree, nodes: Array, bias: Bias | None, scale: float) -> Iterator[Rows]:
    """Yield the rows of clusters ``[c]``, numbered across heads."""
    copied = tree.keys.is_mapped or tree.values.is_mapped
    length = COPIED if copied else max(1, len(nodes))
    for first in range(0, len(nodes), length):
        some = nodes[first : first + length]
        held = tree.clusters.table.view(-1, tree.clusters.capacity).numpy()[some]
        sizes = tree.clusters.sizes.view(-1).numpy()[some]
        biases = np.empty((0, held.shape[1]), np.float32)
        if bias is not None:
            rows = torch.from_numpy(held).long().clamp(min=tree.first)
            biases = (bias(rows) * scale).numpy()
        heads, sources = some // tree.clusters.room, (tree.keys, tree.values)
        if copied:
            keys, values = (_copied(source, heads, held) for source in sources)
            places = np.arange(held.size, dtype=np.int32).reshape(held.shape)
            yield Rows(first, places, sizes, *keys, *values, biases)
        else:
            keys, values = (_in_memory(source, heads) for source in sources)
            yield Rows(first, held, sizes, *keys, *values, biases)


def _copied(source: GrowingRows, heads: Array, held: Array) -> tuple[Array, Array]:
    """Return a copy of rows of clusters, and where those of each begin in it, less their places."""
    owners = torch.from_numpy(heads)[:, None].long().expand(held.shape)
    rows: Tensor = source.take_of_heads(owners, torch.from_numpy(held).long().clamp(min=0))
    return raw(rows.view(-1, source.head_dim)), np.zeros(len(held), np.int64)


def _in_memory(source: GrowingRows, heads: Array) -> tuple[Array, Array]:
    """Return all rows, and where row 0 of the head of each cluster would be."""
    flat, first, capacity = source.flat()
    return raw(flat), heads.astype(np.int64) * capacity - first
