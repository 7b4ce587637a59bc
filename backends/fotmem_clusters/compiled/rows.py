"""The keys and values of clusters, where compiled functions read them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from fotmem.stores import Bias, GrowingRows
from fotmem_clusters.compiled.scalars import compiled
from fotmem_clusters.compiled.shown import Array, Shown, raw
from fotmem_clusters.tree import Tree

COPIED = 2**12
"""Clusters whose rows are copied at a time, where they are in a directory."""


class Column(NamedTuple):
    """All keys, or all values."""

    rows: Array
    """Shape ``[n, D]``."""
    room: int
    """Rows of a head."""
    first: int
    """The number of the first row of each head."""


class Rows(NamedTuple):
    """The keys and values of some clusters."""

    first: int
    """The first of these among all clusters that are read."""
    members: Array
    """Shape ``[c, S]``, int32: rows of each."""
    sizes: Array
    """Shape ``[c]``, int32: how many these are; others are not."""
    keys: Array
    """Shape ``[n, D]``."""
    key_bases: Array
    """Shape ``[c]``, int64: what to add to rows for their places in `keys`."""
    values: Array
    """Shape ``[n, D]``."""
    value_bases: Array
    """Shape ``[c]``, int64."""
    biases: Array
    """Shape ``[c, S]``, float32: of rows; ``[0, S]``: there are none."""


def columns_of(tree: Tree) -> tuple[Column, Column] | None:
    """Return keys and values; None: some of them are in a directory."""
    if tree.keys.is_mapped or tree.values.is_mapped:
        return None
    return _column(tree.keys), _column(tree.values)


def _column(source: GrowingRows) -> Column:
    rows, first, room = source.flat()
    return Column(raw(rows), room, first)


@compiled
def rows_in_memory(shown: Shown, nodes: Array, keys: Column, values: Column) -> Rows:
    """Return the rows of clusters ``[c]``, numbered across heads, of keys and values in memory."""
    room, most = shown.members.shape[1:]
    heads = nodes.astype(np.int64) // room
    return Rows(
        0,
        shown.members.reshape(-1, most)[nodes],
        shown.sizes.reshape(-1)[nodes],
        keys.rows,
        heads * keys.room - keys.first,
        values.rows,
        heads * values.room - values.first,
        np.empty((0, most), np.float32),
    )


def rows_of(
    tree: Tree, shown: Shown, nodes: Array, bias: Bias | None, scale: float
) -> Iterator[Rows]:
    """Yield the rows of clusters ``[c]``, numbered across heads, wherever they are."""
    columns = columns_of(tree)
    if columns is not None:
        rows = rows_in_memory(shown, nodes, *columns)
        yield rows if bias is None else rows._replace(biases=_biases(rows.members, bias, scale))
        return
    for first in range(0, len(nodes), COPIED):
        some = nodes[first : first + COPIED]
        members = shown.members.reshape(-1, tree.clusters.capacity)[some]
        heads = torch.from_numpy(some // tree.clusters.room)[:, None].expand(members.shape).long()
        held = torch.from_numpy(members).long().clamp(min=tree.first)
        keys, values = (
            raw(source.take_of_heads(heads, held).view(-1, source.head_dim))
            for source in (tree.keys, tree.values)
        )
        yield Rows(
            first,
            np.arange(members.size, dtype=np.int32).reshape(members.shape),
            shown.sizes.reshape(-1)[some],
            keys,
            np.zeros(len(some), np.int64),
            values,
            np.zeros(len(some), np.int64),
            _biases(members, bias, scale),
        )


def _biases(members: Array, bias: Bias | None, scale: float) -> Array:
    """Return what is added to the scores of rows; of some row where there is none."""
    if bias is None:
        return np.empty((0, members.shape[1]), np.float32)
    found: Array = (bias(torch.from_numpy(members).long().clamp(min=0)) * scale).numpy()
    return found
