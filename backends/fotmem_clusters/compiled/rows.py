"""The keys and values of clusters, where compiled functions read them."""

from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Bias, GrowingRows
from fotmem_clusters.compiled.scalars import compiled
from fotmem_clusters.compiled.shown import Array, Shown, raw
from fotmem_clusters.tree import Tree

_RAW: "WeakKeyDictionary[GrowingRows, tuple[Tensor, Array]]" = WeakKeyDictionary()
"""Buffers, and the arrays that view them: this takes longer than to look it up."""
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
    flat, first, room = source.flat()
    known = _RAW.get(source)
    if known is None or known[0] is not flat:
        known = _RAW[source] = flat, raw(flat)
    return Column(known[1], room, first)


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


@compiled
def waiting_in_memory(shown: Shown, start: int, stop: int, keys: Column, values: Column) -> Rows:
    """Return the rows from `start` to before `stop` of each head, of keys and values in memory."""
    heads = np.arange(len(shown.members))
    members = np.empty((len(heads), stop - start), np.int32)
    for head in heads:
        for place in range(stop - start):
            members[head, place] = start + place
    return Rows(
        0,
        members,
        np.full(len(heads), np.int32(stop - start)),
        keys.rows,
        heads * keys.room - keys.first,
        values.rows,
        heads * values.room - values.first,
        np.empty((0, stop - start), np.float32),
    )


def waiting_rows(tree: Tree, shown: Shown, waiting: range, bias: Bias | None, scale: float) -> Rows:
    """Return the same rows of each head, wherever they are."""
    columns = columns_of(tree)
    if columns is not None:
        rows = waiting_in_memory(shown, waiting.start, waiting.stop, *columns)
    else:
        members = np.broadcast_to(np.array(waiting, np.int32), (len(shown.members), len(waiting)))
        rows = _copied(tree, np.arange(len(members)), members, members[:, 0] * 0 + len(waiting))
    return rows._replace(biases=_biases(rows.members, bias, scale))


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
        heads, sizes = some // tree.clusters.room, shown.sizes.reshape(-1)[some]
        rows = _copied(tree, heads, members, sizes)
        yield rows._replace(first=first, biases=_biases(members, bias, scale))


def _copied(tree: Tree, heads: Array, members: Array, sizes: Array) -> Rows:
    """Return a copy of rows ``[c, S]`` of heads ``[c]``."""
    owners = torch.from_numpy(heads).long()[:, None].expand(members.shape)
    held = torch.from_numpy(members).long().clamp(min=0)
    keys, values = (
        raw(source.take_of_heads(owners, held).view(-1, source.head_dim))
        for source in (tree.keys, tree.values)
    )
    places = np.arange(members.size, dtype=np.int32).reshape(members.shape)
    bases = np.zeros(len(members), np.int64)
    none = np.empty((0, members.shape[1]), np.float32)
    return Rows(0, places, sizes, keys, bases, values, bases, none)


def _biases(members: Array, bias: Bias | None, scale: float) -> Array:
    """Return what is added to the scores of rows; of some row where there is none."""
    if bias is None:
        return np.empty((0, members.shape[1]), np.float32)
    found: Array = (bias(torch.from_numpy(members).long().clamp(min=0)) * scale).numpy()
    return found
