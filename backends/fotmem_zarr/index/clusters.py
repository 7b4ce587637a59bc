"""Clusters the keys of one head: by k-means, then by splitting what is too large."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fotmem.stores import moved_centres, nearest_centres
from fotmem_zarr.index.limits import CLUSTER

SAMPLE, ITERATIONS = 64, 8
"""Keys per centre that k-means samples, and its iterations."""


class ClusterSummary(NamedTuple):
    """What a search knows of clusters without reading them."""

    means: Tensor
    """``[..., D]``, float32."""
    variances: Tensor
    """``[..., D]``, float32: of each dimension, in units of ``spread ** 2``, so none overflows."""
    spread: Tensor
    """``[...]``, float32: the largest standard deviation of a dimension."""


def scaled(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Divide keys ``[n, D]`` by their largest entry, so that squares do not overflow."""
    size = keys.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    return keys / size, size


def cluster_keys(keys: Tensor) -> Tensor:
    """Cluster keys ``[n, D]``, float32, ``n >= 1``.

    Returns
    -------
    Tensor
        Shape ``[C, CLUSTER]``, int64: rows of `keys`, each once; -1 after the last of a cluster.
    """
    count = len(keys) // (2 * CLUSTER)
    if count < 2:
        return halve_keys(keys)
    nearest = nearest_centre(keys, learn_centres(keys, count))
    sizes = nearest.bincount().tolist()
    found = []
    for rows in nearest.argsort(stable=True).split(sizes):
        if len(rows):
            split = halve_keys(keys[rows])
            found.append(torch.where(split < 0, -1, rows[split]))
    return torch.cat(found)


def halve_keys(keys: Tensor) -> Tensor:
    """Cluster keys ``[n, D]``, float32, ``n >= 1``, into as few clusters as possible.

    The keys are split in two along their longest axis, again and again.

    Returns
    -------
    Tensor
        Shape ``[ceil(n / CLUSTER), CLUSTER]``, int64: rows of `keys`, -1 after the last.
    """
    keys, _ = scaled(keys)
    order = torch.arange(len(keys))
    wanted = math.ceil(len(keys) / CLUSTER)
    found = []
    while wanted:
        part = 1 << (wanted.bit_length() - 1)  # a power of two is split at once
        if part < wanted:
            order = order[_along(keys[order][None])[0]]
        cut = round(len(order) * part / wanted)
        found.append(_halved(keys, order[:cut], part))
        order, wanted = order[cut:], wanted - part
    return torch.cat(found)


def _halved(keys: Tensor, order: Tensor, parts: int) -> Tensor:
    """Split rows into `parts` (a power of two) clusters ``[parts, CLUSTER]``."""
    if parts == 1:
        return pad(order.flip(0)[None], (0, CLUSTER - len(order)), value=-1)
    size = math.ceil(len(order) / parts)
    # Some rows are repeated, so that all halves are equal; the copies are removed at the end.
    copies = size * parts - len(order)
    places = torch.arange(size * parts)[None]
    whole = keys[torch.cat([order, order[:copies]])]
    for _ in range(parts.bit_length() - 1):
        halves = _along(whole[places])
        places = places.gather(1, halves).reshape(2 * len(places), -1)
    places = places.masked_fill(places >= len(order), -1)
    places = places.sort(dim=1, descending=True).values
    rows = torch.where(places < 0, -1, order[places])
    return pad(rows, (0, CLUSTER - size), value=-1)


def _along(keys: Tensor) -> Tensor:
    """Sort sets of keys ``[b, m, D]``, each along a long direction of the set: ``[b, m]``."""
    keys = keys - keys.mean(1, keepdim=True)
    far = keys.square().sum(-1).argmax(1)
    direction = keys[torch.arange(len(keys)), far][..., None]  # [b, D, 1]
    direction = keys.transpose(1, 2) @ (keys @ direction)  # towards the longest axis
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-30)
    along: Tensor = keys @ direction
    return along.squeeze(-1).argsort(1, descending=True)


def summarise(keys: Tensor, rows: Tensor) -> ClusterSummary:
    """Summarise clusters of keys ``[n, D]``, float32; `rows` as from `cluster_keys`."""
    keys, size = scaled(keys)
    there = (rows >= 0)[..., None].float()
    count = there.sum(1).clamp(min=1)
    members = keys[rows.clamp(min=0)].mul_(there)  # in place: it is the largest temporary
    means = members.sum(1) / count
    variances = members.sub_(means[:, None]).square_().mul_(there).sum(1) / count
    widest = variances.amax(1, keepdim=True)
    relative = variances / widest.clamp(min=torch.finfo(torch.float32).tiny)
    return ClusterSummary(means * size, relative, widest.sqrt().squeeze(1) * size)


def learn_centres(keys: Tensor, count: int) -> Tensor:
    """Choose `count` centres ``[count, D]`` for keys ``[n, D]`` by k-means."""
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))
    sample, size = scaled(keys[order[: SAMPLE * count]].float())
    centres = sample[:count].clone()
    for _ in range(ITERATIONS):
        centres = moved_centres(sample, centres)
    return centres * size


def nearest_centre(keys: Tensor, centres: Tensor) -> Tensor:
    """Find the nearest centre of each key: ``[n]``, int64."""
    centres, size = scaled(centres)
    return nearest_centres((keys / size)[None], centres[None])[0]
