"""What compiled functions see of a tree: its arrays, as NumPy has them."""

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fotmem_clusters.entries import bounds_of
from fotmem_clusters.summaries import Summaries
from fotmem_clusters.tree import GROUP
from fotmem_clusters.view import Viewer

Array = np.ndarray[Any, Any]
LOG_SIZE, BOUND, SPREAD, KIND = range(4)
"""Where facts of a node are."""
_SHOWN: "WeakKeyDictionary[Viewer, Shown]" = WeakKeyDictionary()


class Nodes(NamedTuple):
    """Clusters, or groups, of each head."""

    counts: Array
    """Shape ``[H]``, int64: nodes of each head."""
    keys: Array
    """Shape ``[H, room, D]``: mean keys, from the origin; as `raw` has them."""
    values: Array
    """Shape ``[H, room, D]``: mean values."""
    facts: Array
    """Shape ``[H, room, 4]``, float32: of each, log of the number of keys, each times the exp of
    its bias; deviations from which the gain is linear; spread; kind. They are looked up together.
    """


class Shown(NamedTuple):
    """A tree."""

    clusters: Nodes
    groups: Nodes
    table: Array
    """Shape ``[H, room, GROUP]``, int32: the clusters of each group."""
    sizes: Array
    """Shape ``[H, room]``, int32: the keys of each cluster."""
    members: Array
    """Shape ``[H, room, S]``, int32: the rows of each cluster, -1 after the last."""
    origin: Array
    """Shape ``[H, D]``, float32."""
    axes: Array
    """Shape ``[H, D, D]``, float32."""
    variances: Array
    """Shape ``[H, M, D]``, float32: of kinds of clusters, then of groups."""
    slopes: Array
    """Shape ``[H, M * D, D]``, as `raw` has them."""
    value_norms: Array
    """Shape ``[H]``, float32."""


def shown(viewer: Viewer) -> Shown:
    """Return what compiled functions see of what a viewer shows; nothing large is copied."""
    found = _SHOWN.get(viewer)
    if found is None:
        found = _SHOWN[viewer] = _shown(viewer)
    return found


def shown_bytes(viewer: Viewer) -> int:
    """Return the bytes of what is kept for compiled functions, beside the tree."""
    found = _SHOWN.get(viewer)
    return 0 if found is None else found.clusters.facts.nbytes + found.groups.facts.nbytes


def _shown(viewer: Viewer) -> Shown:
    tree = viewer.tree
    kinds = tree.summaries.centres.shape[1]
    return Shown(
        clusters=_nodes(tree.summaries, tree.clusters.counts, viewer.log_sizes, torch.inf, 0),
        groups=_nodes(tree.outlines, tree.groups.counts, viewer.group_log_sizes, GROUP, kinds),
        table=tree.groups.table.numpy(),
        sizes=tree.clusters.sizes.numpy(),
        members=tree.clusters.table.numpy(),
        origin=raw(tree.summaries.origin[:, 0]),
        axes=raw(tree.shapes.axes),
        variances=raw(tree.shapes.variances),
        slopes=raw(tree.shapes.slopes),
        value_norms=viewer.value_norms.view(-1).numpy(),
    )


def _nodes(
    known: Summaries, counts: Tensor, log_sizes: Tensor, most: float, first_kind: int
) -> Nodes:
    count = log_sizes.shape[1]
    bounds = bounds_of(known.sizes[:, :count], most)
    spreads, kinds = known.spreads[:, :count], known.kinds[:, :count].float() + first_kind
    facts = torch.stack([log_sizes, bounds, spreads, kinds], 2)
    return Nodes(counts.numpy(), raw(known.keys), raw(known.values), facts.numpy())


def raw(tensor: Tensor) -> Array:
    """View a tensor as an array, C-contiguous; bfloat16 as uint16."""
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
