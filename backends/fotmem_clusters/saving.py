"""Clusters as arrays, which are kept beside a memory."""

import torch
from torch import Tensor

from fotmem.errors import StorageError
from fotmem.stores import Arrays
from fotmem_clusters.members import Members
from fotmem_clusters.shapes import MOST, Shapes
from fotmem_clusters.summaries import PER_NODE, Summaries
from fotmem_clusters.tree import Tree


def saved_tree(tree: Tree) -> Arrays:
    """Return a tree as arrays, for `load_tree`."""
    tensors = {
        "span": torch.tensor([tree.first, tree.end, tree.measured]),
        "origin": tree.summaries.origin,
        **{f"shapes/{part}": each for part, each in tree.shapes._asdict().items()},
    }
    for name, members, known in _levels(tree):
        count = int(members.counts.max())
        tensors[f"{name}/members"] = members.table[:, :count]
        tensors[f"{name}/counts"] = members.counts
        some = known.first(count)
        for part in ("keys", "values", "centres", *PER_NODE):
            tensors[f"{name}/{part}"] = getattr(some, part)
    tensors = {name: each.contiguous() for name, each in tensors.items()}
    halves = (torch.bfloat16, torch.float16)
    tensors = {
        name: each.view(torch.uint8) if each.dtype in halves else each
        for name, each in tensors.items()
    }
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def load_tree(tree: Tree, arrays: Arrays) -> None:
    """Restore what `saved_tree` returned to a tree of the same keys and values, without clusters.

    Raises
    ------
    KeyError, ValueError, RuntimeError, StorageError
        It cannot be a tree of them.
    """
    keys = tree.keys
    found = {name: torch.from_numpy(array.copy()).to(keys.device) for name, array in arrays.items()}
    first, end, measured = found["span"].tolist()
    if not 0 <= first <= end <= len(keys):
        raise StorageError(f"clusters of rows {first} to {end} are not of {len(keys)} keys")
    tree.first, tree.end, tree.measured = first, end, measured
    origin = found["origin"].view(tree.summaries.origin.shape)
    for name, members, known in _levels(tree):
        _load_members(members, found[f"{name}/members"], found[f"{name}/counts"])
        known.origin = origin
        begin = f"{name}/"
        own = {key.removeprefix(begin): each for key, each in found.items() if begin in key}
        _load_summaries(known, own, members)
    tree.shapes = _loaded_shapes(found, tree)
    _require_each_once(tree.clusters, first, torch.full_like(tree.clusters.counts, end))
    _require_each_once(tree.groups, 0, tree.clusters.counts)
    owners, held = tree.groups.of(torch.arange(tree.groups.sizes.numel(), device=keys.device))
    there = held >= 0
    tree.parents = torch.zeros_like(tree.clusters.sizes, dtype=torch.int32)
    groups = torch.arange(tree.groups.room, dtype=torch.int32, device=keys.device).repeat(
        len(tree.parents)
    )
    tree.parents[owners[there], held[there]] = groups[:, None].expand_as(held)[there]


def _levels(tree: Tree) -> tuple[tuple[str, Members, Summaries], ...]:
    return ("clusters", tree.clusters, tree.summaries), ("groups", tree.groups, tree.outlines)


def _load_members(members: Members, table: Tensor, counts: Tensor) -> None:
    """Take over tables ``[H, C, S]`` whose rows are filled from the left."""
    there = table >= 0
    sizes = there.sum(2, dtype=torch.int32)
    columns = torch.arange(members.capacity, device=table.device)
    nodes = torch.arange(table.shape[1], device=table.device)
    heads = len(members.counts)
    if table.shape != (heads, table.shape[1], members.capacity) or counts.shape != (heads,):
        raise StorageError(f"clusters have the shape {list(table.shape)}")
    if not torch.equal(there, columns < sizes[..., None]):
        raise StorageError("clusters have gaps")
    if int(counts.min()) < 1 or int(counts.max()) != table.shape[1]:
        raise StorageError("clusters are miscounted")
    if bool(there[nodes >= counts[:, None]].any()):
        raise StorageError("there are more clusters than were counted")
    members.table, members.sizes, members.counts = table, sizes, counts


def _load_summaries(known: Summaries, found: dict[str, Tensor], members: Members) -> None:
    """Take over what is known of the nodes that `members` has."""
    shape, dtype = members.sizes.shape, known.keys.dtype
    heads, dim = len(known.keys), known.keys.shape[2]
    kinds = found["centres"].shape[1]
    known.keys, known.values = (_as(found[part], dtype, *shape, dim) for part in ("keys", "values"))
    for name in PER_NODE:
        setattr(known, name, _as(found[name], getattr(known, name).dtype, *shape))
    known.centres = _as(found["centres"], torch.float32, heads, kinds, dim)
    if not 1 <= kinds <= MOST or int(known.kinds.max()) >= kinds:
        raise StorageError("there are more kinds of clusters than were counted")
    counted = (known.spreads, known.squares, known.sizes)
    _require_finite(known.origin, known.centres, *known.means, *counted, least=counted)


def _loaded_shapes(found: dict[str, Tensor], tree: Tree) -> Shapes:
    """Return the shapes of the kinds that the nodes of a tree are of."""
    heads, _, dim = tree.summaries.keys.shape
    kinds = sum(known.centres.shape[1] for _, _, known in _levels(tree))
    shapes = Shapes(
        axes=_as(found["shapes/axes"], torch.float32, heads, dim, dim),
        variances=_as(found["shapes/variances"], torch.float32, heads, kinds, dim),
        slopes=_as(found["shapes/slopes"], tree.keys.dtype, heads, kinds * dim, dim),
    )
    _require_finite(*shapes, least=(shapes.variances,))
    return shapes


def _require_finite(*numbers: Tensor, least: tuple[Tensor, ...]) -> None:
    """Raise `StorageError` unless all numbers are finite, and some of them not negative."""
    if not all(bool(each.isfinite().all()) for each in numbers):
        raise StorageError("summaries of clusters are not finite")
    if any(bool((each < 0).any()) for each in least):
        raise StorageError("summaries of clusters are negative")


def _as(tensor: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    """Return what was saved of a tensor of this dtype and shape."""
    return tensor.view(dtype).view(shape)


def _require_each_once(members: Members, first: int, ends: Tensor) -> None:
    """Raise `StorageError` unless each head has each number from `first` to its end once."""
    for table, end in zip(members.table, ends.tolist(), strict=True):
        held = table[table >= 0].sort().values
        expected = torch.arange(first, end, dtype=held.dtype, device=held.device)
        if not torch.equal(held, expected):
            raise StorageError(f"clusters do not hold each of {first} to {end} once")
