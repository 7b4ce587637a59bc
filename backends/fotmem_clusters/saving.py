"""Clusters as arrays, which are kept beside a memory."""

import torch
from torch import Tensor

from fotmem.errors import StorageError
from fotmem.stores import Arrays, GrowingRows
from fotmem_clusters.members import Members
from fotmem_clusters.summaries import Shape, Summaries
from fotmem_clusters.tree import Tree


def saved_tree(tree: Tree) -> Arrays:
    """Return a tree as arrays, for `loaded_tree`."""
    tensors = {"span": torch.tensor([tree.first, tree.end])}
    for name, members, known in _levels(tree):
        count = int(members.counts.max())
        tensors[f"{name}/members"] = members.table[:, :count]
        tensors[f"{name}/counts"] = members.counts
        for part, means in zip(("keys", "values"), known.first(count).means, strict=True):
            tensors[f"{name}/{part}"] = means.contiguous().view(torch.uint8)
        for part in ("spreads", "sizes", "known"):
            tensors[f"{name}/{part}"] = getattr(known, part)[:, :count]
        for part, sums in known.shape._asdict().items():
            tensors[f"{name}/shape/{part}"] = sums
    return {name: tensor.contiguous().cpu().numpy() for name, tensor in tensors.items()}


def loaded_tree(arrays: Arrays, keys: GrowingRows, values: GrowingRows, capacity: int) -> Tree:
    """Restore what `saved_tree` returned, of these keys and values.

    Raises
    ------
    KeyError, ValueError, RuntimeError, StorageError
        It cannot be a tree of them.
    """
    found = {name: torch.from_numpy(array.copy()).to(keys.device) for name, array in arrays.items()}
    first, end = found["span"].tolist()
    if not 0 <= first <= end <= len(keys):
        raise StorageError(f"clusters of rows {first} to {end} are not of {len(keys)} keys")
    tree = Tree(keys, values, capacity, first)
    tree.end = end
    for name, members, known in _levels(tree):
        _load_members(members, found[f"{name}/members"], found[f"{name}/counts"])
        _load_summaries(known, found, name, members)
    _require_each_once(tree.clusters, first, torch.full_like(tree.clusters.counts, end))
    _require_each_once(tree.groups, 0, tree.clusters.counts)
    owners, held = tree.groups.of(torch.arange(tree.groups.sizes.numel(), device=keys.device))
    there = held >= 0
    tree.parents = torch.zeros_like(tree.clusters.sizes, dtype=torch.long)
    groups = torch.arange(tree.groups.room, device=keys.device).repeat(len(tree.parents))
    tree.parents[owners[there], held[there]] = groups[:, None].expand_as(held)[there]
    return tree


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


def _load_summaries(
    known: Summaries, found: dict[str, Tensor], name: str, members: Members
) -> None:
    shape = members.sizes.shape
    dtype, dim = known.keys.dtype, known.keys.shape[2]
    known.keys, known.values = (
        found[f"{name}/{part}"].view(dtype).view(*shape, dim) for part in ("keys", "values")
    )
    known.spreads, known.sizes, known.known = (
        found[f"{name}/{part}"].view(shape) for part in ("spreads", "sizes", "known")
    )
    sums = (
        found[f"{name}/shape/{part}"].view(like.shape)
        for part, like in known.shape._asdict().items()
    )
    known.shape = Shape(*sums)
    numbers = (known.keys, known.values, known.spreads, known.sizes, known.known, *known.shape)
    if not all(bool(each.isfinite().all()) for each in numbers):
        raise StorageError("summaries of clusters are not finite")
    if bool((known.spreads < 0).any() or (known.sizes < 0).any()):
        raise StorageError("summaries of clusters are negative")


def _require_each_once(members: Members, first: int, ends: Tensor) -> None:
    """Raise `StorageError` unless each head has each number from `first` to its end once."""
    for table, end in zip(members.table, ends.tolist(), strict=True):
        held = table[table >= 0].sort().values
        expected = torch.arange(first, end, dtype=held.dtype, device=held.device)
        if not torch.equal(held, expected):
            raise StorageError(f"clusters do not hold each of {first} to {end} once")
