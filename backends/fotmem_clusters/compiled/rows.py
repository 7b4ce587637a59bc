"""The keys and values of clusters, where compiled functions read them."""

from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import GrowingRows
from fotmem_clusters.compiled.scalars import compiled
from fotmem_clusters.compiled.shown import Array, Shown, raw
from fotmem_clusters.steps import Grown
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
    """Shape ``[m]``, float32: what is added to the scores of rows; ``[0]``: nothing."""
    bias_base: int
    """What to add to rows for their places in `biases`."""


def columns_of(tree: Grown) -> tuple[Column, Column] | None:
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
def clusters_in_memory(
    shown: Shown, nodes: Array, keys: Column, values: Column, biases: Array
) -> Rows:
    """Return the rows of clusters ``[c]``, numbered across heads."""
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
        biases,
        0,
    )


@compiled
def waiting_in_memory(
    heads: int, start: int, stop: int, keys: Column, values: Column, biases: Array
) -> Rows:
    """Return the rows from `start` to before `stop`, with their biases, of each head."""
    numbers = np.arange(heads)
    members = np.empty((heads, stop - start), np.int32)
    for head in range(heads):
        for place in range(stop - start):
            members[head, place] = start + place
    return Rows(
        0,
        members,
        np.full(heads, np.int32(stop - start)),
        keys.rows,
        numbers * keys.room - keys.first,
        values.rows,
        numbers * values.room - values.first,
        biases,
        -start,
    )


def copied_clusters(tree: Tree, shown: Shown, nodes: Array, biases: Array) -> Iterator[Rows]:
    """Yield copies of the rows of clusters ``[c]``, numbered across heads, some at a time."""
    for first in range(0, len(nodes), COPIED):
        some = nodes[first : first + COPIED]
        members = shown.members.reshape(-1, tree.clusters.capacity)[some]
        sizes = shown.sizes.reshape(-1)[some]
        found = biases[members].reshape(-1) if len(biases) else biases
        yield _copied(tree, some // tree.clusters.room, members, sizes, found)._replace(first=first)


def copied_waiting(tree: Tree, heads: int, waiting: range, biases: Array) -> Rows:
    """Return a copy of some rows, with their biases, of each head."""
    members = np.tile(np.array(waiting, np.int32), (heads, 1))
    sizes = np.full(heads, len(waiting), np.int32)
    return _copied(tree, np.arange(heads), members, sizes, np.tile(biases, heads))


def _copied(tree: Tree, heads: Array, members: Array, sizes: Array, biases: Array) -> Rows:
    """Return a copy of rows ``[c, S]`` of heads ``[c]``, one after the other."""
    owners = torch.from_numpy(heads).long()[:, None].expand(members.shape)
    held = torch.from_numpy(members).long().clamp(min=0)
    keys, values = (
        raw(source.take_of_heads(owners, held).view(-1, source.head_dim))
        for source in (tree.keys, tree.values)
    )
    places = np.arange(members.size, dtype=np.int32).reshape(members.shape)
    bases = np.zeros(len(members), np.int64)
    return Rows(0, places, sizes, keys, bases, values, bases, biases, 0)
